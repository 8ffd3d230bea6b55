"""The four terms of DropMax against loops; which gate learns from which."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.losses.dropmax import (
    EPSILON,
    dropmax,
    dropmax_inference,
    posterior_gate,
    relaxed_gate,
)

B, K = 4, 5
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def draw(
    seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """o, ph, rh, y, u."""
    generator = torch.Generator().manual_seed(seed)
    o, ph, rh = torch.randn(3, B, K, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, K, (B,), generator=generator)
    return o * 3, ph, rh * 2, y, torch.rand(B, K, generator=generator, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bernoulli_kl(q: float, p: float) -> float:
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


@few
@given(seeds, st.floats(0.1, 2), st.sampled_from([EPSILON, 1e-6, 0.1]))
def test_the_terms_are_the_formulas(seed: int, temperature: float, eps: float) -> None:
    o, ph, rh, y, u = draw(seed)
    found = dropmax(o, ph, rh, y, u, temperature, eps)
    assert set(found) == {"ce", "kl", "auxiliary", "entropy"}
    for b, label in enumerate(y.tolist()):
        weights, kl, auxiliary, entropy = [], 0.0, 0.0, 0.0
        for k in range(K):
            prior, gate = ph[b, k].item(), ph[b, k].item() + rh[b, k].item()
            rho, q, r = sigmoid(prior), sigmoid(gate), sigmoid(rh[b, k].item())
            noise = math.log(u[b, k].item()) - math.log(1 - u[b, k].item())
            mask = 1.0 if k == label else sigmoid((gate + noise) / temperature)
            weights.append((mask + eps) * math.exp(o[b, k].item()))
            kl += -math.log(rho) if k == label else bernoulli_kl(q, rho)
            auxiliary -= math.log(r if k == label else 1 - r)
            entropy -= rho * math.log(rho) + (1 - rho) * math.log(1 - rho)
        ce = -math.log(weights[label] / sum(weights))
        assert found["ce"][b].item() == pytest.approx(ce, rel=1e-7, abs=1e-9)
        assert found["kl"][b].item() == pytest.approx(kl, rel=1e-9)
        assert found["auxiliary"][b].item() == pytest.approx(auxiliary, rel=1e-9)
        assert found["entropy"][b].item() == pytest.approx(-entropy, rel=1e-9)


@few
@given(seeds, st.sampled_from([EPSILON, 0.1]))
def test_inference_is_the_formula(seed: int, eps: float) -> None:
    o, ph, *_ = draw(seed)
    p = F.softmax(dropmax_inference(o, ph, eps), -1)
    for b in range(B):
        weights = [(sigmoid(ph[b, k].item()) + eps) * math.exp(o[b, k].item()) for k in range(K)]
        assert p[b].tolist() == pytest.approx([w / sum(weights) for w in weights])


@few
@given(seeds)
def test_nothing_dropped_is_cross_entropy_to_the_bit(seed: int) -> None:
    o, ph, rh, y, u = draw(seed, torch.float32)
    open_gate = torch.full_like(rh, 1e4)
    ce_B = dropmax(o, ph, open_gate, y, u)["ce"]
    assert torch.equal(ce_B, F.cross_entropy(o, y, reduction="none"))
    assert torch.equal(dropmax_inference(o, open_gate), o)


def test_everything_dropped_leaves_the_target() -> None:
    o, ph, rh, y, u = draw(1, torch.float32)
    ce_B = dropmax(o, ph, torch.full_like(rh, -1e4), y, u)["ce"]
    assert ce_B.abs().max() < 1e-6


@few
@given(seeds)
def test_the_prior_learns_from_its_own_terms_only(seed: int) -> None:
    o, ph, rh, y, u = draw(seed)
    ph.requires_grad_()
    rh.requires_grad_()
    terms = dropmax(o.requires_grad_(), ph, rh, y, u)
    rho, q = ph.detach().sigmoid(), (ph + rh).detach().sigmoid()
    hard = F.one_hot(y, K).double()
    (kl_ph,) = torch.autograd.grad(terms["kl"].sum(), ph, retain_graph=True)
    # ρ − q, q a constant; were it not, q'·(logit q − logit ρ) would come on top.
    assert torch.allclose(kl_ph, rho - torch.where(hard > 0, 1.0, q), atol=1e-12)
    (kl_rh,) = torch.autograd.grad(terms["kl"].sum(), rh, retain_graph=True)
    assert torch.allclose(kl_rh, (1 - hard) * q * (1 - q) * rh.detach(), atol=1e-12)
    reached = {
        name: [
            gradient is not None and bool(gradient.abs().sum() > 0)
            for gradient in torch.autograd.grad(
                loss_B.sum(), (o, ph, rh), retain_graph=True, allow_unused=True
            )
        ]
        for name, loss_B in terms.items()
    }
    assert reached == {
        "ce": [True, False, True],
        "kl": [False, True, True],
        "auxiliary": [False, False, True],
        "entropy": [False, True, False],
    }


def test_the_posterior_gate_holds_the_prior() -> None:
    _, ph, rh, _, _ = draw(2)
    ph.requires_grad_()
    rh.requires_grad_()
    gate = posterior_gate(ph, rh)
    assert torch.equal(gate, ph + rh)
    gate.sum().backward()
    assert ph.grad is None
    assert (rh.grad == 1).all()


def test_a_cold_mask_is_a_draw() -> None:
    """P(u > 1 − σ(gate)) = σ(gate)."""
    gate = torch.full((10_000, 1), 0.7, dtype=torch.float64)
    u = (torch.arange(10_000, dtype=torch.float64)[:, None] + 0.5) / 10_000
    mask = relaxed_gate(gate, u, 1e-3).sigmoid()
    assert mask.round().mean().item() == pytest.approx(sigmoid(0.7), abs=1e-3)


def test_equal_gates_have_no_divergence() -> None:
    o, ph, rh, y, u = draw(3)
    kl_B = dropmax(o, ph, torch.zeros_like(rh), y, u)["kl"]
    assert torch.allclose(kl_B, -F.logsigmoid(ph)[torch.arange(B), y])
    entropy_B = dropmax(o, torch.zeros_like(ph), rh, y, u)["entropy"]
    assert entropy_B.tolist() == pytest.approx([-K * math.log(2)] * B)


def test_unlabelled_samples_cost_nothing() -> None:
    o, ph, rh, y, u = draw(4)
    for x in (o, ph, rh):
        x.requires_grad_()
    some = dropmax(o, ph, rh, y.index_fill(0, torch.tensor([0, 3]), -1), u)
    whole = dropmax(o, ph, rh, y, u)
    for name, loss_B in some.items():
        assert loss_B[0] == loss_B[3] == 0
        assert torch.equal(loss_B[1:3], whole[name][1:3])
    torch.stack(list(some.values())).sum().backward()
    for x in (o, ph, rh):
        assert x.grad[[0, 3]].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("edge", [0.0, 1e-45, 0.5, 1 - 2**-24, 1.0])
def test_extremes_stay_finite(dtype: torch.dtype, scale: float, edge: float) -> None:
    o, ph, rh, y, _ = draw(5, dtype)
    for sign in (-1, 1):
        inputs = [(x * scale * s).requires_grad_() for x, s in ((o, 1), (ph, 1), (rh, sign))]
        terms = dropmax(*inputs, y, torch.full((B, K), edge))
        for loss_B in (*terms.values(), dropmax_inference(*inputs[:2])):
            assert loss_B.dtype == torch.float32
            assert loss_B.isfinite().all()
        gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), inputs)
        for gradient in gradients:
            assert gradient.isfinite().all()
