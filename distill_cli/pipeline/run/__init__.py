"""One training run, or several in stages."""
