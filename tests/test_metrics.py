"""Figures of merit against loops in Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_cli.metrics import (
    TEMPERATURES,
    Rankings,
    agreement,
    fit_temperature,
    label_agreement,
    mean_average_precision,
    measure,
    measure_as,
    one_vs_all,
)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [w / sum(weights) for w in weights]


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(2, 7))
def test_measure_equals_a_loop(seed: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator) * 2
    target = torch.randint(-1, k, (n,), generator=generator)
    errors, nll, bins, kept = 0, 0.0, [[0, 0.0, 0] for _ in range(15)], 0
    for row, label in zip(logits.double().tolist(), target.tolist(), strict=True):
        if label < 0:
            continue
        kept += 1
        p = softmax(row)
        guess = max(range(k), key=lambda c: row[c])
        errors += guess != label
        nll -= math.log(p[label])
        cell = bins[min(14, max(0, math.ceil(p[guess] * 15) - 1))]
        cell[0] += 1
        cell[1] += p[guess]
        cell[2] += guess == label
    found = measure(logits, target)
    assert (found.samples, found.errors) == (kept, errors)
    if kept:
        ece = sum(abs(right - confidence) for _, confidence, right in bins) / kept
        assert found.nll == pytest.approx(nll / kept, rel=1e-9)
        assert found.ece == pytest.approx(ece, abs=1e-9)
        assert found.top1 == pytest.approx(1 - errors / kept)


def test_a_sure_and_right_classifier_is_calibrated() -> None:
    found = measure(torch.eye(4) * 100, torch.arange(4))
    assert found.errors == 0
    assert found.ece == pytest.approx(0, abs=1e-12)


def test_agreement_with_oneself() -> None:
    logits = torch.randn(9, 3)
    same, divergence = agreement(logits, logits.log_softmax(-1))
    assert same == 1
    assert divergence == pytest.approx(0, abs=1e-6)


def overconfident(seed: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from softmax(z / scale): the best temperature is near `scale`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(400, 5, generator=generator, dtype=torch.float64) * 2
    target = torch.multinomial(z.softmax(-1), 1, generator=generator)[:, 0]
    return z * scale, target


def nll(logits: torch.Tensor, target: torch.Tensor, temperature: float) -> float:
    rows = zip((logits.double() / temperature).tolist(), target.tolist(), strict=True)
    losses = []
    for row, label in rows:
        # log Σ exp less the top: one probability may be 0 in floats.
        if label >= 0:
            top = max(row)
            losses.append(top + math.log(sum(math.exp(x - top) for x in row)) - row[label])
    return sum(losses) / len(losses)


@settings(max_examples=5)
@given(st.integers(0, 1000), st.floats(0.3, 6))
def test_temperature_is_the_best_of_a_grid(seed: int, scale: float) -> None:
    logits, target = overconfident(seed, scale)
    found = fit_temperature(logits, target)
    assert found == pytest.approx(scale, rel=0.35)
    grid = [found * 1.01**i for i in range(-40, 41)]
    losses = [nll(logits, target, temperature) for temperature in grid]
    assert min(range(81), key=losses.__getitem__) == 40
    # No other minimum far away.
    low, high = map(math.log, TEMPERATURES)
    for i in range(41):
        assert losses[40] <= nll(logits, target, math.exp(low + (high - low) * i / 40)) + 1e-12


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(2, 7), st.floats(1e-3, 1e3))
def test_temperature_never_makes_it_worse(seed: int, n: int, k: int, scale: float) -> None:
    """Labels unrelated to logits, or to few of them: the minimum may lie at either end."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator, dtype=torch.float64) * scale
    target = torch.randint(-1, k, (n,), generator=generator)
    found = fit_temperature(logits, target)
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    before, after = measure(logits, target).nll, measure(logits / found, target).nll
    assert after <= before * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.7, 4.0])
def test_temperature_follows_the_scale_of_logits(scale: float) -> None:
    logits, target = overconfident(7)
    whole = fit_temperature(logits, target)
    assert fit_temperature(logits * scale, target) == pytest.approx(scale * whole, rel=1e-9)
    shifted = logits + torch.randn(400, 1, dtype=torch.float64) * 100
    assert fit_temperature(shifted, target) == pytest.approx(whole, rel=1e-9)


