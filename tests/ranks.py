"""Several ranks of one command as forked children of a test, which meet on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from benchmarks.rank_kills import ranks_of as below
from distill_cli.cli import launching
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


def launch(*args: object, before: Callable[[], object] = lambda: None) -> Process:
    """`distill ARGS` with --ranks in a child, whose ranks are forked from it: it has imported everything."""

    def prepare() -> None:
        launching.START = "fork"
        before()

    return fork(typed(args), before=prepare)


def on_rank(rank: int, does: Callable[[], object]) -> Callable[[], None]:
    """A `before` of a launched command: does something on one of its ranks, before all else there."""

    def patch() -> None:
        plain = launching.work

        def work(args: list[str], goes_on: bool) -> None:
            if os.environ["RANK"] == str(rank):
                does()
            plain(args, goes_on)

        launching.work = work

    return patch


def ranks_of(process: Process) -> list[int]:
    """The processes of a launched command's ranks, by rank: each leads a session of its own."""
    return below(process.pid)
