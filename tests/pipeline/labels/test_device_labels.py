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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_a_dump_of_many_small_shards_is_recorded_and_replays(
    made: Made, here: Path, distill: Distill
) -> None:
    """Shards are committed by another thread while the next one is recorded."""
    small = ("--set", "teacher_batch=32", "--set", "shard_length=32")
    common = ("cache-soft-labels", "--teachers", f"{made.teacher},{made.teacher}", "--views", 3)
    outcome = distill(*common, "--device", "cuda", *small, "--out", "c", "--quiet")
    assert outcome.code == 0, outcome.err
    for cache in sorted(here.glob("c/*/manifest.json")):
        assert distill("cache", "verify", cache.parent, "--sample", 64, "--quiet").code == 0
