"""Labels from tables on the device: those of the host's views to the bit. fp32 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill_cli.pipeline.labels.device_labels import DeviceLabels
from distill_cli.pipeline.labels.labeller import shard_labels, streamed
from distill_cli.pipeline.labels.prepare import prepare_dump
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.training.events import Silent
from tests.conftest import Made, Outcome
from tests.training.recordings import record

Distill = Callable[..., Outcome]


@pytest.mark.parametrize("augment", ["none", "shift:1", "shift:1,mixup:1,cutmix:1"])
def test_they_are_those_of_the_host(made: Made, here: Path, augment: str) -> None:
    asked = CacheRecipe(
        teachers=[str(made.teacher)],
        out="c",
        views=2,
        augment=augment.split(","),
        teacher_batch=100,
        shard_length=350,
        device="cpu",
        teacher_precision="fp32",
    )
    prepared = prepare_dump(asked, sink=Silent())
    made_views = streamed(prepared, prepared.shards)
    on_device = DeviceLabels(prepared.views, prepared.teachers, 100)
    for shard in prepared.shards:
        [expected] = shard_labels(shard, made_views, prepared.teachers, 100)
        [labels] = on_device.of(range(shard.start, shard.stop), shard.view, [0])
        assert torch.equal(labels, expected), shard


def test_no_batch_brings_anything_from_the_host(made: Made, here: Path) -> None:
    """Its operations are those of any other batch, to the numbers in them."""
    asked = CacheRecipe(
        teachers=[str(made.teacher)], out="c", augment=["shift:1"], device="cpu", teacher_batch=50
    )
    prepared = prepare_dump(asked, sink=Silent())
    labels = DeviceLabels(prepared.views, prepared.teachers, 50)
    labels.of(range(100), 0, [0])
    texts = []
    for first, last, view in ((0, 99, 0), (150, 160, 3)):
        for scalar, value in ((labels.first, first), (labels.last, last), (labels.view, view)):
            scalar.fill_(value)
        recording = record(lambda: labels._ask((0,)))
        assert recording.waiting() == []
        texts.append(recording.text())
    assert texts[0] == texts[1]
    recording.play()
    kept = labels._logits[0,][0].clone()
    [expected] = labels.of(range(150, 161), 3, [0])
    assert torch.equal(kept[:11], expected)
    assert torch.equal(kept[11:], expected[-1:].expand(39, -1))


@pytest.mark.parametrize("data", ["digits", "files"])
def test_graphs_that_cannot_be_are_refused(
    made: Made, here: Path, distill: Distill, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("cache-soft-labels", "--teachers", made.teacher, "--graphs", "on", "--out", "c")
    if data == "files":
        # On a GPU, where the images are made by workers.
        monkeypatch.setattr("distill_cli.training.graphs.has_graphs", lambda device: True)
        common = (*common, "--augment", "v2/RandomHorizontalFlip")
    outcome = distill(*common)
    assert outcome.code == 2
    cause = "these views are made by worker processes" if data == "files" else "need a GPU"
    assert cause in outcome.err
    assert not (here / "c").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("augment", ["shift:1", "shift:1,mixup:1,cutmix:1"])
def test_recorded_labels_are_those_of_single_operations(
    made: Made, here: Path, distill: Distill, augment: str
) -> None:
    """The same bytes of every shard."""
    small = ("--set", "teacher_batch=32", "--set", "shard_length=320", "--device", "cuda")
    common = ("cache-soft-labels", "--teachers", made.teacher, "--views", 2, *small, "--quiet")
    for graphs in ("on", "off"):
        outcome = distill(*common, "--augment", augment, "--graphs", graphs, "--out", graphs)
        assert outcome.code == 0, outcome.err
    for shard in sorted(here.glob("on/view-*/*")):
        other = here / "off" / shard.relative_to(here / "on")
        assert shard.read_bytes() == other.read_bytes(), shard


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_a_dump_of_many_small_shards_is_recorded_and_replays(
    made: Made, here: Path, distill: Distill
) -> None:
    """Shards are committed by another thread while the next one is recorded."""
    small = ("--set", "teacher_batch=32", "--set", "shard_length=32")
    common = ("cache-soft-labels", "--teachers", f"{made.teacher},{made.other}", "--views", 3)
    outcome = distill(*common, "--device", "cuda", *small, "--out", "c", "--quiet")
    assert outcome.code == 0, outcome.err
    for cache in sorted(here.glob("c/*/manifest.json")):
        assert distill("cache", "verify", cache.parent, "--sample", 64, "--quiet").code == 0
