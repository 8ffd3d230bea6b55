"""The batch that nobody asks for: it goes by the number of images."""

from __future__ import annotations

# The largest power of two from LEAST to MOST that makes STEPS steps an epoch.
MOST, LEAST, STEPS = 128, 8, 20


def default_batch(rows: int) -> int:
    """The largest power of two up to 128 of which there are 20 in an epoch, not below 8.

    Args:
        rows: Number of images to train on, at least 1; no batch is larger.
    """
    size = MOST
    while rows // size < STEPS and size > LEAST:
        size //= 2
    return min(size, rows)
