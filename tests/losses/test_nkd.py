"""Normalised distillation: sums of the other classes by hand as the oracle, and what it is made of."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.objectives.dkd import decoupled
from distill_cli.objectives.nkd import normalised_others, soft_target
from tests.losses.draws import student_and_teacher

B, K = 6, 5
temperatures = st.floats(0.5, 50)
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


draw = partial(student_and_teacher, B, K)


def both(z: Tensor, v: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The two terms without their weights, of logits v of the teacher."""
    return (
        soft_target(z, F.log_softmax(v, -1), y),
        normalised_others(z, F.log_softmax(v / temperature, -1), y, temperature),
    )


def softmax(row: list[float], temperature: float) -> list[float]:
    weights = [math.exp(x / temperature) for x in row]
    return [w / sum(weights) for w in weights]


def rest(probs: list[float], label: int) -> list[float]:
    """As the paper has it: divided by the sum of the classes beside the label."""
    among = [x for k, x in enumerate(probs) if k != label]
    return [x / sum(among) for x in among]


@few
@given(seeds, temperatures)
def test_both_terms_are_the_formulas(seed: int, temperature: float) -> None:
    z, v, y = draw(seed)
    target, others = [], []
    for row_z, row_v, label in zip(z.tolist(), v.tolist(), y.tolist(), strict=True):
        target.append(-softmax(row_v, 1)[label] * math.log(softmax(row_z, 1)[label]))
        q, p = (rest(softmax(row, temperature), label) for row in (row_v, row_z))
        entropy = -sum(a * math.log(b) for a, b in zip(q, p, strict=True))
        others.append(temperature**2 * entropy)
    target_B, others_B = both(z, v, y, temperature)
    assert target_B.tolist() == pytest.approx(target, rel=1e-9)
    assert others_B.tolist() == pytest.approx(others, rel=1e-9)


@few
@given(seeds)
def test_terms_make_up_cross_entropy_against_the_teacher(seed: int) -> None:
    """CE(q, p) = −q_y·log p_y + (1 − q_y)·(CE(q̂, p̂) − log(1 − p_y)) at T = 1, gradient and all."""
    z, v, y = draw(seed)
    z.requires_grad_()
    p, q = F.softmax(z, -1), F.softmax(v, -1)
    own = torch.arange(B), y
    target_B, others_B = both(z, v, y, 1.0)
    sum_B = target_B + (1 - q[own]) * (others_B - (1 - p[own]).log())
    whole_B = F.cross_entropy(z, q, reduction="none")
    assert torch.allclose(sum_B, whole_B, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss_B.sum(), z)[0] for loss_B in (sum_B, whole_B)]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-9)


@few
@given(seeds, temperatures)
def test_the_others_are_dkds_and_an_entropy(seed: int, temperature: float) -> None:
    """T²·CE(q̂, p̂) = NCKD + T²·H(q̂): other values, the same gradient."""
    z, v, y = draw(seed)
    z.requires_grad_()
    _, nckd_B = decoupled(z, F.log_softmax(v / temperature, -1), y, temperature)
    _, others_B = both(z, v, y, temperature)
    beside = ~F.one_hot(y, K).bool()
    entropy_B = torch.distributions.Categorical(
        logits=v[beside].view(B, -1) / temperature
    ).entropy()
    expected_B = nckd_B + temperature**2 * entropy_B
    assert torch.allclose(others_B, expected_B, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss_B.sum(), z)[0] for loss_B in (others_B, nckd_B)]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-9)


@few
@given(seeds, temperatures)
def test_of_a_sure_teacher_the_first_is_cross_entropy(seed: int, temperature: float) -> None:
    """q_y → 1 by the label's logit alone: q̂, and so the second term, does not change."""
    z, v, y = draw(seed)
    sure = v + 1e4 * F.one_hot(y, K)
    target_B, others_B = both(z, sure, y, temperature)
    assert torch.allclose(target_B, F.cross_entropy(z, y, reduction="none"), rtol=1e-12)
    # Next to 1e4 the others' logits keep four digits fewer.
    assert torch.allclose(others_B, both(z, v, y, temperature)[1], rtol=1e-7)


