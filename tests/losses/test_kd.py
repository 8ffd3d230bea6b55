"""Losses against closed forms in fp64 and hand-written loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.kd import distillation

B, K = 6, 5
temperatures = st.floats(0.5, 50)
seeds = st.integers(0, 10_000)


def logits(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(B, K, generator=generator, dtype=dtype) * 3
    v = torch.randn(B, K, generator=generator, dtype=dtype) * 3
    return z, v


def by_hand(z: Tensor, v: Tensor, temperature: float) -> list[float]:
    """T²·Σ_k q_k (log q_k − log p_k), in loops."""
    losses = []
    for row_z, row_v in zip(z.tolist(), v.tolist(), strict=True):
        p = [math.exp(x / temperature) for x in row_z]
        q = [math.exp(x / temperature) for x in row_v]
        p = [x / sum(p) for x in p]
        q = [x / sum(q) for x in q]
        kl = sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))
        losses.append(temperature**2 * kl)
    return losses


@given(seeds, temperatures)
def test_kd_is_the_formula(seed: int, temperature: float) -> None:
    z, v = logits(seed)
    loss_B = distillation(z, F.log_softmax(v / temperature, -1), temperature)
    assert loss_B.tolist() == pytest.approx(by_hand(z, v, temperature), rel=1e-9, abs=1e-9)


@given(seeds)
def test_kd_gradient_at_t1_is_p_minus_q(seed: int) -> None:
    z, v = logits(seed)
    z.requires_grad_()
    distillation(z, F.log_softmax(v, -1), 1.0).sum().backward()
    assert torch.allclose(z.grad, F.softmax(z, -1) - F.softmax(v, -1), atol=1e-12)


@given(seeds)
def test_large_temperature_is_logit_matching(seed: int) -> None:
    """T²·∂KL/∂z → (z − v)/K for centred logits (Hinton 2014, eq. 4)."""
    z, v = logits(seed)
    z = (z - z.mean(-1, keepdim=True)).requires_grad_()
    v = v - v.mean(-1, keepdim=True)
    temperature = 1e4
    distillation(z, F.log_softmax(v / temperature, -1), temperature).sum().backward()
    assert torch.allclose(z.grad, (z - v) / K, atol=5e-3)


@given(seeds, temperatures)
def test_kd_vanishes_at_a_match_and_only_there(seed: int, temperature: float) -> None:
    z, v = logits(seed)
    assert distillation(v, F.log_softmax(v / temperature, -1), temperature).abs().max() < 1e-9
    assert (distillation(z, F.log_softmax(v / temperature, -1), temperature) > 0).all()


@given(seeds, temperatures, st.floats(-100, 100))
def test_kd_does_not_see_a_shift_of_logits(seed: int, temperature: float, shift: float) -> None:
    z, v = logits(seed)
    teacher = F.log_softmax(v / temperature, -1)
    plain, shifted = (distillation(x, teacher, temperature) for x in (z, z + shift))
    assert torch.allclose(plain, shifted, rtol=1e-8, atol=1e-8)


def test_two_classes_equal_the_sigmoid() -> None:
    """softmax on (0, z) at T is σ(z/T)."""
    z, v, temperature = torch.tensor([1.3, -0.4]).double(), torch.tensor([2.0, 0.7]).double(), 3.0
    both = [torch.stack([torch.zeros_like(x), x], -1) for x in (z, v)]
    loss_B = distillation(both[0], F.log_softmax(both[1] / temperature, -1), temperature)
    p = torch.sigmoid(v / temperature)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    bce = F.binary_cross_entropy_with_logits(z / temperature, p, reduction="none")
    assert torch.allclose(loss_B, temperature**2 * (bce - entropy))


def test_no_gradient_reaches_the_teacher() -> None:
    z, v = logits(0)
    z.requires_grad_()
    v.requires_grad_()
    distillation(z, F.log_softmax(v / 2, -1), 2.0).sum().backward()
    assert v.grad is None
    assert z.grad is not None


@given(seeds, st.floats(0, 0.9))
def test_smoothing_is_the_formula(seed: int, epsilon: float) -> None:
    z, _ = logits(seed)
    target = torch.arange(B) % K
    q = torch.full((B, K), epsilon / K, dtype=torch.float64)
    q[torch.arange(B), target] += 1 - epsilon
    expected = -(q * F.log_softmax(z, -1)).sum(-1)
    assert torch.allclose(cross_entropy(z, target, epsilon), expected, atol=1e-12)


def test_smoothing_zero_is_cross_entropy_to_the_bit() -> None:
    z, _ = logits(1, torch.float32)
    target = torch.arange(B) % K
    assert torch.equal(cross_entropy(z, target, 0.0), F.cross_entropy(z, target, reduction="none"))


def test_unlabelled_samples_cost_nothing() -> None:
    z, _ = logits(2)
    z.requires_grad_()
    loss_B = cross_entropy(z, torch.tensor([0, -1, 2, -1, 4, 0]))
    loss_B.sum().backward()
    assert loss_B[1] == loss_B[3] == 0
    assert z.grad[1].abs().sum() == 0
