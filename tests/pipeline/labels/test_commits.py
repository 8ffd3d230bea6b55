"""Commits beside the teachers' work. A device that is not the CPU stands for a GPU."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread, get_ident
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_cli.cache.plan import ShardKey
from distill_cli.cache.writer import CacheWriter
from distill_cli.errors import ArtifactError
from distill_cli.pipeline.labels.commits import THREADS, Commits
from tests.cache.examples import logits, plan

ELSEWHERE = torch.device("mps")


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough of them for all threads."""
    monkeypatch.setattr("os.cpu_count", lambda: 16)


def dump_of(folder: Path, device: torch.device) -> CacheWriter:
    """A cache of eight shards, committed beside a device."""
    whole = plan(codec="topk:2")
    writer = CacheWriter(folder, whole)
    target_N = torch.arange(37) % 5
    with Commits(device) as commits:
        for shard in whole.shards():
            rows = slice(shard.start, shard.stop)
            commits.begin([writer], shard, [logits(whole, shard.view)[rows]], target_N[rows])
        commits.wait()
    return writer


def test_several_threads_write_the_bytes_of_one(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    for name, device in (("alone", torch.device("cpu")), ("beside", ELSEWHERE)):
        dump_of(tmp_path / name, device)
        assert torch.get_num_threads() == before
    files = sorted(path.relative_to(tmp_path / "alone") for path in tmp_path.glob("alone/**/*.s*"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "beside" / file).read_bytes()


class Slow:
    """A writer whose commits wait to be let go on."""

    def __init__(self) -> None:
        self.gone, self.begun = Event(), 0
        self.computing: set[tuple[int, int]] = set()

    def commit(self, shard: ShardKey, logits_NK: Tensor, target_N: Tensor) -> None:
        self.begun += 1
        self.computing.add((get_ident(), torch.get_num_threads()))
        assert self.gone.wait(30)
        if shard.number == 1:
            raise ArtifactError("the teacher said NaN")


def begin(commits: Commits, writer: Any, number: int) -> None:
    shard = ShardKey(view=0, number=number, start=0, stop=3)
    commits.begin([writer], shard, [torch.zeros(3, 2)], torch.zeros(3, dtype=torch.int64))


def test_so_many_are_under_way_and_each_thread_computes_alone() -> None:
    """The next one waits, so that memory holds one more than there are threads."""
    writer, threads = Slow(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Commits(ELSEWHERE) as commits:
            for number in range(2, THREADS + 3):
                begin(commits, writer, number)
            waiting = Thread(target=begin, args=(commits, writer, 9), daemon=True)
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()
            assert writer.begun == THREADS
            writer.gone.set()
            waiting.join(30)
            commits.wait()
        assert writer.begun == THREADS + 2
        assert len(writer.computing) == THREADS
        assert {team for _, team in writer.computing} == {1}
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        later = Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(threads)


def test_a_commit_that_fails_is_heard_of() -> None:
    writer = Slow()
    writer.gone.set()
    with Commits(ELSEWHERE) as commits:
        begin(commits, writer, 1)
        with pytest.raises(ArtifactError, match="NaN"):
            commits.wait()
