"""Figures of merit against loops in Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.metrics import (
    Rankings,
    agreement,
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
