"""Local dimension against loops and known sets; labels that follow the network."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.d2l import adapted_targets, local_dimension
from distill_cli.losses.soft_targets import soft_cross_entropy

B, K, D = 12, 5, 3
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def draw(seed: int, rows: int = B, columns: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def lid(rows: list[list[float]], i: int, k: int) -> float:
    radii = sorted(math.dist(rows[i], row) for j, row in enumerate(rows) if j != i)[:k]
    return -1 / (sum(math.log(r / radii[-1]) for r in radii) / len(radii))


@few
@given(seeds, st.integers(2, 15))
def test_local_dimension_is_the_formula(seed: int, k: int) -> None:
    """Also for more neighbours than there are."""
    f = draw(seed)
    expected = [lid(f.tolist(), i, k) for i in range(B)]
    assert local_dimension(f, k).tolist() == pytest.approx(expected, rel=1e-9)
    # Where the neighbours are all but equally far, their mean log ratio is a difference of like numbers.
    ratios = local_dimension(f.float(), k).reciprocal().tolist()
    assert ratios == pytest.approx([1 / value for value in expected], rel=1e-4, abs=1e-6)


def ball(n: int, d: int, within: int) -> Tensor:
    """Uniform in the d-ball, turned into a space of `within` dimensions."""
    direction = F.normalize(draw(d, n, d), dim=-1)
    generator = torch.Generator().manual_seed(d + 1)
    radius = torch.rand(n, 1, generator=generator, dtype=torch.float64) ** (1 / d)
    rotation, _ = torch.linalg.qr(draw(d + 2, within, within))
    return (direction * radius) @ rotation[:d]


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dimension_of_a_ball_is_found(d: int, dtype: torch.dtype) -> None:
    lid_B = local_dimension(ball(2000, d, 32).to(dtype))
    # The surface and the few samples draw it down a little in many dimensions.
    assert lid_B.mean().item() == pytest.approx(d, rel=0.2)


def test_scale_rotation_and_offset_do_not_count() -> None:
    f = draw(1)
    rotation, _ = torch.linalg.qr(draw(2, D, D))
    assert torch.allclose(local_dimension(7 * f @ rotation + 3, 5), local_dimension(f, 5))


def test_duplicates_are_no_neighbours() -> None:
    f = draw(3)
    twice = torch.cat([f, f[:1], f[:1]])
    lid_B = local_dimension(twice, 5)
    assert lid_B[0] == lid_B[-1] == lid_B[-2]
    assert lid_B[0].item() == pytest.approx(local_dimension(f, 5)[0].item())
    # By index, not as the nearest: the first of the sorted distances need not be one's own.
    one_apart = torch.cat([torch.zeros(6, 2), torch.tensor([[1.0, 0.0], [0.0, 3.0]])])
    radii = [1.0, 3.0]
    expected = -1 / (sum(math.log(r / 3) for r in radii) / 2)
    assert local_dimension(one_apart, 5)[:6].tolist() == pytest.approx([expected] * 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extremes_stay_finite(dtype: torch.dtype) -> None:
    f = draw(4)
    cases = {
        "zero": f * 0,
        "two places": f.sign()[:, :1],
        "simplex": torch.eye(B),
        "large": f * 1e15,
        "small": f * 1e-15,
        "one": f[:1],
        "two": f[:2],
    }
    for name, rows in cases.items():
        lid_B = local_dimension(rows.to(dtype))
        assert lid_B.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert lid_B.shape == rows.shape[:1]
        assert lid_B.isfinite().all(), name
        assert (lid_B >= 0).all(), name
    assert (local_dimension(cases["zero"]) == 0).all()
    assert (local_dimension(cases["two"]) == 0).all()
    # All neighbours equally far: any dimension would do.
    assert (local_dimension(cases["simplex"]) == 0).all()


def test_no_gradient_reaches_the_features() -> None:
    assert not local_dimension(draw(5).requires_grad_()).requires_grad


@few
@given(seeds, st.floats(0, 1))
def test_adapted_targets_are_the_formula(seed: int, alpha: float) -> None:
    z = draw(seed, B, K).requires_grad_()
    y = torch.randint(-1, K, (B,), generator=torch.Generator().manual_seed(seed))
    target = adapted_targets(y, z, alpha)
    assert not target.requires_grad
    for found, row, label in zip(target.tolist(), z.tolist(), y.tolist(), strict=True):
        answer = max(range(K), key=lambda k: row[k])
        expected = [alpha * (k == label) + (1 - alpha) * (k == answer) for k in range(K)]
        assert found == pytest.approx(expected if label >= 0 else [0.0] * K)


def test_a_trusted_label_is_cross_entropy_to_the_bit() -> None:
    z, y = draw(6, B, K).float(), torch.arange(B) % K
    for logits in (z, z.bfloat16()):
        loss_B = soft_cross_entropy(logits, adapted_targets(y, logits, 1.0))
        assert torch.equal(loss_B, F.cross_entropy(logits.float(), y, reduction="none"))
    trusting_itself = soft_cross_entropy(z, adapted_targets(y, z, 0.0))
    assert torch.equal(trusting_itself, F.cross_entropy(z, z.argmax(-1), reduction="none"))
