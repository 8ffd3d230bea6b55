"""Bounds of what is read: bytes of a file, values in it, their depth, and the memory there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.errors import counted

# Levels of lists and mappings in each other. Ours have 6; Python's own bound is one of its stack.
DEPTH = 64
# Bits of a whole number: more than any of ours, and few enough that it can be a float.
WHOLE_BITS = 1000
# Memory of this machine or container, bytes; a container's limit stands in the first or the second.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds of a file.

    Attributes:
        size: Bytes.
        values: Values in it, lists and mappings included.
    """

    size: int
    values: int


# A file that a person wrote, one that describes a run or a model, and one that has an entry for each of
# a million shards or images.
WRITTEN = Bounds(size=4 << 20, values=100_000)
USUAL = Bounds(size=32 << 20, values=2_000_000)
LISTS = Bounds(size=512 << 20, values=40_000_000)


def read_bounded(path: Path, size: int) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        OSError: It cannot be read.
        ValueError: It is longer.
    """
    with path.open("rb") as handle:
        content = handle.read(size + 1)
    if len(content) > size:
        raise ValueError(f"it has more than {counted(size, 'byte')}")
    return content


def check_depth(value: object) -> None:
    """Refuses lists and mappings that are nested deeper than any of ours.

    Raises:
        ValueError: With the reason.
    """
    level = _inside([value])
    for _ in range(DEPTH + 1):
        if not level:
            return
        level = [item for inner in level for item in _inside(inner)]
    raise ValueError(f"it is nested more than {DEPTH} levels deep")


def _inside(value: Any) -> list[Any]:
    """The lists and mappings in one."""
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if type(item) in (list, dict)]


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's where that is less."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in LIMITS:
        try:
            there = min(there, int(Path(limit).read_text()))
        except (OSError, ValueError):
            # There is no such file, or its limit is "max".
            continue
    return there
