"""Coarse and noisy hard labels: sums by hand as the oracle, and what they are in the limit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.objectives.coarse import coarse_cross_entropy
from distill_cli.objectives.forward import forward_cross_entropy
from tests.losses.draws import labelled

B, K = 9, 6
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(x - max(row)) for x in row]
    return [w / sum(weights) for w in weights]


@few
@given(seeds, st.lists(st.integers(0, 3), min_size=K, max_size=K))
def test_coarse_is_the_formula(seed: int, groups: list[int]) -> None:
    z, y = labelled(B, K, seed)
    y[0] = -1
    expected = []
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        p = softmax(row)
        inside = [p[k] for k in range(K) if groups[k] == groups[label]]
        expected.append(0.0 if label < 0 else -math.log(sum(inside)))
    found = coarse_cross_entropy(z, y, torch.tensor(groups))
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@few
@given(seeds, st.sampled_from([1.0, 100.0]))
def test_groups_of_one_are_cross_entropy_and_one_group_is_0(seed: int, scale: float) -> None:
    z, y = labelled(B, K, seed, torch.float32)
    z, y = z * scale, y.index_fill(0, torch.tensor([0]), -1)
    z.requires_grad_()
    single = coarse_cross_entropy(z, y, torch.arange(K))
    plain = F.cross_entropy(z, y, ignore_index=-1, reduction="none")
    # One unit in the last place of the larger of the two logarithms.
    torch.testing.assert_close(single, plain, rtol=3e-7, atol=3e-7)
    all_in_one = coarse_cross_entropy(z, y, torch.zeros(K, dtype=torch.int64))
    assert all_in_one.tolist() == [0.0] * B
    (gradient,) = torch.autograd.grad(all_in_one.sum(), z)
    assert float(gradient.abs().max()) < 1e-6


def noise(seed: int) -> Tensor:
    draw = torch.rand(K, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draw = draw * (draw > 0.4) + torch.eye(K)
    return draw / draw.sum(dim=-1, keepdim=True)


@few
@given(seeds)
def test_forward_is_the_formula(seed: int) -> None:
    """Zero entries are there; unlabelled is 0."""
    z, y = labelled(B, K, seed)
    y[0] = -1
    matrix = noise(seed)
    expected = []
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        seen = sum(p * float(matrix[k, label]) for k, p in enumerate(softmax(row)))
        expected.append(0.0 if label < 0 else -math.log(seen))
    found = forward_cross_entropy(z, y, matrix.log())
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@few
@given(seeds, st.sampled_from([1.0, 1000.0]))
def test_forward_through_no_noise_is_cross_entropy(seed: int, scale: float) -> None:
    """To the bit, its gradients to rounding; of answers far from every label they are no NaN."""
    z, y = labelled(B, K, seed, torch.float32)
    z, y = z * scale, y.index_fill(0, torch.tensor([0]), -1)
    z.requires_grad_()
    found = forward_cross_entropy(z, y, torch.eye(K).log())
    plain = F.cross_entropy(z, y, ignore_index=-1, reduction="none")
    assert torch.equal(found, plain)
    gradients = [torch.autograd.grad(loss.sum(), z)[0] for loss in (found, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["coarse", "forward"])
def test_no_label_at_all_is_0_with_gradients_of_0(loss: str) -> None:
    """A column of the matrix that no class has is only wrong where it is a label."""
    z, y = labelled(B, K, 0, torch.float32)
    z.requires_grad_()
    matrix = torch.eye(K).index_fill(1, torch.tensor([0]), 0).index_fill(1, torch.tensor([1]), 1)
    for target in (torch.full_like(y, -1), y.clamp(min=1).index_fill(0, torch.arange(4), -1)):
        found = (
            coarse_cross_entropy(z, target, torch.arange(K) // 2)
            if loss == "coarse"
            else forward_cross_entropy(z, target, matrix.log())
        )
        (gradient,) = torch.autograd.grad(found.sum(), z)
        unlabelled = target == -1
        assert found.isfinite().all()
        assert gradient.isfinite().all()
        assert float(found[unlabelled].abs().sum() + gradient[unlabelled].abs().sum()) == 0
    none = forward_cross_entropy(z[:0], y[:0], matrix.log())
    assert none.shape == coarse_cross_entropy(z[:0], y[:0], torch.arange(K)).shape == (0,)
