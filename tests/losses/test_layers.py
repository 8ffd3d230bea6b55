"""Losses between features against loops over every sample, channel and position."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.objectives.attention import attention, attention_map
from distill_cli.objectives.hint import hint
from distill_cli.objectives.rkd import relational_angle, relational_distance
from distill_cli.objectives.similarity import similarity

B = 4
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)
sizes = st.integers(1, 5)
Vector = list[float]
ALL: list[Callable[[Tensor, Tensor], Tensor]] = [
    hint,
    attention,
    similarity,
    lambda feat, teacher: relational_distance(feat.flatten(1), teacher.flatten(1)),
    lambda feat, teacher: relational_angle(feat.flatten(1), teacher.flatten(1)),
]
NAMES = ["hint", "attention", "similarity", "distance", "angle"]


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def norm(vector: Vector) -> float:
    return math.sqrt(sum(x * x for x in vector))


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(vector: Vector) -> Vector:
    return [x / norm(vector) for x in vector]


def less(a: Vector, b: Vector) -> Vector:
    return [x - y for x, y in zip(a, b, strict=True)]


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def mean(values: Vector) -> float:
    return sum(values) / len(values)


@few
@given(seeds)
def test_hint_is_the_formula(seed: int) -> None:
    s, t = features(seed, B, 3, 2, 4), features(seed + 1, B, 3, 2, 4)
    for b, loss in enumerate(hint(s, t).tolist()):
        cells = list(product(range(3), range(2), range(4)))
        total = sum((s[(b, *cell)].item() - t[(b, *cell)].item()) ** 2 for cell in cells)
        assert loss == pytest.approx(total / len(cells) / 2)


def test_hint_needs_one_shape() -> None:
    with pytest.raises(AssertionError):
        hint(torch.zeros(B, 3, 2, 2), torch.zeros(B, 1, 2, 2))


def energies(feat: Tensor, height: int, width: int) -> list[list[Vector]]:
    """mean_C F², averaged over adaptive windows: per sample, rows of numbers."""
    samples = []
    for sample in feat.tolist():
        size = len(sample[0]), len(sample[0][0])
        full = [
            [mean([channel[y][x] ** 2 for channel in sample]) for x in range(size[1])]
            for y in range(size[0])
        ]

        def window(i: int, size: int, windows: int) -> range:
            return range(math.floor(i * size / windows), math.ceil((i + 1) * size / windows))

        rows = []
        for i in range(height):
            ys = window(i, size[0], height)
            rows.append(
                [
                    mean([full[y][x] for y in ys for x in window(j, size[1], width)])
                    for j in range(width)
                ]
            )
        samples.append(rows)
    return samples


@few
@given(seeds)
def test_attention_map_is_the_formula(seed: int) -> None:
    feat = features(seed, B, 3, 2, 4)
    for found, rows in zip(attention_map(feat).tolist(), energies(feat, 2, 4), strict=True):
        assert found == pytest.approx(unit([x for row in rows for x in row]))


@few
@given(seeds, sizes, sizes, sizes, sizes)
def test_attention_is_the_formula(
    seed: int, h: int, w: int, teacher_h: int, teacher_w: int
) -> None:
    """Sizes that divide each other and that do not, the larger on either side."""
    s, t = features(seed, B, 2, h, w), features(seed + 1, B, 3, teacher_h, teacher_w)
    height, width = min(h, teacher_h), min(w, teacher_w)
    maps = zip(energies(s, height, width), energies(t, height, width), strict=True)
    expected = []
    for sample in maps:
        a, b = (unit([x for row in rows for x in row]) for rows in sample)
        expected.append(mean([x * x for x in less(a, b)]))
    assert attention(s, t).tolist() == pytest.approx(expected, abs=1e-12)


@few
@given(seeds, sizes, sizes, sizes)
def test_windows_are_pytorchs(seed: int, size: int, height: int, width: int) -> None:
    feat = features(seed, B, 1, size + 4, size + 7)
    pooled = F.adaptive_avg_pool2d(feat.square(), (height, width)).sqrt()
    assert attention(feat, pooled).abs().max() < 1e-15


@few
@given(seeds, st.floats(1e-3, 1e3))
def test_attention_sees_no_scale(seed: int, scale: float) -> None:
    s, t = features(seed, B, 2, 3, 3), features(seed + 1, B, 2, 3, 3)
    assert torch.allclose(attention(s * scale, t), attention(s, t))


@few
@given(seeds)
def test_similarity_is_the_formula(seed: int) -> None:
    s, t = features(seed, B, 3, 2, 2), features(seed + 1, B, 2, 3, 1)
    grams = []
    for feat in (s, t):
        rows = feat.flatten(1).tolist()
        grams.append([unit([dot(a, b) for b in rows]) for a in rows])
    total = sum((grams[1][i][j] - grams[0][i][j]) ** 2 for i in range(B) for j in range(B))
    assert similarity(s, t).item() == pytest.approx(total / B**2)


@few
@given(seeds)
def test_similarity_sees_no_rotation_or_scale(seed: int) -> None:
    s, t = features(seed, B, 6, 1, 1), features(seed + 1, B, 6, 1, 1)
    rotation, _ = torch.linalg.qr(features(seed + 2, 6, 6))
    turned = (s.flatten(1) @ rotation)[:, :, None, None] * 3
    assert torch.allclose(similarity(turned, t), similarity(s, t))


def distances(rows: list[Vector]) -> list[Vector]:
    plain = [[norm(less(a, b)) for b in rows] for a in rows]
    mu = mean([d for i, row in enumerate(plain) for j, d in enumerate(row) if i != j])
    return [[d / mu for d in row] for row in plain]


@few
@given(seeds, st.floats(0.1, 30))
def test_distance_is_the_formula(seed: int, spread: float) -> None:
    s, t = features(seed, B + 1, 3), features(seed + 1, B + 1, 6)
    # One row far off, so that the smooth L1 is met on both sides of 1; two rows in one place.
    s[0] += spread
    s[3] = s[2]
    a, b = distances(s.tolist()), distances(t.tolist())
    cells = product(range(B + 1), repeat=2)
    expected = mean([huber(a[i][j] - b[i][j]) for i, j in cells])
    assert relational_distance(s, t).item() == pytest.approx(expected)


def test_rows_that_coincide_count_in_the_mean_distance() -> None:
    """At 0, 0, 3 on a line the distances are 0, 3, 3 twice: μ = 2, not 3."""
    s, t = (
        torch.tensor([[0.0], [0.0], [3.0]]).double(),
        torch.tensor([[0.0], [1.0], [2.0]]).double(),
    )
    # Of the teacher 1, 2, 1 twice: μ = 4/3.
    pairs = [(0, 3 / 4), (3 / 2, 3 / 2), (3 / 2, 3 / 4)]
    expected = 2 * sum(huber(one - other) for one, other in pairs) / 9
    assert relational_distance(s, t).item() == pytest.approx(expected, rel=1e-12)


@few
@given(seeds)
def test_angle_is_the_formula(seed: int) -> None:
    s, t = features(seed, B + 1, 3), features(seed + 1, B + 1, 6)
    s[3] = s[2]

    def cosine(rows: list[Vector], i: int, j: int, k: int) -> float:
        a, b = less(rows[j], rows[i]), less(rows[k], rows[i])
        return dot(a, b) / (norm(a) * norm(b)) if norm(a) * norm(b) else 0.0

    rows, teacher = s.tolist(), t.tolist()
    expected = mean(
        [
            huber(cosine(rows, *ijk) - cosine(teacher, *ijk))
            for ijk in product(range(B + 1), repeat=3)
        ]
    )
    assert relational_angle(s, t).item() == pytest.approx(expected)


@few
@given(seeds, st.floats(1e-2, 1e2), st.floats(-10, 10))
def test_relations_see_no_motion_or_scale(seed: int, scale: float, offset: float) -> None:
    s, t = features(seed, B, 3), features(seed + 1, B, 6)
    rotation, _ = torch.linalg.qr(features(seed + 2, 3, 3))
    for loss in (relational_distance, relational_angle):
        assert torch.allclose(loss(s @ rotation * scale + offset, t), loss(s, t))


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
def test_vanishes_at_a_match_only(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    for seed in range(10):
        s, t = features(seed, B, 3, 2, 2), features(seed + 100, B, 3, 2, 2)
        assert loss(t, t).abs().max() == 0
        assert (loss(s, t) > 0).all()


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
def test_no_gradient_reaches_the_teacher(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    s = features(0, B, 3, 2, 2).requires_grad_()
    t = features(1, B, 3, 2, 2).requires_grad_()
    loss(s, t).sum().backward()
    assert t.grad is None
    assert s.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
def test_gradient_is_the_slope(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    s, t = features(7, B, 2, 2, 2).requires_grad_(), features(8, B, 2, 2, 2)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s,))


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
@pytest.mark.parametrize("case", ["plain", "zero", "identical", "nearly", "large", "tiny"])
def test_extremes_stay_finite_and_tame(loss: Callable[[Tensor, Tensor], Tensor], case: str) -> None:
    s = features(3, B, 3, 2, 2)
    if case in ("identical", "nearly"):
        s[1:3] = s[0]
    if case == "nearly":
        s[1] *= 1 + 1e-7
    s = s * {"zero": 0.0, "large": 1e4, "tiny": 1e-6}.get(case, 1.0)
    t = features(4, B, 3, 2, 2)
    teachers = t, torch.zeros_like(t), t[:1].expand_as(t)
    for dtype, t in product((torch.float32, torch.bfloat16, torch.float16), teachers):
        student = s.to(dtype).requires_grad_()
        value = loss(student, t.to(dtype))
        assert value.dtype == torch.float32
        gradient = torch.autograd.grad(value.sum(), student)[0]
        assert value.isfinite().all()
        # Where scale does not count, features of 1e-6 have gradients of 1e6: beyond fp16.
        assert gradient.isfinite().all() or (dtype == torch.float16 and case == "tiny")
        if case in ("identical", "nearly"):
            assert gradient.abs().max() < 10
