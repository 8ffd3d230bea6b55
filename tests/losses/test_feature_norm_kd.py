"""Feature-normalised distillation against loops over a linear layer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.soft_targets import soft_cross_entropy
from distill_cli.objectives.feature_norm_kd import Form, normalised_distillation

B, K, D = 6, 5, 3
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)
FORMS: list[Form] = ["paper", "release"]


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """f, W, b."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(B, D, generator=generator, dtype=torch.float64) * 2
    w = torch.randn(K, D, generator=generator, dtype=torch.float64)
    b = torch.randn(K, generator=generator, dtype=torch.float64)
    return f.to(dtype), w.to(dtype), b.to(dtype)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def by_hand(f: Tensor, w: Tensor, b: Tensor | None, tau: float, form: Form) -> list[list[float]]:
    """The prediction from features that are scaled before the layer."""
    rows = []
    for feature in f.tolist():
        norm = math.sqrt(sum(x * x for x in feature))
        length = tau if form == "paper" else min(norm, tau)
        scaled = [x / norm * length for x in feature]
        rows.append(
            softmax(
                [
                    sum(x * y for x, y in zip(scaled, w[k].tolist(), strict=True))
                    + (0.0 if b is None else b[k].item())
                    for k in range(K)
                ]
            )
        )
    return rows


@few
@given(seeds, st.floats(0.2, 6), st.booleans())
@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_formula(form: Form, seed: int, tau: float, biased: bool) -> None:
    (f, w, b), (g, u, c) = draw(seed), draw(seed + 1)
    if not biased:
        b, c = None, None
    z = f @ w.T if b is None else f @ w.T + b
    v = g @ u.T if c is None else g @ u.T + c
    loss_B = normalised_distillation(
        z, f.norm(dim=-1), v, g.norm(dim=-1), tau, form=form, bias_K=b, teacher_bias_K=c
    )
    rows = zip(by_hand(f, w, b, tau, form), by_hand(g, u, c, tau, form), strict=True)
    expected = [-sum(y * math.log(x) for x, y in zip(p, q, strict=True)) for p, q in rows]
    assert loss_B.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_features_of_length_tau_are_distilled_as_they_are(form: Form) -> None:
    z, v = draw(2)[0] @ draw(2)[1].T, draw(3)[0] @ draw(3)[1].T
    length = torch.full((B,), 2.0, dtype=torch.float64)
    loss_B = normalised_distillation(z, length, v, length, 2.0, form=form)
    assert torch.equal(loss_B, soft_cross_entropy(z, F.softmax(v, -1)))


def test_the_release_leaves_short_features_alone() -> None:
    z, v = draw(4)[0] @ draw(4)[1].T, draw(5)[0] @ draw(5)[1].T
    plain_B = soft_cross_entropy(z, F.softmax(v, -1))
    short = torch.linspace(0, 2, B, dtype=torch.float64)
    assert torch.equal(normalised_distillation(z, short, v, short, 2.0, form="release"), plain_B)
    long = short + 2.5
    for form in FORMS:
        losses = normalised_distillation(z, long, v, long, 2.0, form=form)
        assert not torch.isclose(losses, plain_B).any()


def test_a_sure_teacher_is_cross_entropy_to_the_bit() -> None:
    z, y = draw(6)[0] @ draw(6)[1].T, torch.arange(B) % K
    v, length = F.one_hot(y, K) * 1e5, torch.ones(B)
    loss_B = normalised_distillation(z.float(), length, v, length, 1.0)
    assert torch.equal(loss_B, F.cross_entropy(z.float(), y, reduction="none"))


def test_the_papers_form_sees_no_length() -> None:
    (f, w, _), (g, u, _) = draw(7), draw(8)
    longer = f * torch.linspace(0.1, 9, B, dtype=torch.float64)[:, None]
    losses = [
        normalised_distillation(x @ w.T, x.norm(dim=-1), g @ u.T, g.norm(dim=-1), 2.0)
        for x in (f, longer)
    ]
    assert torch.allclose(*losses)


@pytest.mark.parametrize("form", FORMS)
def test_the_students_norm_learns_and_the_teacher_does_not(form: Form) -> None:
    student = [draw(9)[0] @ draw(9)[1].T, torch.full((B,), 3.0).double(), draw(9)[2]]
    teacher = [draw(10)[0] @ draw(10)[1].T, torch.full((B,), 3.0).double(), draw(10)[2]]
    for x in student + teacher:
        x.requires_grad_()
    normalised_distillation(
        *student[:2], *teacher[:2], 2.0, form=form, bias_K=student[2], teacher_bias_K=teacher[2]
    ).sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in student)
    assert all(x.grad is None for x in teacher)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_the_slope(form: Form) -> None:
    (f, w, b), (g, u, _) = draw(11), draw(12)

    def loss(f: Tensor, w: Tensor, b: Tensor) -> Tensor:
        v, norm = g @ u.T, g.norm(dim=-1)
        z = f @ w.T + b
        return normalised_distillation(z, f.norm(dim=-1), v, norm, 2.0, form=form, bias_K=b)

    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in (f, w, b)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e4])
def test_extremes_stay_finite(form: Form, dtype: torch.dtype, scale: float) -> None:
    f, w, b = draw(13, dtype)
    f = (f * scale).requires_grad_()
    norm = torch.linalg.vector_norm(f, dim=-1)
    for teacher_scale in (0.0, 1.0, 1e4):
        v = draw(14, dtype)[0].detach() @ w.T * teacher_scale
        loss_B = normalised_distillation(
            f @ w.T + b, norm, v, norm.detach(), 2.0, form=form, bias_K=b
        )
        assert loss_B.dtype == torch.float32
        assert loss_B.isfinite().all()
        gradient = torch.autograd.grad(loss_B.sum(), f, retain_graph=True)[0]
        assert gradient.isfinite().all()
