"""Quantisers against their formulas: levels, thresholds, scales, and every gradient, in fp64 on the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.models.quantisers import (
    BinaryWeight,
    LsqActivation,
    LsqWeight,
    TernaryWeight,
    WeightQuantiser,
    WrpnActivation,
    WrpnWeight,
    levels_of,
    straight_through,
)

BITS = pytest.mark.parametrize("bits", [2, 3, 4, 8])


def weights(*shape: int, seed: int = 0, scale: float = 0.6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(name: str, bits: int, weight: Tensor) -> WeightQuantiser:
    if name == "lsq":
        return LsqWeight(bits, weight)
    kinds = {"wrpn": WrpnWeight, "ternary": TernaryWeight, "binary": BinaryWeight}
    return kinds[name](bits).double()


EVERY = pytest.mark.parametrize(
    ("name", "bits"),
    [
        *(("wrpn", b) for b in (2, 3, 4, 8)),
        *(("lsq", b) for b in (2, 3, 4, 8)),
        ("ternary", 2),
        ("binary", 1),
    ],
)


@EVERY
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 0.3, 5.0]))
def test_every_weight_is_a_code_times_the_scale(
    name: str, bits: int, seed: int, scale: float
) -> None:
    """To the bit, in fp32 as it is saved; and no code is outside of the levels."""
    weight = weights(3, 2, 3, 3, seed=seed, scale=scale).float()
    quantiser = made(name, bits, weight).float()
    codes, step = quantiser.codes(weight)
    low, high = levels_of(quantiser.name, bits)
    assert torch.equal(codes, codes.round())
    assert low <= int(codes.min())
    assert int(codes.max()) <= high
    assert torch.equal(quantiser(weight), codes * step)
    if name == "binary":
        assert set(codes.unique().tolist()) <= {-1.0, 1.0}


@BITS
def test_the_levels_of_wrpn(bits: int) -> None:
    """2^b − 1 of them, evenly from −1 to 1; beyond, the ends (arXiv 1709.01134)."""
    line = torch.linspace(-3, 3, 40001, dtype=torch.float64)
    values = made("wrpn", bits, line)(line).unique()
    most = 2 ** (bits - 1) - 1
    torch.testing.assert_close(values, torch.arange(-most, most + 1).double() / most)
    for one in (-2.0, -0.3, 0.0, 0.49, 0.9):
        exact = round(max(-1.0, min(1.0, one)) * most) / most
        got = float(made("wrpn", bits, line)(torch.tensor([one], dtype=torch.float64)))
        assert got == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize(("name", "bits"), [("wrpn", 4), ("binary", 1)])
def test_no_gradient_outside_of_the_clip(name: str, bits: int) -> None:
    weight = torch.tensor([[-1.5, -0.7, 0.0, 0.2, 0.99, 1.2]], dtype=torch.float64)
    weight.requires_grad_(True)
    (made(name, bits, weight)(weight) * torch.arange(1.0, 7.0)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 5.0, 0.0]]


def test_ternary_weights_by_hand() -> None:
    """Δ = 0.7·mean|w| = 0.7·0.5; three weights are above it, of mean magnitude 0.8 (arXiv 1605.04711)."""
    weight = torch.tensor([0.1, -0.2, 0.3, 0.6, -0.8, 1.0], dtype=torch.float64)
    weight.requires_grad_(True)
    value = TernaryWeight(2)(weight)
    torch.testing.assert_close(
        value.detach(), torch.tensor([0, 0, 0, 0.8, -0.8, 0.8], dtype=torch.float64)
    )
    value.square().sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 2 * value.detach())


def test_ternary_weights_against_a_loop() -> None:
    weight = weights(4, 3, 3, 3)
    flat = weight.flatten().tolist()
    bound = 0.7 * sum(map(abs, flat)) / len(flat)
    above = [abs(w) for w in flat if abs(w) > bound]
    scale = sum(above) / len(above)
    exact = [math.copysign(scale, w) if abs(w) > bound else 0.0 for w in flat]
    assert TernaryWeight(2)(weight).flatten().tolist() == pytest.approx(exact, abs=1e-12)


def test_weights_of_nothing_stay_nothing() -> None:
    zero = torch.zeros(2, 3)
    assert torch.equal(TernaryWeight(2)(zero), zero)
    assert torch.equal(BinaryWeight(1)(zero), zero)


def test_binary_weights_by_hand() -> None:
    """Of each filter: its mean magnitude, and the sign of 0 is +1 (arXiv 1603.05279, equation 6)."""
    weight = torch.tensor([[0.2, -0.4], [0.0, -1.0]], dtype=torch.float64)
    exact = torch.tensor([[0.3, -0.3], [0.5, -0.5]], dtype=torch.float64)
    torch.testing.assert_close(BinaryWeight(1)(weight), exact)


def loop_of_lsq(
    x: list[float], step: float, low: int, high: int, grads: list[float], share: float
) -> tuple[list[float], list[float], float]:
    """Values and gradients of LSQ, one by one: arXiv 1902.08153, equations 1 to 3, 5, and section 2.2."""
    values, of_x, of_step = [], [], 0.0
    for value, grad in zip(x, grads, strict=True):
        ratio = value / step
        values.append(round(min(max(ratio, low), high)) * step)
        inside = low < ratio < high
        of_x.append(grad if inside else 0.0)
        of_step += grad * ((round(ratio) - ratio) if inside else low if ratio <= low else high)
    return values, of_x, of_step * share


@BITS
def test_learnt_steps_against_a_loop(bits: int) -> None:
    """The factor 1/√(N·high) included, in fp64; the first step is 2·mean|w|/√high."""
    weight = weights(3, 2, 3, 3, seed=bits)
    quantiser = LsqWeight(bits, weight)
    low, high = levels_of("lsq", bits)
    assert (low, high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    first = float(quantiser.step)
    assert first == pytest.approx(2 * float(weight.abs().mean()) / math.sqrt(high))
    for step in (first, 0.3 * first, 3 * first):
        with torch.no_grad():
            quantiser.step.fill_(step)
        quantiser.zero_grad()
        learning = weight.clone().requires_grad_(True)
        grad = weights(3, 2, 3, 3, seed=99)
        value = quantiser(learning)
        value.backward(grad)
        exact = loop_of_lsq(
            *(weight.flatten().tolist(), step, low, high, grad.flatten().tolist()),
            1 / math.sqrt(weight.numel() * high),
        )
        assert learning.grad is not None
        assert quantiser.step.grad is not None
        assert value.flatten().tolist() == pytest.approx(exact[0], abs=1e-12)
        assert learning.grad.flatten().tolist() == pytest.approx(exact[1], abs=1e-12)
        assert float(quantiser.step.grad) == pytest.approx(exact[2], rel=1e-9, abs=1e-12)


@BITS
def test_the_gradient_of_a_step_is_that_of_its_surrogate(bits: int) -> None:
    """round(x) is x plus the constant round(x₀) − x₀: central differences of that, times the factor."""
    weight = weights(40, seed=7 + bits)
    quantiser = LsqWeight(bits, weight)
    low, high = levels_of("lsq", bits)
    step = float(quantiser.step.detach())
    constant = (weight / step).clamp(low, high).round() - (weight / step).clamp(low, high)

    def surrogate(at: float) -> float:
        ratio = (weight / at).clamp(low, high)
        return float((((ratio + constant) * at) * torch.arange(40)).sum())

    tiny = 1e-7
    slope = (surrogate(step + tiny) - surrogate(step - tiny)) / (2 * tiny)
    (quantiser(weight) * torch.arange(40)).sum().backward()
    assert quantiser.step.grad is not None
    share = 1 / math.sqrt(40 * high)
    assert float(quantiser.step.grad) == pytest.approx(slope * share, rel=1e-5)


def test_a_step_below_nothing_still_divides() -> None:
    weight = weights(8)
    quantiser = LsqWeight(4, weight)
    with torch.no_grad():
        quantiser.step.neg_()
    value = quantiser(weight)
    with torch.no_grad():
        quantiser.step.neg_()
    torch.testing.assert_close(value, quantiser(weight))
    with torch.no_grad():
        quantiser.step.zero_()
    assert bool(quantiser(weight).isfinite().all())


@BITS
def test_activations_of_wrpn(bits: int) -> None:
    """2^b levels from 0 to 1, and no gradient beyond."""
    line = torch.linspace(-1, 2, 30001, dtype=torch.float64, requires_grad=True)
    value = WrpnActivation(bits)(line)
    most = 2**bits - 1
    torch.testing.assert_close(value.detach().unique(), torch.arange(most + 1).double() / most)
    value.sum().backward()
    assert line.grad is not None
    # Whether an end itself gets one is left open.
    within = (line.detach() > 1e-9) & (line.detach() < 1 - 1e-9)
    beyond = (line.detach() < -1e-9) | (line.detach() > 1 + 1e-9)
    assert bool((line.grad[within] == 1).all())
    assert bool((line.grad[beyond] == 0).all())


@pytest.mark.parametrize("signed", [False, True])
@BITS
def test_activations_with_learnt_steps(bits: int, signed: bool) -> None:
    x = weights(5, 3, 4, 4, seed=3)
    x = x if signed else x.abs()
    quantiser = LsqActivation(bits).double()
    quantiser.begin(x)
    low, high = levels_of("lsq", bits) if signed else (0, 2**bits - 1)
    assert (float(quantiser.low), float(quantiser.high)) == (low, high)
    step = float(quantiser.step)
    assert step == pytest.approx(2 * float(x.abs().mean()) / math.sqrt(high), rel=1e-6)
    given = x.float().requires_grad_(True)
    value = quantiser.float()(given)
    grad = weights(5, 3, 4, 4, seed=5).float()
    value.backward(grad)
    exact = loop_of_lsq(
        *(given.flatten().tolist(), float(quantiser.step.detach()), low, high),
        grad.flatten().tolist(),
        1 / math.sqrt(x[0].numel() * high),
    )
    assert given.grad is not None
    assert quantiser.step.grad is not None
    assert value.flatten().tolist() == pytest.approx(exact[0], abs=1e-5)
    assert given.grad.flatten().tolist() == pytest.approx(exact[1], abs=1e-6)
    assert float(quantiser.step.grad) == pytest.approx(exact[2], rel=1e-3, abs=1e-4)


def test_straight_through_is_the_value_to_the_bit() -> None:
    """The usual x + (q − x) is not: the sum rounds."""
    x = weights(1000).float().requires_grad_(True)
    value = 0.8 * x.detach().sign()
    assert torch.equal(straight_through(x, value), value)
    assert not torch.equal((x + (value - x).detach()).detach(), value)
    straight_through(x, value).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_a_weight_of_zeros_can_learn() -> None:
    """As some libraries begin a head: its first step is not 0, from which nothing could move it."""
    weight = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    quantiser = LsqWeight(4, weight)
    assert float(quantiser.step) > 1e-4
    value = quantiser(weight)
    value.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    with torch.no_grad():
        assert bool((quantiser(weight - 0.1) != 0).all())
