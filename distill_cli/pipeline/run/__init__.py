"""One training run, or several: by seeds, in stages."""
