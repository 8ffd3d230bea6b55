"""Losses against made-up labels: loops over samples and classes as the oracle, and their limits."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.pseudo_label import class_fairness, pseudo_cross_entropy
from tests.losses.draws import student_and_teacher

B, K = 9, 5
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)
draw = partial(student_and_teacher, B, K)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [w / sum(weights) for w in weights]


def some(seed: int, share: float = 0.6) -> Tensor:
    return torch.rand(B, generator=torch.Generator().manual_seed(seed + 1)) < share


@few
@given(seeds, st.sampled_from([None, 0.5, 1.0, 3.0]))
def test_cross_entropy_is_the_formula(seed: int, temperature: float | None) -> None:
    z, v, _ = draw(seed)
    accepted = some(seed)
    expected = []
    for row_z, row_v, taken in zip(z.tolist(), v.tolist(), accepted.tolist(), strict=True):
        p, q = softmax(row_z), softmax(row_v)
        if temperature is None:
            loss = -math.log(p[q.index(max(q))])
        else:
            powers = [x ** (1 / temperature) for x in q]
            loss = -sum(x / sum(powers) * math.log(y) for x, y in zip(powers, p, strict=True))
        expected.append(loss if taken else 0.0)
    found = pseudo_cross_entropy(z, F.log_softmax(v, -1), accepted, temperature)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def fairness_by_hand(
    z: list[list[float]], accepted: list[bool], mean: list[float], hist: list[float]
) -> float:
    """Equations 9 to 12 of FreeMatch, an empty bin of h left out, as USB does."""
    rows = [softmax(row) for row, taken in zip(z, accepted, strict=True) if taken]
    if not rows:
        return 0.0
    own_mean = [sum(row[k] for row in rows) / len(rows) for k in range(K)]
    own_hist = [sum(row.index(max(row)) == k for row in rows) / len(rows) for k in range(K)]

    def norm(p: list[float], h: list[float]) -> list[float]:
        ratio = [x / y if y > 0 else 0.0 for x, y in zip(p, h, strict=True)]
        return [x / sum(ratio) for x in ratio]

    pairs = zip(norm(mean, hist), norm(own_mean, own_hist), strict=True)
    return sum(a * math.log(b + 1e-12) for a, b in pairs)


@few
@given(seeds, st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_fairness_is_the_formula(seed: int, share: float) -> None:
    z, v, _ = draw(seed)
    accepted = some(seed, share)
    hist = F.softmax(v[0], -1)
    mean = F.softmax(v[1], -1)
    expected = fairness_by_hand(z.tolist(), accepted.tolist(), mean.tolist(), hist.tolist())
    found = class_fairness(z, accepted, mean, hist)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(found) <= 0


def test_fairness_has_the_gradient_of_a_version_that_picks_rows() -> None:
    """Written as FreeMatch's code is: the accepted rows are taken out, and bins counted."""
    z, v, _ = draw(3)
    accepted, mean, hist = some(3), F.softmax(v[1], -1), F.softmax(v[0], -1)

    def plain(z: Tensor) -> Tensor:
        probs = z[accepted].softmax(-1)
        bins = torch.bincount(probs.argmax(-1), minlength=K).double() / len(probs)
        own = probs.mean(0) * torch.tensor([1 / x if x else 0.0 for x in bins.tolist()]).double()
        return (mean / hist / (mean / hist).sum() * (own / own.sum() + 1e-12).log()).sum()

    first, second = z.clone().requires_grad_(), z.clone().requires_grad_()
    class_fairness(first, accepted, mean, hist).backward()
    plain(second).backward()
    assert first.grad is not None
    torch.testing.assert_close(first.grad, second.grad)
    assert float(first.grad[accepted].abs().sum()) > 0
    assert float(first.grad[~accepted].abs().sum()) == 0


def test_fairness_is_largest_where_every_class_is_as_sure_as_often() -> None:
    """−log K there; a class that is rare for its mass makes it smaller, which is what it rewards."""
    even, everything = torch.full((K,), 1 / K).double(), torch.ones(K, dtype=torch.bool)
    z = 6 * torch.eye(K).double()
    assert float(class_fairness(z, everything, even, even)) == pytest.approx(-math.log(K), rel=1e-6)
    # The first class takes mass in every row and is the likeliest in one.
    leaning = (z + torch.tensor([3.0, 0, 0, 0, 0])).requires_grad_()
    assert float(class_fairness(leaning.detach(), everything, even, even)) < -math.log(K)
    (gradient,) = torch.autograd.grad(class_fairness(leaning, everything, even, even), leaning)
    assert bool((gradient[:, 0] < 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_nothing_accepted_is_0_with_gradients_of_0(
    dtype: torch.dtype, temperature: float | None
) -> None:
    z, v, _ = student_and_teacher(B, K, 1, dtype)
    # A teacher that is certain, and a class that nobody ever named.
    log_q = F.log_softmax(v, -1).masked_fill(F.one_hot(torch.arange(B) % K, K) == 0, -torch.inf)
    z.requires_grad_()
    none, even = torch.zeros(B, dtype=torch.bool), torch.full((K,), 1 / K, dtype=dtype)
    empty = torch.zeros(K, dtype=dtype)
    for memory in (even, empty):
        loss = class_fairness(z, none, even, memory)
        loss = loss + pseudo_cross_entropy(z, log_q, none, temperature).sum()
        assert float(loss.detach()) == 0
        (gradient,) = torch.autograd.grad(loss, z)
        assert torch.equal(gradient, torch.zeros_like(z))
    # With some of them, a −∞ of the teacher's is no NaN.
    loss = pseudo_cross_entropy(z, log_q, ~none, temperature).sum()
    (gradient,) = torch.autograd.grad(loss + class_fairness(z, ~none, even, empty), z)
    assert gradient.isfinite().all()
