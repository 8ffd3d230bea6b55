"""The virtual teacher against loops, and what it is at its limits."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.objectives.tfkd_reg import Form, teacher_free, virtual_log_probs
from tests.losses.draws import labelled

B, K = 6, 5
seeds = st.integers(0, 10_000)
temperatures = st.floats(0.5, 50)
forms = st.sampled_from(["paper", "release"])
few = settings(max_examples=15)


draw = partial(labelled, B, K)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def teacher_row(label: int, a: float, temperature: float, form: Form) -> list[float]:
    p = [a if k == label else (1 - a) / (K - 1) for k in range(K)]
    return softmax([(math.log(x) if form == "paper" else x) / temperature for x in p])


@few
@given(seeds, st.floats(0.3, 0.999), temperatures, forms)
def test_both_are_the_formulas(seed: int, a: float, temperature: float, form: Form) -> None:
    z, y = draw(seed)
    log_probs = virtual_log_probs(y, K, a, temperature, form, torch.float64)
    loss_B = teacher_free(z, y, a, temperature, form)
    student_temperature = temperature if form == "paper" else 1.0
    for b, label in enumerate(y.tolist()):
        q = teacher_row(label, a, temperature, form)
        p = softmax([x / student_temperature for x in z[b].tolist()])
        assert log_probs[b].exp().tolist() == pytest.approx(q, rel=1e-12)
        kl = sum(u * (math.log(u) - math.log(v)) for u, v in zip(q, p, strict=True))
        assert loss_B[b].item() == pytest.approx(kl, rel=1e-9, abs=1e-11)


@few
@given(seeds)
def test_a_sure_teacher_is_cross_entropy_to_the_bit(seed: int) -> None:
    z, y = draw(seed, torch.float32)
    assert torch.equal(teacher_free(z, y, 1.0, 1.0), F.cross_entropy(z, y, reduction="none"))


@few
@given(seeds, st.floats(0.01, 0.1))
def test_at_t1_it_is_smoothing_less_a_constant(seed: int, epsilon: float) -> None:
    """a = 1 − ε + ε/K: the gradient is label smoothing's."""
    z, y = draw(seed)
    z.requires_grad_()
    losses = teacher_free(z, y, 1 - epsilon + epsilon / K, 1.0), cross_entropy(z, y, epsilon)
    difference_B = losses[1] - losses[0]
    assert torch.allclose(difference_B, difference_B[0].expand(B))
    gradients = [torch.autograd.grad(loss_B.sum(), z)[0] for loss_B in losses]
    assert torch.allclose(*gradients, atol=1e-12)


def test_the_released_teacher_is_nearly_uniform() -> None:
    _, y = draw(0)
    spread = [
        virtual_log_probs(y, K, 0.99, 20.0, form).exp().amax().item()
        for form in ("paper", "release")
    ]
    assert spread[1] < 0.212 < spread[0]
    uniform = virtual_log_probs(y, K, 1 / K, 3.0)
    assert torch.allclose(uniform, torch.full((B, K), -math.log(K)))


def test_vanishes_at_a_match() -> None:
    _, y = draw(1)
    for form in ("paper", "release"):
        log_probs = virtual_log_probs(y, K, 0.99, 20.0, form, torch.float64)
        z = log_probs * (20.0 if form == "paper" else 1.0)
        assert teacher_free(z, y, 0.99, 20.0, form).abs().max() < 1e-14


def test_unlabelled_samples_cost_nothing() -> None:
    z, y = draw(2)
    z.requires_grad_()
    loss_B = teacher_free(z, y.index_fill(0, torch.tensor([0, 4]), -1), 0.99, 20.0)
    loss_B.sum().backward()
    assert loss_B[0] == loss_B[4] == 0
    assert torch.equal(loss_B[1:4], teacher_free(z, y, 0.99, 20.0)[1:4])
    assert z.grad[[0, 4]].abs().sum() == 0
    assert z.grad[[1, 2, 3, 5]].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("a", [0.99, 1.0])
@pytest.mark.parametrize("form", ["paper", "release"])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float, a: float, form: Form) -> None:
    z, y = draw(3, dtype)
    for temperature in (0.01, 1.0, 40.0):
        x = (z * scale).requires_grad_()
        loss_B = teacher_free(x, y, a, temperature, form)
        assert loss_B.dtype == torch.float32
        assert loss_B.isfinite().all()
        assert torch.autograd.grad(loss_B.sum(), x)[0].isfinite().all()
