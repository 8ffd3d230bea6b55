"""Learning-rate schedules, from timm.

All of them are pure functions of the step, so that a resumed run needs no state of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import timm.scheduler as timm
import torch
from timm.scheduler.scheduler import Scheduler

from distill_cli.errors import UsageError

Name = Literal["constant", "linear", "cosine", "step", "poly", "tanh"]
# Shares of training after which `step` divides the rate by ten: 150, 180 and 210 of the 240
# epochs that the distillation literature trains CIFAR for.
MILESTONES = (150 / 240, 180 / 240, 210 / 240)


def create_scheduler(
    optimizer: torch.optim.Optimizer,
    name: Name,
    *,
    peak: float,
    floor: float,
    total_steps: int,
    warmup_steps: int,
    args: Mapping[str, Any],
) -> Scheduler:
    """timm's scheduler; `step_update(step)` sets the rate of a step, from 0.

    The first step has 1/(w + 1) of the peak, step w all of it; the fall begins there. timm scales
    the rate of groups that have an `lr_scale` (layer decay).

    Args:
        optimizer: The optimiser whose rates are set.
        name: `linear` is timm's polynomial of power 1, `constant` its multi-step without steps.
        peak: The rate after warm-up.
        floor: The rate at which the fall ends; of no meaning to `constant` and `step`.
        total_steps: Steps of the whole training.
        warmup_steps: w.
        args: Further arguments of timm's scheduler (`power`, `decay_rate`, `k_decay`, …).

    Raises:
        UsageError: The scheduler has no such argument, or the fall ends above its peak.
    """
    if floor > peak:
        raise UsageError(f"min_lr {floor:g} is above lr {peak:g}")
    # At least two, or timm warns that one step has no room to fall.
    fall = max(2, total_steps - warmup_steps)
    falling = {"t_initial": fall, "lr_min": floor}
    # timm compares its milestones with the step's number from 1.
    steps = [math.ceil(share * fall) + 1 for share in MILESTONES]
    kinds: dict[Name, tuple[Callable[..., Any], dict[str, Any]]] = {
        "constant": (timm.MultiStepLRScheduler, {"decay_t": []}),
        "step": (timm.MultiStepLRScheduler, {"decay_t": steps, "decay_rate": 0.1}),
        "linear": (timm.PolyLRScheduler, {**falling, "power": 1.0}),
        "poly": (timm.PolyLRScheduler, falling),
        "cosine": (timm.CosineLRScheduler, falling),
        "tanh": (timm.TanhLRScheduler, falling),
    }
    kind, of_kind = kinds[name]
    every: dict[str, Any] = {
        "warmup_t": warmup_steps,
        "warmup_lr_init": peak / (warmup_steps + 1),
        "warmup_prefix": True,
        "t_in_epochs": False,
    }
    try:
        scheduler = kind(optimizer, **{**every, **of_kind, **args})
        for step in (total_steps - 1, 0):
            scheduler.step_update(step)
    except (TypeError, AssertionError, ValueError, KeyError, ArithmeticError) as error:
        raise UsageError(f"sched_args: {name}: {error}") from None
    assert isinstance(scheduler, Scheduler)
    return scheduler
