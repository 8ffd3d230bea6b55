"""Folders that all ranks must see, on whatever machine they are."""

from __future__ import annotations

import socket
from pathlib import Path

from distill_cli.errors import UsageError
from distill_cli.files import LOCK
from distill_cli.ranks import Ranks


def check_shared(ranks: Ranks, folder: Path, why: str) -> None:
    """Refuses a folder, whose lock rank 0 holds, that some rank does not see.

    Args:
        ranks: The ranks.
        folder: The folder.
        why: What it is needed for, as a clause.

    Raises:
        UsageError: With the first rank that does not.
    """
    if ranks.alone:
        return
    for number, (seen, host) in enumerate(
        ranks.values(((folder / LOCK).is_file(), socket.gethostname()))
    ):
        if not seen:
            raise UsageError(
                f"rank {number} on {host} does not see {folder}, {why}",
                hint="Put --out into a folder that all machines share",
            )
