"""`--ranks` and its kin: the options that start a command several times, side by side."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from distill_cli.errors import UsageError
from distill_cli.launched import by_option, place

# More processes than this a core share it in turns so short that none gets anywhere.
MOST_A_CORE = 8
# Linux's question for the address of an interface, and where the address stands in the answer.
_ADDRESS_OF, _ADDRESS = 0x8915, slice(20, 24)

Ranks = Annotated[
    int,
    typer.Option(
        "--ranks", min=1, help="Processes that share each batch.", rich_help_panel="Ranks"
    ),
]
Nodes = Annotated[
    int,
    typer.Option("--nnodes", min=1, help="Machines, each given --ranks.", rich_help_panel="Ranks"),
]
Node = Annotated[
    int | None,
    typer.Option("--node-rank", min=0, help="This machine, from 0.", rich_help_panel="Ranks"),
]
Rendezvous = Annotated[
    str | None,
    typer.Option(
        "--rendezvous", metavar="HOST:PORT", help="A port of machine 0.", rich_help_panel="Ranks"
    ),
]
Restarts = Annotated[
    int,
    typer.Option(
        "--max-restarts",
        min=0,
        help="Starts anew after a crash, to go on.",
        rich_help_panel="Ranks",
    ),
]


@dataclass(frozen=True, kw_only=True)
class RankFlags:
    """How a command is started; no part of what it makes.

    Attributes:
        ranks: Processes on this machine.
        nnodes: Machines.
        node_rank: The number of this one.
        rendezvous: Where they meet.
        max_restarts: Starts anew after a crash.
    """

    ranks: Ranks = 1
    nnodes: Nodes = 1
    node_rank: Node = None
    rendezvous: Rendezvous = None
    max_restarts: Restarts = 0

    @property
    def several(self) -> bool:
        """Whether this process is to start others, and is none of them."""
        return self.ranks * self.nnodes > 1 and not by_option()

    def check(self, *, out: str | None, device: str) -> None:
        """Refuses what does not go together, or makes no sense on this machine.

        Args:
            out: The folder of the command, where it names one.
            device: Its device.

        Raises:
            UsageError: With the reason.
        """
        if by_option():
            return
        alone = self.nnodes == 1
        if alone and (self.node_rank is not None or self.rendezvous is not None):
            raise UsageError("--node-rank and --rendezvous are for --nnodes of 2 or more")
        if not alone and (self.node_rank is None or self.rendezvous is None):
            raise UsageError(
                "--nnodes needs --node-rank and --rendezvous",
                hint="As --nnodes 2 --node-rank 0 --rendezvous HOST:29500; on the second, rank 1",
            )
        if self.node_rank is not None and self.node_rank >= self.nnodes:
            raise UsageError(f"--node-rank is from 0 to {self.nnodes - 1}, not {self.node_rank}")
        if self.max_restarts and self.ranks * self.nnodes == 1:
            raise UsageError("--max-restarts is for --ranks of 2 or more")
        if self.max_restarts and out is None:
            raise UsageError("--max-restarts needs --out", hint="It goes on in the run's folder")
        if self.several and place().ranks > 1:
            raise UsageError(
                "--ranks under torchrun would start ranks of ranks",
                hint="Leave --ranks out, or start without torchrun",
            )
        if self.several and device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"--device {device} is one device, and each rank needs its own",
                hint="Leave --device out",
            )
        if self.ranks > MOST_A_CORE * cores():
            raise UsageError(
                f"--ranks {self.ranks} is more than {MOST_A_CORE} processes a core on {cores()} cores",
                hint=f"At most {MOST_A_CORE * cores()}; one a core, or one a GPU, is fastest",
            )

    def address(self) -> tuple[str, int]:
        """Host and port where machines meet; of one machine any that is free.

        Raises:
            UsageError: It is none.
        """
        if self.rendezvous is None:
            return "127.0.0.1", 0
        host, _, port = self.rendezvous.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"--rendezvous is HOST:PORT, as node0:29500, not '{self.rendezvous}'")
        return host.strip("[]"), int(port)


def cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def interface_to(host: str) -> str | None:
    """The network interface that a machine is reached by; None where that is not known.

    gloo would take the one that this machine's name means, which is often one that no other reaches.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent.
        probe.connect((host, 9))
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                asked = struct.pack("256s", name.encode())
                if fcntl.ioctl(probe, _ADDRESS_OF, asked)[_ADDRESS] == own:
                    return name
    return None
