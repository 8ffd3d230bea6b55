"""The arithmetic of a dump's teachers: settled once in the plan, its cost measured and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_cli.cache.manifest import read_manifest, read_plan
from distill_cli.pipeline.labels.forward import forward_of
from distill_cli.pipeline.labels.precision import NOTABLE
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.runtime import Runtime
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import ViewSpec
from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]


def dump(distill: Distill, made: Made, *more: object) -> Outcome:
    common = ("cache-soft-labels", "--teachers", made.teacher, "--views", 1, "--device", "cpu")
    return distill(*common, *more, "--out", "c")


def test_what_bf16_costs_is_kept_and_shown(here: Path, distill: Distill, made: Made) -> None:
    assert dump(distill, made, "--teacher-precision", "bf16").code == 0
    lost = read_manifest(here / "c").precision_error
    assert lost is not None
    assert 0 < lost.mean_kl < NOTABLE
    assert lost.mean_kl <= lost.worst_kl
    assert "lost by the teacher's bf16, nats:" in distill("cache", "info", "c").out
    document = json.loads(distill("cache", "info", "c", "--json").out)
    assert document["caches"][0]["precision_error"]["mean_kl"] == lost.mean_kl


def test_fp32_has_nothing_to_lose(here: Path, distill: Distill, made: Made) -> None:
    assert dump(distill, made).code == 0
    assert read_manifest(here / "c").precision_error is None
    assert "precision_error" not in json.loads((here / "c/manifest.json").read_text())


def test_a_planted_fault_of_the_arithmetic_is_told(
    here: Path, distill: Distill, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LiveTeacher._logits

    def coarse(self: LiveTeacher, images_BCHW: Tensor, precision: Any) -> Tensor:
        if precision == "bf16":
            images_BCHW = (images_BCHW * 2).round() / 2
        return plain(self, images_BCHW, precision)

    monkeypatch.setattr(LiveTeacher, "_logits", coarse)
    outcome = dump(distill, made, "--teacher-precision", "bf16")
    assert outcome.code == 0
    assert "the teacher's bf16 moves its labels by" in outcome.err
    lost = read_manifest(here / "c").precision_error
    assert lost is not None
    assert lost.mean_kl > NOTABLE


def test_who_goes_on_computes_as_the_plan_says(here: Path, distill: Distill, made: Made) -> None:
    """Options that are left open are those of the plan; others are another plan."""
    first = ("--teacher-precision", "bf16", "--set", "teacher_batch=100", "--part", "1/2")
    assert dump(distill, made, *first, "--set", "shard_length=200").code == 0
    rest = ("--set", "shard_length=200")
    assert dump(distill, made, *rest).code == 0
    plan = read_plan(here / "c")
    assert (plan.precision, plan.teacher_batch) == ("bf16", 100)
    assert read_manifest(here / "c").precision_error is not None
    other = dump(distill, made, *rest, "--teacher-precision", "fp32")
    assert other.code == 3
    assert "precision: expected 'bf16', found 'fp32'" in other.err


SMALL = ViewSpec(channels=3, height=32, width=32, augment=(), seed=0)
LARGE = ViewSpec(channels=3, height=224, width=224, augment=(), seed=0)


@pytest.mark.parametrize(
    ("device", "spec", "codec", "expected"),
    [
        ("cpu", SMALL, "fp16", ("fp32", 256)),
        ("cuda", SMALL, "fp16", ("bf16", 1024)),
        ("cuda", LARGE, "fp16", ("bf16", 256)),
        ("cuda", SMALL, "fp32", ("fp32", 1024)),
    ],
)
def test_auto_goes_by_device_size_and_codec(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    spec: ViewSpec,
    codec: str,
    expected: tuple[str, int],
) -> None:
    monkeypatch.setattr("distill_cli.runtime.best_precision", lambda device: "bf16")
    runtime = Runtime(device=torch.device(device), threads=1, deterministic=False)
    assert forward_of(CacheRecipe(codec=codec), spec, runtime, None) == expected
