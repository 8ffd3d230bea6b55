"""z-scores by hand, and what distillation of them cannot see."""

from __future__ import annotations

import math
import statistics
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.kd import distillation
from distill_cli.losses.standardise import standardise
from distill_cli.objectives.logit_standardisation import standardised_distillation
from tests.losses.draws import student_and_teacher

B, K = 6, 5
temperatures = st.floats(0.5, 50)
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return student_and_teacher(B, K, seed, dtype)[:2]


def z_scores(row: list[float], unbiased: bool) -> list[float]:
    sd = statistics.stdev(row) if unbiased else statistics.pstdev(row)
    return [(x - statistics.fmean(row)) / sd for x in row]


def by_hand(z: Tensor, v: Tensor, temperature: float, unbiased: bool) -> list[float]:
    losses = []
    for rows in zip(z.tolist(), v.tolist(), strict=True):
        weights = [[math.exp(x / temperature) for x in z_scores(row, unbiased)] for row in rows]
        p, q = ([w / sum(row) for w in row] for row in weights)
        kl = sum(b * (math.log(b) - math.log(a)) for a, b in zip(p, q, strict=True))
        losses.append(temperature**2 * kl)
    return losses


@few
@given(seeds, st.booleans())
def test_standardise_is_the_z_score(seed: int, unbiased: bool) -> None:
    z, _ = draw(seed)
    expected = [z_scores(row, unbiased) for row in z.tolist()]
    for row, by_definition in zip(
        standardise(z, unbiased=unbiased).tolist(), expected, strict=True
    ):
        assert row == pytest.approx(by_definition, rel=1e-9, abs=1e-9)


@few
@given(seeds, temperatures, st.booleans())
def test_distillation_is_the_formula(seed: int, temperature: float, unbiased: bool) -> None:
    z, v = draw(seed)
    loss_B = standardised_distillation(z, v, temperature, unbiased)
    expected = by_hand(z, v, temperature, unbiased)
    assert loss_B.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-8)


@few
@given(seeds, temperatures, st.floats(1e-2, 1e2), st.floats(-100, 100), st.booleans())
def test_scale_and_offset_of_a_row_do_not_count(
    seed: int, temperature: float, scale: float, offset: float, unbiased: bool
) -> None:
    z, v = draw(seed)
    # Another scale and offset for each sample.
    a = scale * torch.linspace(0.5, 2, B, dtype=torch.float64)[:, None]
    b = offset * torch.linspace(-1, 1, B, dtype=torch.float64)[:, None]
    plain = standardised_distillation(z, v, temperature, unbiased)
    for student, teacher in ((a * z + b, v), (z, a * v + b), (a * z - b, v / a + b)):
        changed = standardised_distillation(student, teacher, temperature, unbiased)
        assert torch.allclose(changed, plain, rtol=1e-6, atol=1e-7)


@few
@given(seeds, temperatures)
def test_vanishes_at_a_match_up_to_scale(seed: int, temperature: float) -> None:
    z, v = draw(seed)
    assert standardised_distillation(3 * v + 1, v, temperature).abs().max() < 1e-9
    assert (standardised_distillation(z, v, temperature) > 0).all()


def test_the_reading_of_sd_is_a_temperature() -> None:
    """Unbiased sd is larger by √(K/(K − 1)): the same as a higher T, but for T²."""
    z, v = draw(2)
    ratio = math.sqrt(K / (K - 1))
    unbiased = standardised_distillation(z, v, 2.0, unbiased=True)
    assert torch.allclose(unbiased * ratio**2, standardised_distillation(z, v, 2.0 * ratio))


def test_a_row_without_variance_is_distilled_as_uniform() -> None:
    z, v = draw(4)
    z[2] = 1.7
    z.requires_grad_()
    loss_B = standardised_distillation(z, v, 2.0)
    loss_B.sum().backward()
    teacher = F.log_softmax(standardise(v) / 2, -1)
    uniform_B = distillation(torch.zeros_like(v), teacher, 2.0)
    assert torch.allclose(loss_B[2], uniform_B[2])
    # It moves, and no faster than plain distillation would.
    assert 0 < z.grad[2].abs().max() < 2


def test_no_gradient_reaches_the_teacher() -> None:
    z, v = draw(0)
    z.requires_grad_()
    v.requires_grad_()
    standardised_distillation(z, v, 2.0).sum().backward()
    assert v.grad is None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e4])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float) -> None:
    z, v = draw(5, dtype)
    for teacher_scale, unbiased in product((0.0, 1.0, 1e4), (False, True)):
        x = (z * scale).requires_grad_()
        loss_B = standardised_distillation(x, v * teacher_scale, 2.0, unbiased)
        loss_B.sum().backward()
        assert loss_B.isfinite().all()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("constant", [0.1, -3.3, 1e4])
def test_rounding_is_no_variance(constant: float) -> None:
    """The mean of 1000 equal numbers is off by rounding, which a z-score would blow up to 1."""
    z = torch.full((2, 1000), constant)
    assert standardise(z).abs().max() < 1e-2
    assert (standardise(torch.full((2, 1), constant), unbiased=True) == 0).all()