def test_temperature_at_its_ends() -> None:
    right, n = torch.eye(4), torch.arange(4)
    assert fit_temperature(right, n) == TEMPERATURES[0]
    assert fit_temperature(right, (n + 1) % 4) == TEMPERATURES[1]
    assert fit_temperature(right * 1e6, (n + 1) % 4) == TEMPERATURES[1]
    # Flat: no logits to scale, or all so sure that scaling changes nothing.
    assert fit_temperature(torch.zeros(4, 4), n) == 1
    assert fit_temperature(right * 1e6, n) == 1
    assert fit_temperature(right, torch.full((4,), -1)) == 1
    assert fit_temperature(right[:0], n[:0]) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temperature_of_narrow_logits(dtype: torch.dtype) -> None:
    logits, target = overconfident(8)
    found = fit_temperature(logits.to(dtype), target.index_fill(0, torch.tensor([0]), -1))
    assert found == pytest.approx(fit_temperature(logits, target), rel=0.02)


def test_scaling_calibrates() -> None:
    logits, target = overconfident(9)
    scaled = measure(logits / fit_temperature(logits, target), target)
    assert scaled.ece < measure(logits, target).ece / 2
    assert scaled.errors == measure(logits, target).errors


def labels(seed: int, n: int, k: int, *, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator) * 2
    return logits.round() if ties else logits, torch.randint(0, 2, (n, k), generator=generator)


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 6), st.booleans())
def test_average_precision_and_f1_are_scikit_learns(seed: int, n: int, k: int, ties: bool) -> None:
    from sklearn.metrics import average_precision_score, f1_score

    logits, target = labels(seed, n, k, ties=ties)
    target[0] = 1
    found = measure_as("sigmoid", logits, torch.full((n,), -1), target)
    each = [average_precision_score(target[:, c], logits[:, c]) for c in range(k)]
    assert found.map == pytest.approx(sum(each) / k)
    said = (logits > 0).int()
    micro, macro = (
        f1_score(target.flatten(), said.flatten(), zero_division=0),
        sum(f1_score(target[:, c], said[:, c], zero_division=0) for c in range(k)) / k,
    )
    assert found.f1 == pytest.approx(micro)
    assert found.macro_f1 == pytest.approx(macro)


def test_labels_that_apply_to_nothing_are_left_out_of_the_mean() -> None:
    logits = torch.tensor([[1.0, 5.0], [2.0, 6.0], [0.0, 1.0]])
    target = torch.tensor([[1, 0], [0, 0], [0, 0]])
    assert mean_average_precision(logits, target > 0) == pytest.approx(1 / 2)
    assert mean_average_precision(logits, target < 0) == 0


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 5))
def test_figures_of_labels_equal_a_loop(seed: int, n: int, k: int) -> None:
    logits, target = labels(seed, n, k)
    nll, wrong, bins = 0.0, 0, [[0.0, 0] for _ in range(15)]
    for row, truth in zip(logits.double().tolist(), target.tolist(), strict=True):
        wrong += any((z > 0) != t for z, t in zip(row, truth, strict=True))
        for z, t in zip(row, truth, strict=True):
            p = 1 / (1 + math.exp(-z))
            nll -= math.log(p if t else 1 - p)
            sure = max(p, 1 - p)
            cell = bins[min(14, max(0, math.ceil(sure * 15) - 1))]
            cell[0] += sure
            cell[1] += (z > 0) == t
    found = measure_as("sigmoid", logits, torch.full((n,), -1), target)
    assert (found.samples, found.errors) == (n, wrong)
    assert found.nll == pytest.approx(nll / n, rel=1e-9)
    ece = sum(abs(right - sure) for sure, right in bins) / (n * k)
    assert found.ece == pytest.approx(ece, abs=1e-9)


def test_one_class_by_sigmoids_has_the_accuracy_of_the_largest() -> None:
    logits, target = torch.randn(20, 4), torch.arange(20) % 5 - 1
    found = measure_as("sigmoid", logits, target)
    assert (found.samples, found.errors) == (16, measure(logits, target).errors)
    rows = one_vs_all(target, 4)
    assert rows[target < 0].eq(-1).all()
    assert rows[target >= 0].argmax(-1).equal(target[target >= 0])
    assert rows[target >= 0].sum(-1).eq(1).all()
    assert measure_as("softmax", logits, target) == measure(logits, target)


def test_rankings_serve_many_labellings() -> None:
    logits, target = labels(0, 30, 3, ties=True)
    ranked = Rankings(logits)
    for seed in range(5):
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        again = mean_average_precision(logits, target[order] > 0)
        assert ranked.mean_average_precision(target[order] > 0) == again


def test_agreement_of_labels() -> None:
    logits, _ = labels(0, 9, 3)
    assert label_agreement(logits, logits) == (1.0, 0.0)
    half, two = torch.zeros(1, 2), torch.tensor([[math.log(3), math.log(3)]])
    same, divergence = label_agreement(half, two)
    assert same == 0
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence == pytest.approx(2 * kl, rel=1e-6)
