from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.losses.soft import distillation
from distill_cli.teachers.mixture import Ensemble, RandomTeacher
from distill_cli.teachers.signals import DenseSignals, EnsembleSignals
from distill_cli.types import Batch

B, K = 5, 4


class Fixed:
    """A teacher that says the same whatever it sees, and counts how often it is asked."""

    def __init__(self, seed: int) -> None:
        self.logits_BK = torch.randn(
            B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        self.class_names = ("a", "b", "c", "d")
        self.fingerprint = f"teacher-{seed}"
        self.asked = 0

    def signals(self, batch: Batch) -> DenseSignals:
        self.asked += 1
        return DenseSignals(self.logits_BK)


def batch(step: int) -> Batch:
    zeros = torch.zeros(B, dtype=torch.int64)
    return Batch(
        images_BCHW=torch.zeros(B, 1, 1, 1), target_B=zeros, index_B=zeros, view_B=zeros, step=step
    )


weights = st.lists(st.floats(0.01, 1), min_size=1, max_size=4)


@given(weights, st.floats(0.5, 20))
def test_ensemble_averages_probabilities(raw: list[float], temperature: float) -> None:
    members = [Fixed(seed) for seed in range(len(raw))]
    said = Ensemble(members, raw).signals(batch(0)).log_probs(temperature).exp()
    expected = sum(
        w / sum(raw) * F.softmax(m.logits_BK / temperature, -1)
        for m, w in zip(members, raw, strict=True)
    )
    assert torch.allclose(said, expected)
    assert torch.allclose(said.sum(-1), torch.ones(B, dtype=torch.float64))


def test_ensemble_has_no_logits() -> None:
    assert Ensemble([Fixed(0), Fixed(1)], [1, 1]).signals(batch(0)).logits_BK is None


def test_ensemble_of_one_is_that_one() -> None:
    member = Fixed(3)
    said = EnsembleSignals((DenseSignals(member.logits_BK),), (1.0,)).log_probs(2.0)
    assert torch.allclose(said, F.log_softmax(member.logits_BK / 2, -1))


def test_random_asks_only_the_drawn_teacher() -> None:
    members = [Fixed(0), Fixed(1)]
    mixture = RandomTeacher(members, [1, 1], seed=0)
    for step in range(50):
        drawn = mixture.drawn(step)
        before = [member.asked for member in members]
        mixture.signals(batch(step))
        after = [member.asked for member in members]
        assert [b - a for a, b in zip(before, after, strict=True)] == [
            int(index == drawn) for index in range(2)
        ]


def test_random_follows_its_weights() -> None:
    mixture = RandomTeacher([Fixed(s) for s in range(3)], [1, 2, 5], seed=1)
    steps = 8000
    counts = Counter(mixture.drawn(step) for step in range(steps))
    for index, weight in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert counts[index] / steps == pytest.approx(weight, abs=0.02)


def test_random_is_a_function_of_seed_and_step() -> None:
    one, two = (RandomTeacher([Fixed(0), Fixed(1)], [1, 1], seed=4) for _ in range(2))
    assert [one.drawn(s) for s in range(100)] == [two.drawn(s) for s in reversed(range(100))][::-1]
    other = RandomTeacher([Fixed(0), Fixed(1)], [1, 1], seed=5)
    assert [one.drawn(s) for s in range(100)] != [other.drawn(s) for s in range(100)]


def test_a_teacher_of_weight_zero_is_never_asked() -> None:
    silent = Fixed(1)
    for mixture in (
        Ensemble([Fixed(0), silent], [1, 0]),
        RandomTeacher([Fixed(0), silent], [1, 0], 0),
    ):
        for step in range(20):
            mixture.signals(batch(step)).log_probs(1.0)
    assert silent.asked == 0


def test_switching_has_the_ensembles_gradient_in_expectation() -> None:
    """Fukuda 2017: cross-entropy is linear in the target, so the weighted mean of the teachers'
    gradients is the ensemble's gradient."""
    members, raw = [Fixed(s) for s in range(3)], [0.2, 0.3, 0.5]
    z = torch.randn(B, K, dtype=torch.float64, requires_grad=True)

    def gradient(log_probs: torch.Tensor) -> torch.Tensor:
        [grad] = torch.autograd.grad(distillation(z, log_probs, 2.0).sum(), z)
        return grad

    ensemble = gradient(Ensemble(members, raw).signals(batch(0)).log_probs(2.0))
    switching = sum(
        w * gradient(m.signals(batch(0)).log_probs(2.0)) for m, w in zip(members, raw, strict=True)
    )
    assert torch.allclose(ensemble, switching, atol=1e-12)
