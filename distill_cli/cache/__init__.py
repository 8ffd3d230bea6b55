"""The soft-label cache: what teachers said of every view, on disk."""
