"""Soft labels: dumped, imported, priced and replayed."""
