"""Several ranks of one command as forked children of a test, which meet on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from tests.processes import Process, Written, fork, typed


def port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number: int = listener.getsockname()[1]
        return number


def placed(rank: int, ranks: int, at: int) -> Callable[[], None]:
    """A `before`: what a launcher tells a process of its rank, and the port where the ranks meet."""

    def place() -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(at)}

    return place


def started(count: int, does: Callable[[], None]) -> list[Process]:
    """Children that each do the same as another rank."""
    at = port()
    return [fork(does, before=placed(rank, count, at)) for rank in range(count)]


def by_ranks(count: int, *args: object) -> list[Written]:
    """`distill ARGS` by so many ranks, to their ends."""
    return [process.end() for process in started(count, typed(args))]
