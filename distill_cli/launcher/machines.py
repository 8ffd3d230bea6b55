"""The machines of one launch: where they meet, and that they all are there."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill_cli import __version__, meeting
from distill_cli.errors import InternalError, UsageError, counted

# Seconds that machines wait for each other before an attempt, for a store that is there, and between looks.
MUSTER, ANSWER, _LOOK = 600.0, 30.0, 0.1


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Which ranks are started where.

    Attributes:
        ranks: Ranks of this machine.
        nodes: The number of machines.
        node: This one's number, from 0.
        address: Host and port where they meet, the port of one machine 0: any that is free.
    """

    ranks: int
    nodes: int = 1
    node: int = 0
    address: tuple[str, int] = ("127.0.0.1", 0)

    def store(self) -> Any:
        """The store where all machines and ranks meet; kept by node 0.

        Raises:
            UsageError: The port is taken, or there is no such host.
            InternalError: Node 0 does not come.
        """
        host, port = self.address
        if self.node == 0:
            return meeting.store_at(host, port, leads=True, timeout=ANSWER)
        _until(lambda: _listens(host, port), f"nobody answers at {host}:{port}, where machine 0 is")
        return meeting.store_at(host, port, leads=False, timeout=ANSWER)

    def muster(
        self, store: Any, attempt: int, *, begun: bool, tell: Callable[[str], object]
    ) -> bool:
        """Waits until all machines are here for an attempt.

        Args:
            store: The store of all.
            attempt: Its number, from 0.
            begun: Whether an earlier one has begun something, as this machine sees it.
            tell: Says a line to a person.

        Returns:
            Whether an earlier attempt has begun what this one goes on with, as node 0 sees it.

        Raises:
            UsageError: Their commands do not fit each other.
            InternalError: Some do not come.
        """
        nodes, node = self.nodes, self.node
        own = {"host": socket.gethostname(), "pid": os.getpid(), "nodes": nodes, "begun": begun}
        own["version"] = __version__
        keys = [f"muster/{attempt}/{number}" for number in range(nodes)]
        kept = json.loads(store.compare_set(keys[node], "", json.dumps(own)))
        if (kept["host"], kept["pid"]) != (own["host"], own["pid"]):
            raise UsageError(
                f"--node-rank {node} is taken by {kept['host']}",
                hint=f"Give each machine a number of its own, from 0 to {nodes - 1}",
            )
        missing = [number for number in range(nodes) if not store.check([keys[number]])]
        if missing:
            tell(f"waiting for {counted(len(missing), 'more machine')}")
        numbers = ", ".join(map(str, missing))
        _until(lambda: store.check(keys), f"not all machines have come: of node rank {numbers}")
        first = json.loads(store.get(keys[0]))
        for key, option in (("nodes", "--nnodes"), ("version", "version")):
            if first[key] != own[key]:
                raise UsageError(
                    f"machine 0, {first['host']}, has {option} {first[key]}, and this one {own[key]}",
                    hint="Give every machine the same command and version of distill",
                )
        return bool(first["begun"])


def _until(happens: Callable[[], bool], failing: str) -> None:
    """Waits for other machines, interruptible by Ctrl-C.

    Raises:
        InternalError: They do not come in time.
    """
    until = time.monotonic() + MUSTER
    while True:
        try:
            if meeting.bounded(happens, ANSWER):
                return
        except RuntimeError:
            raise InternalError(f"machine 0 ended: {failing}") from None
        if time.monotonic() > until:
            raise InternalError(f"{failing}, within {MUSTER:g} s")
        time.sleep(_LOOK)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_LOOK * 10):
            return True
    except socket.gaierror as error:
        raise UsageError(f"--rendezvous: there is no machine {host}: {error.strerror}") from None
    except OSError:
        return False
