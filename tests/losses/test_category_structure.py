"""Residuals about class centres, and cosines between centres, against loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.category_structure import centres, compact, inter, intra, right_answers

B, K, D = 8, 5, 4
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)
Row = list[float]
Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]
ALL: list[Loss] = [intra, inter, lambda s, t, y, k: compact(s, y, k)]
NAMES = ["intra", "inter", "compact"]


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, B, D, generator=generator, dtype=torch.float64).to(dtype) + 0.3
    return s, t, torch.randint(-1, K, (B,), generator=generator)


def means(values: Tensor, y: Tensor) -> dict[int, Row]:
    found = {}
    for k in range(K):
        rows = [row for row, label in zip(values.tolist(), y.tolist(), strict=True) if label == k]
        if rows:
            found[k] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return found


def residuals(values: Tensor, y: Tensor, of: dict[int, Row]) -> list[Row]:
    return [
        [x - c for x, c in zip(row, of[label], strict=True)]
        for row, label in zip(values.tolist(), y.tolist(), strict=True)
        if label in of
    ]


def mean_square(a: list[Row], b: list[Row]) -> float:
    cells = [(x - y) ** 2 for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]
    return sum(cells) / len(cells) if cells else 0.0


def cosines(of: dict[int, Row]) -> list[Row]:
    def cosine(a: Row, b: Row) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    return [[cosine(a, b) for b in of.values()] for a in of.values()]


@few
@given(seeds)
def test_centres_are_means(seed: int) -> None:
    s, _, y = draw(seed)
    centre, present = centres(s, y, K)
    expected = means(s, y)
    for k in range(K):
        assert present[k].item() == (k in expected)
        assert centre[k].tolist() == pytest.approx(expected.get(k, [0.0] * D))


@few
@given(seeds)
def test_all_are_the_formulas(seed: int) -> None:
    s, t, y = draw(seed)
    of_s, of_t = means(s, y), means(t, y)
    own, theirs = residuals(s, y, of_s), residuals(t, y, of_t)
    assert intra(s, t, y, K).item() == pytest.approx(mean_square(own, theirs), abs=1e-12)
    zero = [[0.0] * D for _ in own]
    assert compact(s, y, K).item() == pytest.approx(mean_square(own, zero), abs=1e-12)
    expected = mean_square(cosines(of_s), cosines(of_t)) if len(of_s) > 1 else 0.0
    assert inter(s, t, y, K).item() == pytest.approx(expected, abs=1e-12)


@few
@given(seeds)
def test_given_centres_take_the_place_of_the_batchs(seed: int) -> None:
    """Of a class without a centre, a sample is its own: that network's residual is 0."""
    s, t, y = draw(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    of_s, of_t = torch.randn(2, K, D, generator=generator, dtype=torch.float64)
    # Class 1 is known on one side only, class 2 on none.
    known = torch.tensor([True, True, False, True, True])
    given_s, given_t = (of_s, known), (of_t, known & (torch.arange(K) != 1))
    rows_s = {k: of_s[k].tolist() for k in (0, 1, 3, 4)}
    rows_t = {k: of_t[k].tolist() for k in (0, 3, 4)}
    cells = []
    for own, other, label in zip(s.tolist(), t.tolist(), y.tolist(), strict=True):
        if label >= 0:
            about, taught = rows_s.get(label, own), rows_t.get(label, other)
            for p, q, c, d in zip(own, other, about, taught, strict=True):
                cells.append(((q - d) - (p - c)) ** 2)
    found = intra(s, t, y, K, given_s, given_t).item()
    assert found == pytest.approx(sum(cells) / max(1, len(cells)), abs=1e-12)
    both = {k: of_s[k].tolist() for k in rows_t}
    expected = mean_square(cosines(both), cosines(rows_t))
    assert inter(s, t, y, K, given_s, given_t).item() == pytest.approx(expected, abs=1e-12)
    rows = residuals(s, y, rows_s)
    zero = [[0.0] * D for _ in rows]
    assert compact(s, y, K, given_s).item() == pytest.approx(mean_square(rows, zero), abs=1e-12)
    # What is given may be the batch's own.
    batch = centres(s, y, K), centres(t, y, K)
    for loss in (intra, inter):
        assert torch.equal(loss(s, t, y, K, *batch), loss(s, t, y, K))


def test_the_students_own_centre_is_a_constant() -> None:
    s, t, y = draw(1)
    s.requires_grad_()
    (found,) = torch.autograd.grad(compact(s, y, K), s)
    labelled = y >= 0
    residual = s.detach() - centres(s.detach(), y, K)[0][y.clamp(min=0)]
    expected = torch.where(labelled[:, None], 2 * residual / (labelled.sum() * D), 0.0)
    assert torch.allclose(found, expected)
    # Given centres that depend on the student: still a constant for these two, a path for inter.
    moving = centres(s, y, K)
    held = moving[0].detach(), moving[1]
    for loss, teaches in ((intra, False), (inter, True)):
        path, constant = (
            torch.autograd.grad(loss(s, t, y, K, of), s, allow_unused=True)[0]
            if loss(s, t, y, K, of).requires_grad
            else torch.zeros_like(s)
            for of in (moving, held)
        )
        assert torch.equal(path, constant) != teaches


def test_a_sample_without_a_centre_learns_from_the_teachers_residual() -> None:
    """Its own residual is 0, s − sg s, and its gradient −2·(t − c_T)/(B·D)."""
    s, t, _ = draw(8)
    s.requires_grad_()
    y = torch.arange(B) % 2
    nowhere = torch.zeros(K, D, dtype=torch.float64), torch.zeros(K, dtype=torch.bool)
    taught = centres(t, y, K)
    (found,) = torch.autograd.grad(intra(s, t, y, K, nowhere, taught), s)
    assert torch.allclose(found, -2 * (t - taught[0][y]) / (B * D))


def test_right_answers_are_those_of_the_network_that_is_asked() -> None:
    z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.0]])
    y = torch.tensor([0, 1, 1, -1])
    assert right_answers(z, y).tolist() == [0, -1, 1, -1]


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
def test_no_gradient_reaches_the_teacher(loss: Loss) -> None:
    s, t, y = draw(2)
    s.requires_grad_()
    t.requires_grad_()
    loss(s, t, y, K).backward()
    assert t.grad is None
    assert s.grad[y >= 0].abs().sum() > 0


