"""Soft labels on disk: what frozen teachers said of every view, stored once and read by row."""
