"""`--ranks`: the options that start a command several times, side by side, and the start itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from distill_cli.cli.begun import kept_file
from distill_cli.cli.terminal import (
    DISPLAYS,
    INTERRUPTED,
    console,
    escape,
    guard,
    leave,
    say,
    say_interrupted,
    say_stopped,
)
from distill_cli.errors import UsageError
from distill_cli.launched import by_option, go_on, place

# More processes than this a core share it in turns so short that none gets anywhere.
MOST_A_CORE = 8
# What ranks import: all of a training.
IMPORTS = ("distill_cli.cli.launching", "distill_cli.cli.app", "distill_cli.pipeline.run.stages")

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

    def address(self) -> tuple[str, int] | None:
        """Host and port where machines meet; None of one machine.

        Raises:
            UsageError: It is none.
        """
        if self.rendezvous is None:
            return None
        host, _, port = self.rendezvous.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"--rendezvous is HOST:PORT, as node0:29500, not '{self.rendezvous}'")
        return host.strip("[]"), int(port)


def cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(
    flags: RankFlags, *, out: str | None, device: str, threads: int | None, grace: float
) -> NoReturn:
    """Starts this command line as several ranks, and ends with their exit code.

    Args:
        flags: How many, and where.
        out: The folder of the command, where it names one.
        device: Its device.
        threads: Its threads; None to share the cores out.
        grace: Seconds that a stop may take.

    Raises:
        DistillError: They cannot be started.
    """
    address = flags.address()
    if threads is None:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // flags.ranks)))
    if address is None and Path("/sys/class/net/lo").exists():
        # What ranks of one machine exchange does not leave it, nor needs a name that others know.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    from distill_cli import launcher

    launcher.prepare(IMPORTS)
    _check_gpus(flags, device)
    node = flags.node_rank or 0
    launch = launcher.Launcher(
        machines=launcher.Machines(
            ranks=flags.ranks, nodes=flags.nnodes, node=node, address=address
        ),
        work=work,
        args=sys.argv[1:],
        restarts=flags.max_restarts,
        grace=grace,
        state=lambda: _state(out),
        tell=lambda text: say(escape(text)),
    )
    ended = launch.run()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if ended.line is not None and ended.code >= 128:
        say_stopped(ended.line)
    elif ended.line is not None:
        say(f"[bold red]error:[/bold red] {escape(ended.line)}")
    raise typer.Exit(ended.code)


def _check_gpus(flags: RankFlags, device: str) -> None:
    """Refuses more ranks than GPUs, where GPUs do the work.

    Raises:
        UsageError: With the numbers.
    """
    import torch

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if 0 < gpus < flags.ranks:
        raise UsageError(
            f"--ranks {flags.ranks} is more than the GPUs of this machine, {gpus}",
            hint="A rank has a GPU of its own; --device cpu computes without",
        )


def _state(out: str | None) -> object:
    """Something that is another as soon as a run has begun in its folder."""
    kept = None if out is None else kept_file(Path(out))
    if kept is None:
        return None
    status = kept.stat()
    return kept.name, status.st_ino, status.st_mtime_ns


def work(args: list[str], goes_on: bool) -> None:
    """What each rank does: the same command line.

    Args:
        args: Without the program.
        goes_on: Whether an earlier attempt has begun what is gone on with.
    """
    from distill_cli.launcher import begin_rank

    begin_rank()
    signal.signal(signal.SIGTERM, _leave)
    sys.argv = ["distill", *args]
    if goes_on:
        go_on()
    guard()
    from distill_cli.cli.app import run

    try:
        run()
    except KeyboardInterrupt:
        say_interrupted()
        leave(INTERRUPTED)
    finally:
        # It waits for the others from here on, who may fail.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: object) -> None:
    """SIGTERM where no training is: an end without a word, which the command that started it has."""
    end: Callable[[], None]
    for end in DISPLAYS:
        end()
    console("stderr").show_cursor()
    os._exit(128 + number)
