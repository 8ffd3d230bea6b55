from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.training.optim import default_optimizer, default_rate
from distill_cli.training.schedule import LearningRate

names = st.sampled_from(["constant", "linear", "cosine", "step"])


@given(names, st.integers(1, 500), st.integers(0, 600))
def test_the_rate_is_positive_and_never_above_its_peak(name: str, total: int, warm: int) -> None:
    rate = LearningRate(peak=0.3, total_steps=total, warmup_steps=warm, schedule=name)
    values = [rate.at(step) for step in range(total)]
    assert all(0 < value <= 0.3 * (1 + 1e-12) for value in values)


@given(names, st.integers(1, 50))
def test_warm_up_climbs_to_the_peak(name: str, warm: int) -> None:
    rate = LearningRate(peak=1.0, total_steps=500, warmup_steps=warm, schedule=name)
    climb = [rate.at(step) for step in range(warm + 1)]
    assert climb == sorted(climb)
    assert climb[-1] == pytest.approx(1.0)


def test_cosine_is_the_closed_form() -> None:
    rate = LearningRate(peak=2.0, total_steps=100, warmup_steps=0, schedule="cosine")
    for step in (0, 25, 50, 99):
        assert rate.at(step) == pytest.approx(1 + math.cos(math.pi * step / 100))


def test_step_divides_by_ten_three_times() -> None:
    rate = LearningRate(peak=1.0, total_steps=240, warmup_steps=0, schedule="step")
    assert [rate.at(s) for s in (149, 150, 180, 210)] == pytest.approx([1, 0.1, 0.01, 0.001])


def test_defaults_follow_architecture_and_batch() -> None:
    assert default_optimizer("vit_tiny_patch16_224") == "adamw"
    assert default_optimizer("swin_tiny") == "adamw"
    assert default_optimizer("resnet18") == "sgd"
    assert default_rate("sgd", 512) == 2 * default_rate("sgd", 256)
