"""Soft labels against loops over samples and classes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.soft_targets import (
    class_relation,
    group_relation,
    grouped_targets,
    margin,
    mixed_targets,
    selected,
    soft_cross_entropy,
)
from tests.losses.draws import labelled

B, K = 6, 5
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)
GROUPS = [0, 7, 0, 0, 3]


draw = partial(labelled, B, K)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(x / temperature) for x in row]
    return [w / sum(weights) for w in weights]


@few
@given(seeds)
def test_soft_cross_entropy_is_the_formula(seed: int) -> None:
    z, _ = draw(seed)
    q = F.softmax(draw(seed + 1)[0], -1)
    expected = [
        -sum(a * math.log(b) for a, b in zip(q_row, softmax(z_row), strict=True))
        for q_row, z_row in zip(q.tolist(), z.tolist(), strict=True)
    ]
    assert soft_cross_entropy(z, q).tolist() == pytest.approx(expected, rel=1e-12)


@few
@given(seeds)
def test_one_hot_is_cross_entropy_to_the_bit(seed: int) -> None:
    z, y = draw(seed, torch.float32)
    z.requires_grad_()
    losses = soft_cross_entropy(z, F.one_hot(y, K)), F.cross_entropy(z, y, reduction="none")
    assert torch.equal(*losses)
    soft, hard = (torch.autograd.grad(loss_B.sum(), z)[0] for loss_B in losses)
    assert torch.allclose(soft, hard, atol=1e-7)


def test_a_row_of_zeros_costs_nothing() -> None:
    z, y = draw(1)
    z.requires_grad_()
    q = F.one_hot(y, K).double()
    q[2] = 0
    loss_B = soft_cross_entropy(z, q)
    loss_B.sum().backward()
    assert loss_B[2] == 0
    assert z.grad[2].abs().sum() == 0


def test_no_gradient_reaches_the_label() -> None:
    z, y = draw(2)
    z.requires_grad_()
    q = F.one_hot(y, K).double().requires_grad_()
    soft_cross_entropy(z, q).sum().backward()
    assert q.grad is None
    p = F.softmax(z.detach(), -1)
    assert torch.allclose(z.grad, p - q.detach())


def by_hand(group: list[int], e1: float, e2: float, exclude: bool) -> list[list[float]]:
    rows = []
    for y in range(len(group)):
        friends = [
            k for k in range(len(group)) if group[k] == group[y] and not (exclude and k == y)
        ] or [y]
        rows.append(
            [
                (1 - e1 - e2) * (k == y) + e1 / len(group) + e2 * (k in friends) / len(friends)
                for k in range(len(group))
            ]
        )
    return rows


@few
@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.floats(0, 0.5), st.floats(0, 0.5))
@pytest.mark.parametrize("exclude", [False, True])
def test_grouped_targets_are_the_formula(
    exclude: bool, group: list[int], e1: float, e2: float
) -> None:
    target = grouped_targets(group_relation(torch.tensor(group)), e1, e2, exclude)
    for row, expected in zip(target.tolist(), by_hand(group, e1, e2, exclude), strict=True):
        assert row == pytest.approx(expected, abs=1e-15)
        assert sum(row) == pytest.approx(1, abs=1e-14)
        assert min(row) >= 0


def test_five_woodpeckers() -> None:
    """A group of five within K = 6: a fifth of ε₂ each; the class alone keeps it."""
    group = torch.tensor([0, 0, 0, 0, 0, 1])
    target = grouped_targets(group_relation(group), 0.0, 0.1)
    assert target[0].tolist() == pytest.approx([0.92, 0.02, 0.02, 0.02, 0.02, 0])
    assert target[5].tolist() == pytest.approx([0, 0, 0, 0, 0, 1])
    apart = grouped_targets(group_relation(group), 0.0, 0.1, exclude_target=True)
    assert apart[0].tolist() == pytest.approx([0.9, 0.025, 0.025, 0.025, 0.025, 0])
    assert apart[5].tolist() == pytest.approx([0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("exclude", [False, True])
def test_grouped_targets_at_neutral_settings(exclude: bool) -> None:
    group, (z, y) = torch.tensor(GROUPS), draw(3)
    assert torch.equal(
        grouped_targets(group_relation(group), 0.0, 0.0, exclude), torch.eye(K).double()
    )
    smooth = grouped_targets(group_relation(group), 0.1, 0.0, exclude)
    assert torch.allclose(soft_cross_entropy(z, smooth[y]), cross_entropy(z, y, 0.1), atol=1e-12)
    # Everyone alone: ε₂ does nothing. Everyone together: it is more of ε₁.
    alone = grouped_targets(group_relation(torch.arange(K)), 0.1, 0.3, exclude)
    assert torch.allclose(alone, smooth, atol=1e-15)
    together = grouped_targets(group_relation(torch.zeros(K, dtype=torch.int64)), 0.1, 0.3)
    assert torch.allclose(together, grouped_targets(group_relation(group), 0.4, 0.0), atol=1e-15)


def test_shares_are_shares() -> None:
    for e1, e2 in ((-0.1, 0.0), (0.0, -0.1), (0.6, 0.6)):
        with pytest.raises(AssertionError):
            grouped_targets(group_relation(torch.tensor(GROUPS)), e1, e2)


@few
@given(seeds, st.floats(0.1, 10))
def test_class_relation_is_the_formula(seed: int, temperature: float) -> None:
    c = draw(seed)[0].T.contiguous()  # K classes of B values
    rows = c.tolist()
    norms = [math.sqrt(sum(x * x for x in row)) for row in rows]
    for i, found in enumerate(class_relation(c, temperature).tolist()):
        cosines = [
            sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / norms[i] / norms[j]
            for j in range(K)
        ]
        assert found == pytest.approx(softmax(cosines, temperature), rel=1e-9)


def test_class_relation_between_its_limits() -> None:
    c = draw(4)[0].T
    assert torch.allclose(class_relation(c, 1e-3), torch.eye(K).double(), atol=1e-7)
    assert torch.allclose(class_relation(c, 1e9), torch.full((K, K), 1 / K).double())
    assert torch.allclose(class_relation(c * 7, 0.5), class_relation(c, 0.5))
    # A class without a centroid resembles all alike.
    missing = class_relation(torch.cat([c[:-1], torch.zeros(1, B)]), 0.5)
    assert torch.allclose(missing[-1], torch.full((K,), 1 / K).double())


@few
@given(seeds)
def test_mixed_targets_are_the_sum(seed: int) -> None:
    q = [F.softmax(draw(seed + i)[0], -1) for i in range(3)]
    mixed = mixed_targets(list(zip((0.2, 0.5, 0.3), q, strict=True)))
    for b in range(B):
        for k in range(K):
            expected = 0.2 * q[0][b, k] + 0.5 * q[1][b, k] + 0.3 * q[2][b, k]
            assert mixed[b, k].item() == pytest.approx(expected.item())
    assert mixed.sum(-1).tolist() == pytest.approx([1.0] * B)


def test_a_mix_of_the_hard_label_is_the_hard_label() -> None:
    (z, y), soft = draw(5, torch.float32), F.softmax(draw(6, torch.float32)[0], -1)
    hard = F.one_hot(y, K).float()
    for parts in ([(1.0, hard)], [(1.0, hard), (0.0, soft)], [(0.0, soft), (1.0, hard)]):
        loss_B = soft_cross_entropy(z, mixed_targets(parts))
        assert torch.equal(loss_B, F.cross_entropy(z, y, reduction="none"))


def test_shares_make_up_one() -> None:
    q = torch.eye(K)
    for weights in ((0.5, 0.4), (1.5, -0.5), (1.0, 1.0)):
        with pytest.raises(AssertionError):
            mixed_targets([(weight, q) for weight in weights])


@few
@given(seeds)
def test_margin_is_the_formula(seed: int) -> None:
    z, y = draw(seed)
    z.requires_grad_()
    gap_B = margin(z, y)
    assert not gap_B.requires_grad
    for gap, row, label in zip(gap_B.tolist(), z.tolist(), y.tolist(), strict=True):
        p = softmax(row)
        assert gap == pytest.approx(p[label] - max(p[:label] + p[label + 1 :]), abs=1e-12)
        assert (gap > 0) == (p[label] == max(p))


def test_selected_are_those_below_the_margin() -> None:
    gap_B = torch.tensor([-1.0, -0.2, 0.0, 0.3, 1.0])
    assert selected(gap_B, 0.3).tolist() == [True, True, True, False, False]
    assert not selected(gap_B, -1.0).any()
    assert selected(gap_B, 1.1).all()


def test_unlabelled_have_no_lead() -> None:
    z, _ = draw(7)
    gap_B = margin(z, torch.tensor([0, -1, 2, -1, 4, 0]))
    assert gap_B[1] == gap_B[3] == -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e4])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float) -> None:
    z, y = draw(8, dtype)
    z = (z * scale).requires_grad_()
    relation = class_relation(z[:K], 0.5)
    loss_B = soft_cross_entropy(z, relation[y])
    gradient = torch.autograd.grad(loss_B.sum() + relation[0, 0], z)[0]
    assert loss_B.dtype == relation.dtype == torch.float32
    assert loss_B.isfinite().all()
    assert gradient.isfinite().all()
    assert (margin(z, y).abs() <= 1).all()
    assert torch.allclose(relation.sum(-1), torch.ones(K))
