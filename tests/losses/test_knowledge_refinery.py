"""Residual labels against loops; who learns from which part."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.other_classes import others
from distill_cli.objectives.knowledge_refinery import refine

B, K = 6, 5
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(B, K, generator=generator, dtype=torch.float64) * 3
    s = torch.randn(K, K - 1, generator=generator, dtype=torch.float64)
    return z.to(dtype), s.to(dtype), torch.randint(0, K, (B,), generator=generator)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def kl(q: list[float], p: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))


@few
@given(seeds)
def test_others_keep_their_order(seed: int) -> None:
    z, _, y = draw(seed)
    rows = zip(others(z, y).tolist(), z.tolist(), y.tolist(), strict=True)
    for found, row, label in rows:
        assert found == [x for k, x in enumerate(row) if k != label]


@few
@given(seeds, st.booleans())
def test_refine_is_the_formula(seed: int, reverse: bool) -> None:
    z, s, y = draw(seed)
    student_B, matrix_B = refine(z, s, y, reverse)
    for b, label in enumerate(y.tolist()):
        p = softmax([x for k, x in enumerate(z[b].tolist()) if k != label])
        q = softmax(s[label].tolist())
        forward, backward = kl(p, q), kl(q, p)
        student, matrix = (backward, forward) if reverse else (forward, backward)
        assert student_B[b].item() == pytest.approx(student, rel=1e-9, abs=1e-12)
        assert matrix_B[b].item() == pytest.approx(matrix, rel=1e-9, abs=1e-12)


@few
@given(seeds, st.booleans())
def test_each_part_teaches_one_side(seed: int, reverse: bool) -> None:
    z, s, y = draw(seed)
    z.requires_grad_()
    s.requires_grad_()
    student_B, matrix_B = refine(z, s, y, reverse)
    to_z, to_s = torch.autograd.grad(student_B.sum(), (z, s), allow_unused=True)
    assert to_z.abs().sum() > 0
    assert to_s is None
    # The target's own logit is not taught.
    assert to_z[torch.arange(B), y].abs().sum() == 0
    to_z, to_s = torch.autograd.grad(matrix_B.sum(), (z, s), allow_unused=True)
    assert to_z is None
    absent = [k for k in range(K) if k not in y.tolist()]
    assert to_s.abs().sum() > 0
    assert to_s[absent].abs().sum() == 0


@few
@given(seeds)
def test_gradients_in_the_reverse_direction(seed: int) -> None:
    """KL(sg q ‖ p) has p − q, for the student as for the labels."""
    z, s, y = draw(seed)
    z.requires_grad_()
    s.requires_grad_()
    student_B, matrix_B = refine(z, s, y, reverse=True)
    (student_B.sum() + matrix_B.sum()).backward()
    p, q = F.softmax(others(z, y), -1).detach(), F.softmax(s[y], -1).detach()
    assert torch.allclose(others(z.grad, y), p - q, atol=1e-12)
    expected = torch.zeros(K, K - 1, dtype=torch.float64).index_add_(0, y, q - p)
    assert torch.allclose(s.grad, expected, atol=1e-12)


def test_labels_start_uniform() -> None:
    """KL(p ‖ uniform) = log(K − 1) − H(p)."""
    z, s, y = draw(3)
    student_B, _ = refine(z, torch.zeros_like(s), y)
    log_p = F.log_softmax(others(z, y), -1)
    entropy_B = -(log_p.exp() * log_p).sum(-1)
    assert torch.allclose(student_B, math.log(K - 1) - entropy_B)


def test_vanishes_at_a_match_and_for_two_classes() -> None:
    z, s, y = draw(4)
    for k in range(K):
        z[y == k] = torch.cat([s[k, :k], s.new_tensor([9.0]), s[k, k:]]) + 1
    for part_B in refine(z, s, y) + refine(z, s, y, reverse=True):
        assert part_B.abs().max() < 1e-12
    for part_B in refine(z[:, :2], s[:2, :1], y % 2):
        assert (part_B == 0).all()


def test_unlabelled_samples_cost_nothing() -> None:
    z, s, y = draw(5)
    z.requires_grad_()
    s.requires_grad_()
    some = y.index_fill(0, torch.tensor([0, 4]), -1)
    for part_B, whole_B in zip(refine(z, s, some), refine(z, s, y), strict=True):
        assert part_B[0] == part_B[4] == 0
        assert torch.equal(part_B[1:4], whole_B[1:4])
    student_B, matrix_B = refine(z, s, torch.full((B,), -1))
    (student_B.sum() + matrix_B.sum()).backward()
    assert z.grad.abs().sum() == s.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("reverse", [False, True])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float, reverse: bool) -> None:
    z, s, y = draw(6, dtype)
    z, s = (z * scale).requires_grad_(), (s * -scale).requires_grad_()
    student_B, matrix_B = refine(z, s, y, reverse)
    (student_B.sum() + matrix_B.sum()).backward()
    for tensor in (student_B, matrix_B, z.grad, s.grad):
        assert tensor.isfinite().all()
    assert student_B.dtype == matrix_B.dtype == torch.float32
