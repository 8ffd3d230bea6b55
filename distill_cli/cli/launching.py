"""Starts a command as several ranks, and what each of them does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import typer

from distill_cli.cli.begun import kept_file
from distill_cli.cli.rank_flags import RankFlags, cores
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
from distill_cli.errors import DistillError, UsageError
from distill_cli.launched import UNMENDED, by_option, go_on, goes_on
from distill_cli.readers.json_values import read_json
from distill_cli.report.run_folder import OUTCOME

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
    _prepare()
    from distill_cli import launcher

    _check_gpus(flags, device)
    if interface := launcher.interface_to(address[0]):
        # What ranks of one machine exchange does not leave it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
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


def _prepare() -> None:
    """Has the process that ranks are forked from import everything, beside this one."""
    if START == "forkserver":
        from multiprocessing import forkserver, set_forkserver_preload

        set_forkserver_preload(list(IMPORTS))
        forkserver.ensure_running()


class EndedBeforeError(DistillError):
    """The attempt before ended in a way that another one would."""


def check_before(out: str | None) -> None:
    """Ends an attempt of torchrun's at once where the one before ended by what is not the machine's fault.

    Args:
        out: The folder of the command, where it names one.

    Raises:
        EndedBeforeError: With its code and message.
    """
    if by_option() or not goes_on() or out is None:
        return
    file = Path(out) / OUTCOME
    ended = read_json(file) if file.is_file() else None
    if isinstance(ended, dict) and ended.get("code") in UNMENDED:
        error = EndedBeforeError(f"{ended.get('message')} (so the attempt before ended)")
        error.exit_code = int(ended["code"])
        raise error


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
