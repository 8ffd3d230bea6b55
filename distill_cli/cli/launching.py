"""Starts a command as several ranks, and what each of them does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from distill_cli.cli.attempts import state_of
from distill_cli.cli.rank_flags import RankFlags, cores, interface_to
from distill_cli.cli.terminal import (
    DISPLAYS,
    INTERRUPTED,
    console,
    escape,
    guard,
    leave,
    mute_follower,
    say,
    say_interrupted,
    say_stopped,
)
from distill_cli.errors import UsageError
from distill_cli.launched import go_on

# Ranks are forked from a process of one thread that has imported all of a training once.
START = "forkserver"
IMPORTS = (
    *("distill_cli.cli.launching", "distill_cli.cli.app", "distill_cli.pipeline.run.stages"),
    *("distill_cli.pipeline.labels.dump", "distill_cli.pipeline.evaluate"),
    "torch.distributed.elastic.multiprocessing.api",
)


def start(
    flags: RankFlags,
    *,
    out: str | None,
    device: str,
    threads: int | None = None,
    grace: float = 30.0,
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
    if interface := interface_to(address[0]):
        # What ranks of one machine exchange does not leave it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if not os.environ.get("DISTILL_DEBUG"):
        # torch's own lines are of no use to a person.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Ranks have the environment that is there now.
    _prepare()
    from distill_cli import launcher

    _check_gpus(flags, device)
    machines = launcher.Machines(
        ranks=flags.ranks, nodes=flags.nnodes, node=flags.node_rank or 0, address=address
    )
    launch = launcher.Launcher(
        machines=machines,
        work=work,
        args=sys.argv[1:],
        start_method=START,
        restarts=flags.max_restarts,
        grace=grace,
        state=lambda: state_of(out),
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


def _prepare() -> None:
    """Has the process that ranks are forked from import everything, beside this one."""
    if START == "forkserver":
        from multiprocessing import forkserver, set_forkserver_preload

        set_forkserver_preload(list(IMPORTS))
        forkserver.ensure_running()


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
    mute_follower()
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
