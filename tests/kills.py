"""Kills a command between any two of its writes, or in the middle of one.

Python tells an audit hook of every file that is about to be renamed or removed, and `os.open`, by which
distill opens what it writes, is watched. The kernel keeps what was written before and loses what is still in the process, as in any kill.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A forked child has imported what this process has.
import distill_cli.pipeline.labels.dump
import distill_cli.pipeline.run.stages  # noqa: F401
from distill_cli.files import TEMPORARY
from tests.processes import fork, typed

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Bytes of a write that reach the file before the kill in its middle.
TORN = 7
# Figures of time, which no two runs share, and the path of a run's own folder.
TIMES = {"seconds", "images_per_second", "latency_ms"}


# Where the descriptor of a folder stands among the arguments of an event, and the path.
FOLDERS = {"os.rename": 2, "os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}


def _absolute(path: Any, folder: int | None) -> Path | None:
    """The path that is meant, beside a folder's descriptor; None for a descriptor."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    base = Path.cwd() if folder in (None, -1) else Path(f"/proc/self/fd/{folder}").readlink()
    return base / os.fsdecode(path)


def _changed(event: str, args: tuple[Any, ...]) -> Path | None:
    """The path that an audit event is about to change; None where it changes nothing."""
    if event == "open":
        path, mode, flags = args
        # The event of os.open, which has no mode, does not tell the folder.
        return _absolute(path, None) if mode is not None and flags & WRITES else None
    if event not in FOLDERS:
        return None
    path = _absolute(args[0], args[FOLDERS[event]])
    # Most are told to be content where the folder is there already, or the file is not.
    needless = path is not None and os.path.lexists(path) is (event == "os.mkdir")
    return None if needless else path


@dataclass
class Watch:
    """Counts the writes of a process below a folder.

    Attributes:
        folder: The folder.
        at: Called with the number of each write, from 1, its event and its path, before it happens.
    """

    folder: Path
    at: Callable[[int, str, Path], None]
    writes: int = field(default=0, init=False)

    def begin(self) -> None:
        """A `before` of a child: from now on, to its end."""
        folder = os.fspath(self.folder)

        def tell(event: str, path: Path | None) -> None:
            if path is not None and os.path.abspath(path).startswith(folder):  # noqa: PTH100
                self.writes += 1
                self.at(self.writes, event, path)

        def hook(event: str, args: tuple[Any, ...]) -> None:
            path = _changed(event, args)
            if event == "os.rename" and path is not None and path.name.startswith(TEMPORARY):
                path = path.with_name(f"{TEMPORARY}{Path(os.fsdecode(args[1])).name}")
            tell(event, path)

        plain = os.open

        def opening(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & WRITES:
                tell("open", _absolute(path, dir_fd))
            return plain(path, flags, mode, dir_fd=dir_fd)

        os.open = opening
        sys.addaudithook(hook)


def writes_of(command: Sequence[object], out: Path) -> list[tuple[str, str]]:
    """Runs a command to its end; the event and file name of each of its writes below a folder."""
    log = out.with_name("writes.log")

    def note(number: int, event: str, path: Path) -> None:
        os.write(descriptor, f"{event} {path.name}\n".encode())

    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    ended = fork(typed(command), before=Watch(out, note).begin).end()
    os.close(descriptor)
    assert ended.code == 0, ended.err.decode()
    writes: list[tuple[str, str]] = []
    temporary = ""
    for line in reversed(log.read_text().splitlines()):
        event, name = line.split(" ", 1)
        if name.startswith(TEMPORARY):
            # Temporary names are random: a file is called by what it becomes.
            temporary = name = name if event == "os.rename" else temporary
        writes.append((event, name))
    return writes[::-1]


def kill(command: Sequence[object], out: Path, number: int, *, torn: bool = False) -> None:
    """Runs a command to its write of that number below a folder, which does not happen, or in part."""

    def at(now: int, event: str, path: Path) -> None:
        if now != number:
            return
        if torn and event == "open":
            size = path.stat().st_size if path.name in ("metrics.jsonl", "summary.csv") else 0
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + TORN, size + TORN))
            return
        os.kill(os.getpid(), signal.SIGKILL)

    ended = fork(typed(command), before=Watch(out, at).begin).end()
    assert ended.code < 0 or torn, (ended.code, ended.err.decode())


def kept(folder: Path) -> dict[str, Any]:
    """All that a command left in a folder, by path, but for times, locks and the folder's name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name == ".lock":
            continue
        assert not path.name.startswith(".tmp"), f"{path} is left"
        if path.suffix == ".pt":
            continue
        content = path.read_bytes()
        if path.suffix == ".safetensors" or name.startswith("view-"):
            found[name] = content
        elif path.name == "summary.csv":
            found[name] = list(_untimed_rows(content.decode()))
        elif path.name == "metrics.jsonl":
            found[name] = [_untimed(json.loads(line)) for line in content.decode().splitlines()]
        elif path.name in ("result.json", "seeds.json"):
            found[name] = _untimed(json.loads(content))
        elif path.suffix == ".md":
            found[name] = "there"
        else:
            found[name] = content.replace(str(folder).encode(), b"OUT")
    return found


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(value[key]) for key in value if key not in TIMES}
    return [_untimed(entry) for entry in value] if isinstance(value, list) else value


def _untimed_rows(text: str) -> Iterator[list[str]]:
    header, *rows = [line.split(",") for line in text.splitlines()]
    columns = [number for number, name in enumerate(header) if name not in TIMES]
    for row in (header, *rows):
        yield [row[number] for number in columns]
