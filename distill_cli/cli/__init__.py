"""The command line: options → Recipe → pipeline → rendering. Torch-free at import."""
