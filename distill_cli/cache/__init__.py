"""Soft labels on disk: frozen teachers' logits of every view, stored once and read by row."""