def test_vanish_at_a_match_only() -> None:
    for seed in range(10):
        s, t, _ = draw(seed)
        y = torch.arange(B) % 3  # more than one sample of each class, or there is no residual
        for loss in (intra, inter):
            assert loss(t, t, y, K) == 0
            assert loss(s, t, y, K) > 0


def test_offsets_and_scales_that_do_not_count() -> None:
    s, t, y = draw(3)
    y = y.clamp(min=0)
    # Each class moved as a whole.
    offset = torch.randn(K, D, dtype=torch.float64)[y]
    assert torch.allclose(intra(s + offset, t, y, K), intra(s, t, y, K))
    rotation, _ = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))
    assert torch.allclose(inter(3 * s @ rotation, t, y, K), inter(s, t, y, K))
    wider = torch.cat([s, torch.zeros(B, 2, dtype=torch.float64)], -1)
    assert torch.allclose(inter(wider, t, y, K), inter(s, t, y, K))


def test_a_class_of_one_has_no_residual() -> None:
    s, t, _ = draw(4)
    s, t = s[:K].requires_grad_(), t[:K]
    y = torch.arange(K)
    for loss in (intra(s, t, y, K), compact(s, y, K)):
        assert loss.item() == pytest.approx(0, abs=1e-30)
        assert torch.autograd.grad(loss, s)[0].abs().max() < 1e-15
    assert inter(s, t, y, K) > 0


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
@pytest.mark.parametrize("label", [-1, 2])
def test_one_class_or_none_leaves_a_graph(loss: Loss, label: int) -> None:
    s, t, _ = draw(5)
    s.requires_grad_()
    value = loss(s, t, torch.full((B,), label), K)
    (gradient,) = torch.autograd.grad(value, s)
    assert gradient.isfinite().all()
    if label < 0 or loss is inter:
        assert value == 0
        assert gradient.abs().sum() == 0


def test_unlabelled_samples_have_no_part() -> None:
    s, t, y = draw(6)
    y[:2], y[2:] = -1, y[2:].clamp(min=0)
    for loss in ALL:
        assert torch.allclose(loss(s, t, y, K), loss(s[2:], t[2:], y[2:], K))


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e4])
def test_extremes_stay_finite(loss: Loss, dtype: torch.dtype, scale: float) -> None:
    s, t, y = draw(7, dtype)
    s = (s * scale).requires_grad_()
    value = loss(s, t, y, K)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert torch.autograd.grad(value, s)[0].isfinite().all()
