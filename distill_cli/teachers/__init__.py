"""Teachers under one protocol: live networks, caches and mixtures."""
