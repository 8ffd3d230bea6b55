"""Redrawn labels: the draw itself, and its expectation by going through all outcomes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.objectives.disturb_label import disturbed

B, K = 6, 5
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def draw(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(B, K, generator=generator, dtype=torch.float64) * 3
    uniform = torch.rand(B, 2, generator=generator, dtype=torch.float64)
    return z, torch.randint(-1, K, (B,), generator=generator), uniform


@few
@given(seeds, st.floats(0, 1))
def test_disturbed_is_the_rule(seed: int, alpha: float) -> None:
    _, y, uniform = draw(seed)
    expected = [
        int(which * K) if label >= 0 and whether < alpha else label
        for label, (whether, which) in zip(y.tolist(), uniform.tolist(), strict=True)
    ]
    found = disturbed(y, K, alpha, uniform)
    assert found.tolist() == expected
    assert found.dtype == torch.int64


@few
@given(seeds, st.integers(0, 10))
def test_mean_gradient_is_smoothings(seed: int, tenths: int) -> None:
    """All ten outcomes of "whether" by all K of "which", each as probable as another."""
    z, y, _ = draw(seed)
    z.requires_grad_()
    losses = []
    for i in range(10):
        for k in range(K):
            cell = torch.tensor([(i + 0.5) / 10, (k + 0.5) / K], dtype=torch.float64)
            drawn = disturbed(y, K, tenths / 10, cell.expand(B, 2))
            losses.append(cross_entropy(z, drawn))
    mean_B, smooth_B = torch.stack(losses).mean(0), cross_entropy(z, y, tenths / 10)
    assert torch.allclose(mean_B, smooth_B, atol=1e-12)
    gradients = [torch.autograd.grad(loss_B.sum(), z)[0] for loss_B in (mean_B, smooth_B)]
    assert torch.allclose(*gradients, atol=1e-12)


def test_zero_is_cross_entropy_to_the_bit() -> None:
    z, y, uniform = draw(1)
    uniform[0, 0] = 0.0
    assert torch.equal(disturbed(y, K, 0.0, uniform), y)
    y = y.clamp(min=0)
    loss_B = cross_entropy(z, disturbed(y, K, 0.0, uniform))
    assert torch.equal(loss_B, F.cross_entropy(z, y, reduction="none"))


def test_rate_of_wrong_labels() -> None:
    """α·(K − 1)/K, within five standard deviations."""
    n, alpha = 20_000, 0.2
    uniform = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % K
    rate = (disturbed(y, K, alpha, uniform) != y).double().mean().item()
    expected = alpha * (K - 1) / K
    assert rate == pytest.approx(expected, abs=5 * (expected * (1 - expected) / n) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 3, 100])
def test_a_draw_next_to_one_is_a_class(dtype: torch.dtype, classes: int) -> None:
    y = torch.tensor([0, 1, -1])
    below_one = 1 - torch.finfo(dtype).eps / 2
    for edge in (0.0, below_one, 1.0):
        uniform = torch.tensor([[0.0, edge]] * 3, dtype=dtype)
        found = disturbed(y, classes, 0.5, uniform)
        assert found.tolist() == [0 if edge == 0 else classes - 1] * 2 + [-1]