def test_of_a_one_hot_teacher_the_others_are_uniform_or_one_class() -> None:
    """On the label it says nothing of the others; on another class the label costs nothing."""
    z, _, y = draw(2)
    hot = torch.full_like(z, -math.inf)
    on_label = hot.scatter(-1, y[:, None], 0.0)
    log_probs_BR = F.log_softmax(z[~F.one_hot(y, K).bool()].view(B, K - 1) / 2, dim=-1)
    assert torch.allclose(soft_target(z, on_label, y), F.cross_entropy(z, y, reduction="none"))
    assert torch.allclose(normalised_others(z, on_label, y, 2.0), -4 * log_probs_BR.mean(-1))
    wrong = (y + 1) % K
    on_wrong = hot.scatter(-1, wrong[:, None], 0.0)
    # Its place among the others: those behind the label have moved up by one.
    place_B1 = (wrong - (wrong > y).long())[:, None]
    assert (soft_target(z, on_wrong, y) == 0).all()
    expected_B = -4 * log_probs_BR.gather(-1, place_B1)[:, 0]
    assert torch.allclose(normalised_others(z, on_wrong, y, 2.0), expected_B)


@few
@given(seeds, temperatures)
def test_the_others_see_no_label_and_are_least_at_a_match(seed: int, temperature: float) -> None:
    z, v, y = draw(seed)
    matched = (v + 7 * F.one_hot(y, K)).requires_grad_()
    least_B = both(matched, v, y, temperature)[1]
    least_B.sum().backward()
    assert matched.grad.abs().max() < 1e-9
    assert (both(z, v, y, temperature)[1] > least_B).all()


def test_two_classes_leave_one_other() -> None:
    z, v, _ = draw(3)
    y = torch.arange(B) % 2
    assert (both(z[:, :2], v[:, :2], y, 2.0)[1] == 0).all()


def test_unlabelled_samples_cost_nothing() -> None:
    z, v, y = draw(1)
    z.requires_grad_()
    fewer = both(z, v, y.index_fill(0, torch.tensor([0, 4]), -1), 3.0)
    (fewer[0] + fewer[1]).sum().backward()
    for part_B, whole_B in zip(fewer, both(z, v, y, 3.0), strict=True):
        assert part_B[0] == part_B[4] == 0
        assert torch.equal(part_B[[1, 2, 3, 5]], whole_B[[1, 2, 3, 5]])
    assert z.grad[[0, 4]].abs().sum() == 0
    assert (z.grad[[1, 2, 3, 5]].abs().sum(-1) > 0).all()


def test_no_gradient_reaches_the_teacher() -> None:
    z, v, y = draw(0)
    z.requires_grad_()
    v.requires_grad_()
    target_B, others_B = both(z, v, y, 2.0)
    (target_B + others_B).sum().backward()
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
    target_B, others_B = soft_target(z, teacher, y), normalised_others(z, teacher, y, 1.0)
    (target_B + others_B).sum().backward()
    for loss_B in (target_B, others_B):
        assert loss_B.isfinite().all()
        assert loss_B.dtype == torch.float32
    assert z.grad.isfinite().all()


def test_a_sure_teacher_keeps_the_small_probabilities() -> None:
    """1 − q_y is 0 in fp32 where it is computed as such; the others' distribution is there yet."""
    z, v = torch.tensor([[30.0, 0.0, 1.0]]), torch.tensor([[40.0, 0.0, 2.0]])
    y = torch.tensor([0])
    exact = both(z.double(), v.double(), y, 1.0)[1]
    assert both(z, v, y, 1.0)[1].item() == pytest.approx(exact.item(), rel=1e-5)
