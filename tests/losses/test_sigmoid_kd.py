"""Independent labels against logarithms by hand and the softmax of two classes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.kd import distillation
from distill_cli.objectives.binary_cross_entropy import binary_cross_entropy
from distill_cli.objectives.sigmoid_kd import sigmoid_distillation

B, K = 6, 5
temperatures = st.floats(0.5, 50)
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(B, K, generator=generator, dtype=torch.float64) * 3
    v = torch.randn(B, K, generator=generator, dtype=torch.float64) * 3
    return z.to(dtype), v.to(dtype), torch.randint(0, 2, (B, K), generator=generator)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(t: float, p: float) -> float:
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


@few
@given(seeds, st.floats(0, 0.49))
def test_cross_entropy_is_the_formula(seed: int, epsilon: float) -> None:
    z, _, y = draw(seed)
    expected = [
        sum(
            bce(1 - epsilon if t == 1 else epsilon, sigma(x))
            for x, t in zip(row, targets, strict=True)
        )
        for row, targets in zip(z.tolist(), y.tolist(), strict=True)
    ]
    for targets in (y, y.double(), y.float()):
        loss_B = binary_cross_entropy(z, targets, epsilon)
        assert loss_B.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@few
@given(seeds, temperatures)
def test_distillation_is_the_formula(seed: int, temperature: float) -> None:
    """T²·Σ_k [BCE(σ(v/T), z/T) − H(σ(v/T))]."""
    z, v, _ = draw(seed)
    expected = []
    for row_z, row_v in zip(z.tolist(), v.tolist(), strict=True):
        total = 0.0
        for a, b in zip(row_z, row_v, strict=True):
            p, q = sigma(a / temperature), sigma(b / temperature)
            total += bce(q, p) - bce(q, q)
        expected.append(temperature**2 * total)
    loss_B = sigmoid_distillation(z, v, temperature)
    assert loss_B.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-8)


@few
@given(seeds, temperatures)
def test_two_classes_of_a_softmax_are_one_label(seed: int, temperature: float) -> None:
    """softmax on (0, z) at T is σ(z/T)."""
    z, v, _ = draw(seed)
    student, teacher = (torch.stack([torch.zeros_like(x), x], -1).reshape(B * K, 2) for x in (z, v))
    pairs = distillation(student, F.log_softmax(teacher / temperature, -1), temperature)
    expected_B = pairs.reshape(B, K).sum(-1)
    loss_B = sigmoid_distillation(z, v, temperature)
    assert torch.allclose(loss_B, expected_B, rtol=1e-9, atol=1e-9)


@few
@given(seeds, temperatures)
def test_distillation_vanishes_at_a_match_only(seed: int, temperature: float) -> None:
    z, v, _ = draw(seed)
    assert (sigmoid_distillation(v, v, temperature) == 0).all()
    assert (sigmoid_distillation(z, v, temperature) > 0).all()


@few
@given(seeds, temperatures)
def test_gradient_is_the_difference_of_probabilities(seed: int, temperature: float) -> None:
    z, v, _ = draw(seed)
    z.requires_grad_()
    sigmoid_distillation(z, v, temperature).sum().backward()
    expected = temperature * ((z / temperature).sigmoid() - (v / temperature).sigmoid())
    assert torch.allclose(z.grad, expected, rtol=1e-9, atol=1e-9)


def test_unknown_labels_cost_nothing() -> None:
    z, _, y = draw(1)
    z.requires_grad_()
    plain_B = binary_cross_entropy(z, y, 0.1)
    y[2] = -1
    y[4, 0] = -1
    loss_B = binary_cross_entropy(z, y, 0.1)
    loss_B.sum().backward()
    assert loss_B[2] == 0
    assert z.grad[2].abs().sum() == z.grad[4, 0].abs() == 0
    assert torch.equal(loss_B[[0, 1, 3, 5]], plain_B[[0, 1, 3, 5]])
    assert torch.allclose(loss_B[4], binary_cross_entropy(z[4:5, 1:], y[4:5, 1:], 0.1)[0])


def test_no_gradient_reaches_the_teacher() -> None:
    z, v, _ = draw(0)
    z.requires_grad_()
    v.requires_grad_()
    sigmoid_distillation(z, v, 2.0).sum().backward()
    assert v.grad is None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("teacher_scale", [0.0, 1.0, 1e4])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float, teacher_scale: float) -> None:
    z, v, y = draw(5, dtype)
    z = (z * scale).requires_grad_()
    losses = binary_cross_entropy(z, y, 0.1), sigmoid_distillation(z, v * teacher_scale, 1.0)
    (losses[0] + losses[1]).sum().backward()
    assert all(loss_B.isfinite().all() for loss_B in losses)
    assert z.grad.isfinite().all()
