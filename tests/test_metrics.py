"""Figures of merit against loops in Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.metrics import agreement, measure


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
