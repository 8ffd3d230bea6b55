"""Consistency: squared differences and divergences by hand, and how its weight rises."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from distill_cli.objectives.consistency import Consistency, sigmoid_rise
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Progress, StudentSignals
from tests.losses.draws import student_and_teacher
from tests.objectives.steps import batch_of, step_of

B, K = 6, 4
DONE = Progress(epoch=0, step=100, total_steps=101)


@pytest.mark.parametrize("seed", range(3))
def test_both_forms_are_the_formulas(seed: int) -> None:
    z, v, y = student_and_teacher(B, K, seed)
    p, q = F.softmax(z, -1).tolist(), F.softmax(v, -1).tolist()
    squares = [
        sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) / K
        for one, two in zip(p, q, strict=True)
    ]
    divergences = [
        sum(b * math.log(b / a) for a, b in zip(one, two, strict=True))
        for one, two in zip(p, q, strict=True)
    ]
    z.requires_grad_()
    v.requires_grad_()
    for form, expected in (("mse", squares), ("kl", divergences)):
        objective = Consistency(form=form)  # type: ignore[arg-type]
        batch = batch_of(y.index_fill(0, torch.tensor([0, 1]), -1))
        term = objective(step_of(StudentSignals(logits=z), DenseSignals(v), batch, DONE))[
            "consistency"
        ]
        assert (term.rows, term.coupled) == ("all", False)
        assert term.loss_B.tolist() == pytest.approx(expected, rel=1e-9)
        term.loss_B.sum().backward()
        assert z.grad is not None
        assert v.grad is None
        same = objective(step_of(StudentSignals(logits=z), DenseSignals(z), batch, DONE))
        assert float(same["consistency"].loss_B.abs().max()) < 1e-12


def test_its_weight_rises_as_in_the_papers() -> None:
    """exp(−5·(1 − t)²): 0.7 % at the start, 1 from the end of the ramp on; the same on a device."""
    for ramp in (0.0, 0.25, 1.0):
        for step in (0, 10, 25, 60, 100):
            host = Progress(epoch=0, step=step, total_steps=101)
            t = 1.0 if ramp == 0 else min(1.0, step / 100 / ramp)
            assert sigmoid_rise(host, ramp) == pytest.approx(math.exp(-5 * (1 - t) ** 2))
            device = Progress(epoch=torch.tensor(0), step=torch.tensor(step), total_steps=101)
            assert float(sigmoid_rise(device, ramp)) == pytest.approx(math.exp(-5 * (1 - t) ** 2))
