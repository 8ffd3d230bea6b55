"""Readers of files that others may have written: within bounds, and any fault as one error.

Each format has one reader here. It bounds size, depth and number of values before it builds any of
them, and turns whatever is wrong into one error that names the file and, where there is one, the line.
"""
