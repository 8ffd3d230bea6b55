"""Teachers: live networks, caches and mixtures, behind one protocol."""
