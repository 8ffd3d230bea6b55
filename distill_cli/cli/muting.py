"""Silence of the ranks for which another one speaks."""

from __future__ import annotations

import os


class _Kept:
    """Where stderr went before this process was muted."""

    stderr: int | None = None


def mute() -> None:
    """Has all that this process writes go nowhere, libraries included: another rank speaks for all."""
    _Kept.stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    # Where errors are looked for, a traceback is of any rank.
    if not os.environ.get("DISTILL_DEBUG"):
        os.dup2(nowhere, 2)
    os.close(nowhere)


def unmute() -> None:
    """Has stderr be heard again, for a last line."""
    if _Kept.stderr is not None:
        os.dup2(_Kept.stderr, 2)
