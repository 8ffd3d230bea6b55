"""Whether this process writes at all: of several ranks one does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class _Hand:
    """State of this process."""

    writes = True


def writes() -> bool:
    """Whether what is asked to be written is written; else it is left to another process."""
    return _Hand.writes


def leave_to_others() -> None:
    """Has this process write nothing from now on: every request to write does nothing at all."""
    _Hand.writes = False


@contextmanager
def by_every_rank() -> Iterator[None]:
    """Has every process write what is its own, while this lasts."""
    before, _Hand.writes = _Hand.writes, True
    try:
        yield
    finally:
        _Hand.writes = before
