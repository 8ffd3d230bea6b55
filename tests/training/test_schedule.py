from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.errors import UsageError
from distill_cli.training.optim import default_optimizer, default_rate
from distill_cli.training.schedule import create_scheduler

names = st.sampled_from(["constant", "linear", "cosine", "step", "poly", "tanh"])


class Rate:
    """The rate of a step, as the optimiser has it after `step_update`."""

    def __init__(self, name: str, *, peak: float, total: int, warm: int, **args: object) -> None:
        weight = torch.nn.Parameter(torch.zeros(1))
        scaled = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": 0.5}
        self.optimizer = torch.optim.SGD([{"params": [weight]}, scaled], lr=peak)
        self.schedule = create_scheduler(
            self.optimizer,
            name,
            peak=peak,
            floor=float(args.pop("floor", 0.0)),
            total_steps=total,
            warmup_steps=warm,
            args=args,
        )

    def at(self, step: int) -> float:
        self.schedule.step_update(step)
        plain, scaled = (float(group["lr"]) for group in self.optimizer.param_groups)
        assert scaled == pytest.approx(plain / 2)
        return plain


@given(names, st.integers(2, 500), st.integers(0, 600))
def test_the_rate_is_positive_and_never_above_its_peak(name: str, total: int, warm: int) -> None:
    rate = Rate(name, peak=0.3, total=total, warm=warm)
    values = [rate.at(step) for step in range(total)]
    assert all(0 < value <= 0.3 * (1 + 1e-12) for value in values)


@given(names, st.integers(1, 50))
def test_warm_up_climbs_to_the_peak(name: str, warm: int) -> None:
    rate = Rate(name, peak=1.0, total=500, warm=warm)
    climb = [rate.at(step) for step in range(warm + 1)]
    assert climb == sorted(climb)
    assert climb[0] == pytest.approx(1 / (warm + 1))
    assert climb[-1] == pytest.approx(1.0, abs=1e-5)


@given(names, st.integers(0, 50), st.lists(st.integers(0, 199), min_size=1))
def test_the_rate_is_a_function_of_the_step(name: str, warm: int, steps: list[int]) -> None:
    in_order = Rate(name, peak=0.1, total=200, warm=warm)
    values = [in_order.at(step) for step in range(200)]
    resumed = Rate(name, peak=0.1, total=200, warm=warm)
    assert [resumed.at(step) for step in steps] == [values[step] for step in steps]


def test_closed_forms() -> None:
    for warm in (0, 40):
        cosine = Rate("cosine", peak=2.0, total=100 + warm, warm=warm)
        linear = Rate("linear", peak=2.0, total=100 + warm, warm=warm, floor=0.5)
        for step in (0, 25, 50, 99):
            expected = 1 + math.cos(math.pi * step / 100)
            assert cosine.at(step + warm) == pytest.approx(expected)
            assert linear.at(step + warm) == pytest.approx(0.5 + 1.5 * (1 - step / 100))


def test_arguments_reach_timm() -> None:
    rate = Rate("poly", peak=1.0, total=100, warm=0, power=2.0)
    assert rate.at(50) == pytest.approx(0.25)
    with pytest.raises(UsageError, match=r"sched_args: poly: .*no_such"):
        Rate("poly", peak=1.0, total=100, warm=0, no_such=1)


@pytest.mark.parametrize("warm", [0, 12])
def test_step_divides_by_ten_three_times(warm: int) -> None:
    rate = Rate("step", peak=1.0, total=240 + warm, warm=warm)
    steps = (0, 149, 150, 179, 180, 209, 210, 239)
    expected = [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert [rate.at(step + warm) for step in steps] == pytest.approx(expected)


def test_defaults_follow_architecture_and_batch() -> None:
    assert default_optimizer("vit_tiny_patch16_224") == "adamw"
    assert default_optimizer("swin_tiny") == "adamw"
    assert default_optimizer("resnet18") == "sgd"
    assert default_rate("sgd", 512) == 2 * default_rate("sgd", 256)
