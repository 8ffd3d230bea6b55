"""Soft labels: dumping, importing, estimates of cost, and replays."""
