"""Caches that do not fit into a device's memory, and those that several runs share there.

fp32 on the CPU, where room for no byte is as a GPU without room.
"""

from __future__ import annotations

import gc
import threading
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch

from distill_cli.cache.reader import CacheReader
from distill_cli.errors import ArtifactError
from distill_cli.pipeline.labels.dump import dump
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.teachers import tables
from distill_cli.teachers.mixture import unrecordable, variant_of
from distill_cli.teachers.tables import AHEAD, ResidentRows, StreamedRows
from distill_cli.training.events import Silent
from distill_cli.training.loop import Trainer
from distill_cli.types import Share
from tests.training.test_device_steps import (
    COMMON,
    TEACHERS,
    assert_same,
    host_steps,
    played,
    tabled,
    taken,
    trainer,
)
from tests.training.test_device_steps import folder as folder

WAYS: dict[str, dict[str, Any]] = {
    "one cache, in parts": {"teachers": ["c0"], "accumulate": 2},
    "caches in a mixture": TEACHERS["caches in a mixture"],
    "a cache a batch": TEACHERS["a cache a batch"],
    "a cache an image, in parts": {**TEACHERS["a cache an image"], "accumulate": 3},
    "a copy of the data a cache": TEACHERS["a copy of the data a cache"],
    "every class alike often": {"teachers": ["c0"], "order": "balanced"},
    "the likeliest classes of mixed images": {"teachers": ["c-mixed"]},
}


@pytest.fixture(scope="module")
def caches(folder: Path) -> Path:
    """Those of `folder`, and one of mixed images that keeps three classes of a row."""
    asked: dict[str, Any] = {"teachers": [str(folder / "t0")], "out": str(folder / "c-mixed")}
    asked |= {"data": "digits", "device": "cpu", "views": 2, "force": True, "codec": "topk:3"}
    asked["augment"] = ["shift:1", "mixup:1", "cutmix:1"]
    dump(CacheRecipe(**asked), sink=Silent(), progress=lambda done, total: None)
    return folder


@pytest.fixture(autouse=True)
def nothing_present(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on a device is shared in a process, and other tests are in this one."""
    monkeypatch.setattr(tables, "_PRESENT", WeakValueDictionary())


def run_of(caches: Path, tmp_path: Path, **options: Any) -> Trainer:
    return trainer(caches, tmp_path, **{**COMMON, "objective": "kd", **options})


@pytest.mark.parametrize("way", WAYS)
def test_streamed_rows_are_those_of_the_disk_and_can_be_recorded(
    caches: Path, tmp_path: Path, way: str
) -> None:
    """Steps of the host, and those of streamed rows, of which the fourth is recorded, to the bit."""
    host, device = (run_of(caches, tmp_path, **WAYS[way]) for _ in range(2))
    steps = played(device, room=0)
    assert steps.labels.streams
    assert unrecordable(device.update.teacher) is None
    count = host.loader.steps + 6
    for run, taking in ((host, host._steps_on_host), (device, steps.epoch)):
        torch.manual_seed(7)
        taken(run, taking, count)
        assert run.state.epoch == 1, "it goes over the end of an epoch"
    assert_same(host, device)
    assert steps.recordings


def test_a_stopped_epoch_goes_on_and_leaves_no_thread(caches: Path, tmp_path: Path) -> None:
    whole, torn = (run_of(caches, tmp_path, **TEACHERS["a cache a batch"]) for _ in range(2))
    torch.manual_seed(7)
    host_steps(whole, 7)
    torch.manual_seed(7)
    before = threading.active_count()
    for first, count in ((0, 3), (3, 4)):
        steps = tabled(torn, room=0).epoch(0, first)
        for _ in islice(steps, count):
            torn.state.step += 1
        assert threading.active_count() == before + 1
        steps.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before
    assert_same(whole, torn)


def test_the_teacher_of_a_batch_alone_is_read(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(caches, tmp_path, **TEACHERS["a cache a batch"])
    steps, asked = tabled(run, room=0), []
    plain = StreamedRows.gather

    def gather(self: StreamedRows, slot: int, *rows: Any) -> None:
        asked.append((slot, self.readers[0].folder.name))
        plain(self, slot, *rows)

    monkeypatch.setattr(StreamedRows, "gather", gather)
    list(steps.epoch(0, 0))
    drawn = [variant_of(run.update.teacher, step) for step in range(run.loader.steps)]
    assert [name for _, name in asked] == [f"c{number}" for number in drawn]
    assert [slot for slot, _ in asked] == [step % AHEAD for step in range(run.loader.steps)]


def test_a_rank_reads_the_rows_of_its_share(caches: Path, tmp_path: Path) -> None:
    run = run_of(caches, tmp_path, **WAYS["a cache an image, in parts"])
    host = run.update.teacher
    assert host is not None
    whole = next(iter(run.loader.epoch(0)))
    expected = host.signals(whole).log_probs(2.0)
    for rank in range(2):
        run.loader.share = share = Share(rank=rank, ranks=2, parts=3)
        steps = tabled(run, room=0)
        steps.table.load(0, 0)
        next(steps._labels(0, 0))
        batch = steps.table.batch(0)
        assert torch.equal(batch.index_B, share.of(whole.index_B))
        assert torch.equal(host.signals(batch).log_probs(2.0), share.of(expected))


def test_a_damaged_shard_is_an_error_of_the_step_that_needs_it(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(caches, tmp_path, teachers=["c0"])
    steps = tabled(run, room=0)
    plain = CacheReader.gather

    def gather(self: CacheReader, *rows: Any) -> Any:
        if torch.equal(rows[0].sort().values, steps.table.host_T4B[5, 0].sort().values):
            raise ArtifactError("shard 3 was changed")
        return plain(self, *rows)

    monkeypatch.setattr(CacheReader, "gather", gather)
    labels = steps.epoch(0, 0)
    for _ in range(5):
        next(labels)
    with pytest.raises(ArtifactError, match="shard 3"):
        next(labels)


@pytest.mark.slow
def test_runs_of_several_seeds_look_into_one_copy(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for a second one; what nobody looks at any more is gone."""
    made: list[int] = []
    plain = ResidentRows.__init__

    def counted(self: ResidentRows, *args: Any) -> None:
        made.append(1)
        plain(self, *args)

    monkeypatch.setattr(ResidentRows, "__init__", counted)
    for kind, copies in {"caches in a mixture": 2, "a cache an image": 1}.items():
        made.clear()
        first, other = (run_of(caches, tmp_path, **TEACHERS[kind], seed=seed) for seed in (4, 3))
        steps = tabled(first), tabled(other, room=0)
        assert len(made) == copies
        assert not any(one.labels.streams for one in steps)
        host = run_of(caches, tmp_path, **TEACHERS[kind])
        for run, taking in ((host, host._steps_on_host), (other, steps[1].epoch)):
            torch.manual_seed(7)
            taken(run, taking, 4)
        assert_same(host, other)
        del first, other, run, steps, host, taking
        gc.collect()
        assert not tables._PRESENT


def test_a_larger_cache_streams_beside_one_that_fits(caches: Path, tmp_path: Path) -> None:
    run = run_of(caches, tmp_path, **TEACHERS["caches in a mixture"])
    one = 10 * 4 * 2 * len(run.loader.target_N)
    steps = tabled(run, room=1.5 * one)
    assert len(steps.labels.streams) == 1
    assert steps.labels.streamed_bytes == one
