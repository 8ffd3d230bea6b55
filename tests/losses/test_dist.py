"""Pearson's correlation by hand, along rows and along columns."""

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

from distill_cli.objectives.dist import inter_class, intra_class
from tests.losses.draws import student_and_teacher

B, K = 6, 5
temperatures = st.floats(0.5, 50)
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return student_and_teacher(B, K, seed, dtype)[:2]


def softmax(rows: Tensor, temperature: float) -> list[list[float]]:
    weights = [[math.exp(x / temperature) for x in row] for row in rows.tolist()]
    return [[w / sum(row) for w in row] for row in weights]


@few
@given(seeds, temperatures)
def test_rows_are_the_formula(seed: int, temperature: float) -> None:
    z, v = draw(seed)
    p, q = softmax(z, temperature), softmax(v, temperature)
    loss_B = inter_class(z, F.log_softmax(v / temperature, -1), temperature)
    expected = [
        temperature**2 * (1 - statistics.correlation(a, b)) for a, b in zip(p, q, strict=True)
    ]
    assert loss_B.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-8)


@few
@given(seeds, temperatures)
def test_columns_are_the_formula(seed: int, temperature: float) -> None:
    z, v = draw(seed)
    p, q = softmax(z, temperature), softmax(v, temperature)
    columns = [([row[k] for row in p], [row[k] for row in q]) for k in range(K)]
    mean = statistics.fmean(statistics.correlation(a, b) for a, b in columns)
    loss = intra_class(z, F.log_softmax(v / temperature, -1), temperature)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(temperature**2 * (1 - mean), rel=1e-7, abs=1e-8)


@few
@given(seeds, temperatures)
def test_both_vanish_at_a_match(seed: int, temperature: float) -> None:
    z, v = draw(seed)
    teacher = F.log_softmax(v / temperature, -1)
    assert inter_class(v, teacher, temperature).abs().max() < 1e-8
    assert intra_class(v, teacher, temperature).abs() < 1e-8
    assert (inter_class(z, teacher, temperature) > 0).all()
    assert intra_class(z, teacher, temperature) > 0


@few
@given(seeds, st.floats(0.05, 1), temperatures)
def test_an_affine_change_of_probabilities_does_not_count(
    seed: int, share: float, temperature: float
) -> None:
    """s·p + (1 − s)·u, u a distribution, is again one: affine along columns, s alike for all.

    Along rows it is affine where u is uniform, and there s may differ between samples.
    """
    z, v = draw(seed)
    teacher = F.log_softmax(v / temperature, -1)
    p = F.softmax(z / temperature, -1)

    along_rows = share * torch.linspace(0.2, 1, B, dtype=torch.float64)[:, None]
    mixed = along_rows * p + (1 - along_rows) / K
    plain, changed = (
        inter_class(x * temperature, teacher, temperature) for x in (p.log(), mixed.log())
    )
    assert torch.allclose(plain, changed, rtol=1e-6, atol=1e-6)

    u = F.softmax(torch.arange(K, dtype=torch.float64), -1)
    mixed = share * p + (1 - share) * u
    plain, changed = (
        intra_class(x * temperature, teacher, temperature) for x in (p.log(), mixed.log())
    )
    assert torch.allclose(plain, changed, rtol=1e-6, atol=1e-6)


def test_opposites_cost_two() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).double()
    teacher = F.log_softmax(-z, -1)
    assert inter_class(z, teacher, 1.0).tolist() == pytest.approx([2, 2])
    assert intra_class(z, teacher, 1.0).item() == pytest.approx(2)


def test_without_variance_the_correlation_is_zero() -> None:
    z, v = draw(3)
    teacher = F.log_softmax(v / 2, -1)
    uniform = torch.zeros_like(z).requires_grad_()
    assert inter_class(uniform, teacher, 2.0).tolist() == pytest.approx([4.0] * B)
    assert intra_class(uniform, teacher, 2.0).item() == pytest.approx(4.0)
    assert intra_class(z[:1], teacher[:1], 2.0).item() == pytest.approx(4.0)
    # An all-zero head moves, and no faster than a loss of T² would have it.
    inter_class(uniform, teacher, 2.0).sum().backward()
    assert 0 < uniform.grad.abs().max() < 4


def test_no_gradient_reaches_the_teacher() -> None:
    z, v = draw(0)
    z.requires_grad_()
    v.requires_grad_()
    teacher = F.log_softmax(v / 2, -1)
    (inter_class(z, teacher, 2.0).sum() + intra_class(z, teacher, 2.0)).backward()
    assert v.grad is None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 30.0, 1e4])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float) -> None:
    z, v = draw(5, dtype)
    one_hot = torch.full_like(v, -math.inf).scatter(-1, v.argmax(-1, keepdim=True), 0.0)
    teachers = [F.log_softmax(v * by, -1) for by in (0.0, 1.0, 1e4)]
    for student, teacher in product((z, z[:1].expand_as(z)), (*teachers, one_hot)):
        x = (student * scale).requires_grad_()
        losses = inter_class(x, teacher, 1.0), intra_class(x, teacher, 1.0)
        (losses[0].sum() + losses[1]).backward()
        assert all(loss.isfinite().all() for loss in losses)
        assert x.grad.isfinite().all()


def test_a_vanishing_class_stays_finite() -> None:
    """Probabilities of 1 to 1e-45: variances down to where fp32 has no numbers left."""
    z, v = draw(6, torch.float32)
    for exponent in range(-45, 1):
        x = z.clone()
        x[:, 0] = x[:, 0] / 10 + exponent * math.log(10)
        x.requires_grad_()
        intra_class(x, F.log_softmax(v, -1), 1.0).backward()
        assert x.grad.isfinite().all(), exponent
        assert x.grad.abs().max() < 10, exponent


def test_a_thousand_classes_are_all_correlated() -> None:
    """Most classes are improbable in every sample: each counts by its shape, whatever its size."""
    generator = torch.Generator().manual_seed(11)
    # From 1 down to about 1e-26, the same for all samples, beside what differs between them.
    level = torch.linspace(0, -60, 1000, dtype=torch.float64)
    z, v = torch.randn(2, 16, 1000, generator=generator, dtype=torch.float64)
    z, v = z + level, v + level
    p, q = F.softmax(z, -1), F.softmax(v, -1)
    assert p.amax(dim=0).min() < 1e-22
    columns = zip(p.T.tolist(), q.T.tolist(), strict=True)
    mean = statistics.fmean(statistics.correlation(a, b) for a, b in columns)
    assert intra_class(z, q.log(), 1.0).item() == pytest.approx(1 - mean, rel=1e-7, abs=1e-8)
    # fp32 has fewer digits, and the same classes.
    narrow = intra_class(z.float(), q.log().float(), 1.0).item()
    assert narrow == pytest.approx(1 - mean, rel=1e-3)
    learning = z.float().requires_grad_()
    intra_class(learning, q.log().float(), 1.0).backward()
    assert learning.grad.isfinite().all()
    exact = z.clone().requires_grad_()
    intra_class(exact, q.log(), 1.0).backward()
    assert torch.allclose(learning.grad.double(), exact.grad, rtol=1e-2, atol=1e-7)
