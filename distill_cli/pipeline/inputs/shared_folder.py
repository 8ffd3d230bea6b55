"""Folders that all ranks must see, on whatever machine they are."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from distill_cli.errors import UsageError
from distill_cli.files import LOCK
from distill_cli.ranks import Ranks

# Seconds for which a disk of a network may show a folder as it was before.
PATIENCE = 20.0


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
    # Rank 0 holds the lock once it comes here.
    ranks.values(None)
    deadline = time.monotonic() + PATIENCE
    while not (seen := (folder / LOCK).is_file()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for number, (sees, host) in enumerate(ranks.values((seen, socket.gethostname()))):
        if not sees:
            raise UsageError(
                f"rank {number} on {host} does not see {folder}, {why}",
                hint="Put --out into a folder that all machines share",
            )
