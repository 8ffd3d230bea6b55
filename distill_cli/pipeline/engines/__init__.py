"""Tasks of engines that people run already: Ray, Slurm. Nothing here knows what a task does."""
