"""The command line in a process that a test may signal, kill, starve of disk or cut off its pipe.

It is a forked child of this process, which has everything imported: a test takes no longer than what
it tests. To the kernel such a child is a process like any other. Tests of what a start from a shell
does besides (imports, Python's own beginning and end) start Python: `from_shell`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import IO, NoReturn, Protocol

import pytest

# What hangs is killed after so many seconds, with all that it started. Imports alone take a minute
# where many tests share a processor.
PATIENCE = 300.0
ROOT = Path(__file__).parents[1]
DEVICE = os.environ.get("DISTILL_TEST_DEVICE", "cpu")


@dataclass(frozen=True)
class Written:
    """How a command ended, and the bytes in the files that its streams went to."""

    code: int
    out: bytes
    err: bytes


class Running(Protocol):
    """A process that goes on by itself, its streams in files; alone in its process group."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, or what killed it as a negative number; None while it runs."""


@dataclass
class Child:
    """A forked child."""

    pid: int
    code: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code


@dataclass
class Process:
    """Something that runs, and where its streams go."""

    running: Running
    out: IO[bytes]
    err: IO[bytes]
    deadline: float

    @property
    def pid(self) -> int:
        """Its number, which is that of its group too."""
        return self.running.pid

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.running.poll() is not None

    def send(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def until(self, happened: Callable[[], bool], what: str) -> None:
        """Waits while it runs; a test fails if it ends before something happened."""
        while not happened():
            if self.ended and not happened():
                raise AssertionError(f"ended before {what}: {self.end()}")
            self.pause(what)

    def end(self) -> Written:
        """Waits until it ends by itself."""
        while not self.ended:
            self.pause("the end")
        found = []
        for stream in (self.out, self.err):
            stream.seek(0)
            found.append(stream.read())
            stream.close()
        code = self.running.poll()
        assert code is not None
        return Written(code, *found)

    def pause(self, what: str) -> None:
        """A moment's wait for something; after too many it is killed, and the test fails."""
        if time.monotonic() > self.deadline:
            os.killpg(self.pid, signal.SIGKILL)
            self.deadline += PATIENCE
            raise AssertionError(f"{what} was waited for too long: {self.end()}")
        time.sleep(0.005)


def skip_beside_gpu() -> None:
    """Skips a test that would fork from a process that has used a GPU, which no child can."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and DEVICE != "cpu":
        pytest.skip("a forked child has no GPU")


def fork(
    does: Callable[[], None],
    *,
    before: Callable[[], object] = lambda: None,
    encoding: str = "utf-8",
    limit: int | None = None,
    out: int | None = None,
    err: int | None = None,
) -> Process:
    """A child that does something and ends; its exit code is 0, that of SystemExit, or 99.

    Args:
        does: What it does.
        before: Called in the child first.
        encoding: Of stdout and stderr.
        limit: How many bytes a file that it writes may grow to: what is larger finds the disk full.
        out: Where stdout goes, instead of into a file.
        err: Where stderr goes, instead of into a file.
    """

    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        before()

    skip_beside_gpu()
    files = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
    with warnings.catch_warnings():
        # Python warns of a fork beside threads; the child waits for none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(files[0].fileno() if out is None else out, 1)
        os.dup2(files[1].fileno() if err is None else err, 2)
        for descriptor in {out, err} - {None, 1, 2}:
            os.close(descriptor)
        in_child(does, prepare, encoding)
    return Process(Child(pid), *files, time.monotonic() + PATIENCE)


def in_child(
    does: Callable[[], None], before: Callable[[], object] = lambda: None, encoding: str = "utf-8"
) -> NoReturn:
    """What a child does, from its fork to its end: never more of the test."""
    code: object = 99
    try:
        # Whoever starts the tests in the background may have them ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        os.environ.pop("DISTILL_DEBUG", None)
        before()
        does()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except OSError:
            code = 120
        finally:
            os._exit(code if isinstance(code, int) else 98)


def typed(args: Sequence[object]) -> Callable[[], None]:
    """What `distill ARGS` does, as from a shell."""

    def does() -> None:
        sys.argv = ["distill", *(str(arg) for arg in args)]
        from distill_cli.__main__ import main

        main()

    return does


def start(
    *args: object,
    before: Callable[[], object] = lambda: None,
    encoding: str = "utf-8",
    limit: int | None = None,
    out: int | None = None,
    err: int | None = None,
) -> Process:
    """`distill ARGS` in a child; the rest is as for `fork`."""
    options = {"before": before, "encoding": encoding, "limit": limit, "out": out, "err": err}
    return fork(typed(args), **options)


def in_files(
    *args: object, encoding: str = "utf-8", before: Callable[[], object] = lambda: None
) -> Written:
    """`distill ARGS` with stdout and stderr in files, to its end."""
    return start(*args, encoding=encoding, before=before).end()


def from_shell(*args: object) -> Process:
    """`python -m distill_cli ARGS`, which imports everything."""
    skip_beside_gpu()
    files = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
    running = subprocess.Popen(
        [sys.executable, "-m", "distill_cli", *(str(arg) for arg in args)],
        stdout=files[0],
        stderr=files[1],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    return Process(running, *files, time.monotonic() + PATIENCE)


# What stands for `distill` in a script: it leaves its arguments to the test and passes on what comes.
ASKS = """#!/usr/bin/env bash
case "$1" in {started}) exec {command} "$@" ;; esac
cd {box}
printf '%s\\0' "$@" >asking
mv asking asked
until [ -e code ]; do sleep 0.01; done
cat out
cat err >&2
code=$(cat code)
rm code
exit "$code"
"""


def script(path: Path, *args: object, started: Sequence[str], box: Path) -> Written:
    """A script of bash, whose `distill` is a child of this process.

    Args:
        started: The verbs for which it starts Python instead, as it would elsewhere.
        box: An empty folder to work with.
    """
    command = box / "bin" / "distill"
    command.parent.mkdir(parents=True)
    here = Path(sys.executable).parent
    verbs = "|".join(started)
    command.write_text(ASKS.format(started=verbs, command=here / "distill", box=box))
    command.chmod(0o755)
    # The script's own `python` is this one too.
    places = (command.parent, here, os.environ["PATH"])
    skip_beside_gpu()
    files = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
    running = subprocess.Popen(
        ["bash", path, *(str(arg) for arg in args)],
        stdout=files[0],
        stderr=files[1],
        env={**os.environ, "PATH": ":".join(map(str, places)), "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    process = Process(running, *files, time.monotonic() + PATIENCE)
    while not process.ended:
        if (box / "asked").exists():
            asked = (box / "asked").read_text().split("\0")[:-1]
            (box / "asked").unlink()
            ended = in_files(*asked)
            (box / "out").write_bytes(ended.out)
            (box / "err").write_bytes(ended.err)
            (box / "ending").write_text(str(ended.code))
            (box / "ending").rename(box / "code")
        process.pause("the end of the script")
    return process.end()


# What a child is told before.


def stuck(module: str, name: str, *, at: int = 1) -> Callable[[], None]:
    """A `before`: the function says so on stderr at its call number `at`, and does not end.

    Args:
        module: Where it is looked up.
        name: Of the function, or Class.method.
        at: Which call.
    """

    def wait(call: int) -> None:
        if call == at:
            os.write(2, b"stuck here\n")
            while True:
                time.sleep(0.01)

    return _changed(module, name, wait)


def slowed(module: str, name: str, *, seconds: float, at: int = 0) -> Callable[[], None]:
    """A `before`: each call of the function, or that number, takes so much longer."""
    return _changed(module, name, lambda call: time.sleep(seconds if at in (0, call) else 0))


def _changed(module: str, name: str, first: Callable[[int], None]) -> Callable[[], None]:
    """Has `first` called with the number of each call of a function, before it."""

    def patch() -> None:
        owner: object = import_module(module)
        *parents, last = name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        plain, calls = getattr(owner, last), count(1)

        def changed(*args: object, **kwargs: object) -> object:
            first(next(calls))
            return plain(*args, **kwargs)

        setattr(owner, last, changed)

    return patch


def read_only(folder: Path) -> Callable[[], None]:
    """A `before`: to this child alone, a file system that is mounted read-only begins at a folder.

    It needs no root, but a kernel that lets everybody have a name space of mounts: `can_mount`.
    """

    def mount() -> None:
        libc = ctypes.CDLL(None, use_errno=True)

        def call(result: int) -> None:
            if result != 0:
                raise OSError(ctypes.get_errno(), "no name space of mounts")

        path, ids = os.fsencode(folder), (os.getuid(), os.getgid())
        new_user, new_mounts = 0x10000000, 0x20000
        call(libc.unshare(new_user | new_mounts))
        Path("/proc/self/setgroups").write_text("deny")
        for name, number in zip(("uid_map", "gid_map"), ids, strict=True):
            Path("/proc/self", name).write_text(f"{number} {number} 1")
        read_only, remount, bind, recursive, private = 1, 32, 4096, 0x4000, 0x40000
        call(libc.mount(b"none", b"/", None, recursive | private, None))
        call(libc.mount(path, path, None, bind, None))
        # What the mount below is not allowed, one on it may not allow.
        locked = os.statvfs(path).f_flag & (2 | 4 | 8 | 1024 | 2048)
        call(libc.mount(None, path, None, bind | remount | read_only | locked, None))

    return mount


@cache
def can_mount() -> bool:
    """Whether this machine lets a child mount a folder read-only."""
    if not sys.platform.startswith("linux"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        return fork(read_only(Path(folder))).end().code == 0
