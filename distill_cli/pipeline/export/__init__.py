"""A trained network for elsewhere, compared with what it was made of before it is handed over."""
