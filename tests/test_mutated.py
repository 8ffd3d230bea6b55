"""Mutated files: no reader raises anything but a DistillError, or takes long, or much memory."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from tests import processes
from tests.mutated import MEMORY, Reader, fault_of, faults
from tests.mutated_readers import READERS

# In all some 2,000 files; under `slow`, so many a reader.
COUNT, SLOW_COUNT = 118, 20_000
CORPUS = Path(__file__).parent / "fixtures" / "mutated"


def _found(reader: Reader, folder: Path, count: int) -> list[str]:
    """The kinds of faults, found in a child: its peak of memory is that of this reader alone."""

    def look() -> None:
        # Whatever takes far more is stopped before the machine is out of memory.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MEMORY, used + 4 * MEMORY))
        print(json.dumps(sorted({fault.what for fault in faults(reader, folder, count)})))

    ended = processes.fork(look).end()
    assert ended.code == 0, ended.err.decode()
    kinds: list[str] = json.loads(ended.out.decode().splitlines()[-1])
    return kinds


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_some_mutated_files(reader: Reader, tmp_path: Path) -> None:
    assert _found(reader, tmp_path, COUNT) == []


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_many_mutated_files(reader: Reader, tmp_path: Path) -> None:
    assert _found(reader, tmp_path, SLOW_COUNT) == []


@pytest.mark.parametrize("case", sorted(CORPUS.glob("*.json")), ids=lambda case: case.stem)
def test_what_was_found(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these broke a reader, as `was` says, or took too much; now it is refused or read."""
    found = json.loads(case.read_text())
    [reader] = [reader for reader in READERS if reader.name == found["reader"]]
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    reader.make(tmp_path)
    content = bytes.fromhex(found["hex"]) if "hex" in found else found["text"].encode()
    assert fault_of(reader, tmp_path, found["file"], content) is None, found["was"]
