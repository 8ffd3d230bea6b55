"""Target class against the rest, and the rest among itself; logarithms by hand as the oracle."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.kd import distillation
from distill_cli.objectives.dkd import decoupled
from tests.losses.draws import student_and_teacher

B, K = 6, 5
temperatures = st.floats(0.5, 50)
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


draw = partial(student_and_teacher, B, K)


def softmax(row: list[float], temperature: float) -> list[float]:
    weights = [math.exp(x / temperature) for x in row]
    return [w / sum(weights) for w in weights]


def kl(q: list[float], p: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))


def by_hand(z: Tensor, v: Tensor, y: Tensor, temperature: float) -> tuple[list[float], list[float]]:
    tckd, nckd = [], []
    for row_z, row_v, label in zip(z.tolist(), v.tolist(), y.tolist(), strict=True):
        p, q = softmax(row_z, temperature), softmax(row_v, temperature)
        tckd.append(temperature**2 * kl([q[label], 1 - q[label]], [p[label], 1 - p[label]]))
        # Softmax over the other logits alone: no division by 1 − p_y.
        rest = [[x for k, x in enumerate(row) if k != label] for row in (row_v, row_z)]
        nckd.append(temperature**2 * kl(*(softmax(row, temperature) for row in rest)))
    return tckd, nckd


@few
@given(seeds, temperatures)
def test_both_parts_are_the_formulas(seed: int, temperature: float) -> None:
    z, v, y = draw(seed)
    parts = decoupled(z, F.log_softmax(v / temperature, -1), y, temperature)
    for part_B, expected in zip(parts, by_hand(z, v, y, temperature), strict=True):
        assert part_B.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-8)


@few
@given(seeds, temperatures)
def test_parts_make_up_distillation(seed: int, temperature: float) -> None:
    """KD = TCKD + (1 − q_y)·NCKD, in value and in gradient."""
    z, v, y = draw(seed)
    z.requires_grad_()
    teacher = F.log_softmax(v / temperature, -1)
    tckd_B, nckd_B = decoupled(z, teacher, y, temperature)
    rest_B = 1 - teacher.exp()[torch.arange(B), y]
    whole_B = distillation(z, teacher, temperature)
    sum_B = tckd_B + rest_B * nckd_B
    assert torch.allclose(sum_B, whole_B, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss_B.sum(), z)[0] for loss_B in (sum_B, whole_B)]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-9)


@few
@given(seeds, temperatures)
def test_parts_vanish_at_a_match_and_are_never_negative(seed: int, temperature: float) -> None:
    z, v, y = draw(seed)
    teacher = F.log_softmax(v / temperature, -1)
    for part_B in decoupled(v, teacher, y, temperature):
        assert part_B.abs().max() < 1e-9
    for part_B in decoupled(z, teacher, y, temperature):
        assert (part_B > 0).all()


@few
@given(seeds)
def test_other_classes_do_not_see_the_target(seed: int) -> None:
    z, v, y = draw(seed)
    teacher = F.log_softmax(v / 4, -1)
    moved = z + 7.0 * F.one_hot(y, K)
    assert torch.allclose(decoupled(z, teacher, y, 4.0)[1], decoupled(moved, teacher, y, 4.0)[1])


def test_two_classes_have_no_others_to_tell_apart() -> None:
    z, v, _ = draw(3)
    teacher = F.log_softmax(v[:, :2] / 2, -1)
    tckd_B, nckd_B = decoupled(z[:, :2], teacher, torch.arange(B) % 2, 2.0)
    assert torch.allclose(tckd_B, distillation(z[:, :2], teacher, 2.0))
    assert (nckd_B == 0).all()


def test_unlabelled_samples_cost_nothing() -> None:
    z, v, y = draw(1)
    teacher = F.log_softmax(v / 4, -1)
    z.requires_grad_()
    parts = decoupled(z, teacher, y.index_fill(0, torch.tensor([0, 4]), -1), 4.0)
    (parts[0] + parts[1]).sum().backward()
    for part_B, whole_B in zip(parts, decoupled(z, teacher, y, 4.0), strict=True):
        assert part_B[0] == part_B[4] == 0
        assert torch.equal(part_B[1:4], whole_B[1:4])
    assert z.grad[[0, 4]].abs().sum() == 0
    assert z.grad[[1, 2, 3, 5]].abs().sum() > 0


def test_no_gradient_reaches_the_teacher() -> None:
    z, v, y = draw(0)
    z.requires_grad_()
    v.requires_grad_()
    tckd_B, nckd_B = decoupled(z, F.log_softmax(v / 2, -1), y, 2.0)
    (tckd_B + nckd_B).sum().backward()
    assert v.grad is None
    assert z.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("certain", ["no", "logits", "exactly", "elsewhere"])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float, certain: str) -> None:
    z, v, y = draw(5, dtype)
    z = (z * scale).requires_grad_()
    teacher = F.log_softmax(v * (1e4 if certain == "logits" else 1.0), -1)
    if certain in ("exactly", "elsewhere"):
        at = y if certain == "exactly" else (y + 1) % K
        teacher = torch.full_like(v, -math.inf).scatter(-1, at[:, None], 0.0)
    tckd_B, nckd_B = decoupled(z, teacher, y, 1.0)
    (tckd_B + nckd_B).sum().backward()
    assert tckd_B.isfinite().all()
    assert nckd_B.isfinite().all()
    assert z.grad.isfinite().all()


def test_a_sure_teacher_keeps_the_small_probabilities() -> None:
    """1 − p_y is 0 in fp32 where it is computed as such; the others' sum is not."""
    z, v = torch.tensor([[30.0, 0.0, 1.0]]), torch.tensor([[40.0, 0.0, 2.0]])
    y = torch.tensor([0])
    parts = decoupled(z, F.log_softmax(v, -1), y, 1.0)
    exact = decoupled(z.double(), F.log_softmax(v.double(), -1), y, 1.0)
    assert parts[1].item() == pytest.approx(exact[1].item(), rel=1e-5)
    assert parts[0].item() == pytest.approx(exact[0].item(), abs=1e-9)
