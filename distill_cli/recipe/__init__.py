"""Recipes: the one place where an option exists. Torch-free."""
