from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.losses.kd import distillation
from distill_cli.teachers.mixture import (
    Ensemble,
    LogitEnsemble,
    RandomTeacher,
    RandomTeacherPerSample,
    Relabelled,
)
from distill_cli.teachers.signals import DenseSignals, EnsembleSignals
from distill_cli.types import Batch, Need

B, K = 5, 4


class Fixed:
    """A teacher that says the same whatever it sees, and counts how often it is asked."""

    def __init__(self, seed: int) -> None:
        self.logits_BK = torch.randn(
            B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        self.class_names = ("a", "b", "c", "d")
        self.fingerprint = f"teacher-{seed}"
        self.offers = frozenset({Need.LOGITS, Need.FEATURES})
        self.asked = 0
        self.samples = 0

    def signals(self, batch: Batch) -> DenseSignals:
        """Of a sample of row r it says its r-th row."""
        self.asked += 1
        self.samples += len(batch.index_B)
        return DenseSignals(self.logits_BK[batch.index_B])


def batch(step: int, epoch: int = 0, copy_B: torch.Tensor | None = None) -> Batch:
    zeros = torch.zeros(B, dtype=torch.int64)
    return Batch(
        images_BCHW=torch.zeros(B, 1, 1, 1),
        target_B=zeros,
        index_B=torch.arange(B),
        view_B=zeros,
        step=step,
        epoch=epoch,
        copy_B=copy_B,
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


@given(weights, st.floats(0.5, 20))
def test_an_ensemble_of_logits_is_the_geometric_mean(raw: list[float], temperature: float) -> None:
    members = [Fixed(seed) for seed in range(len(raw))]
    said = LogitEnsemble(members, raw).signals(batch(0))
    product = torch.ones(B, K, dtype=torch.float64)
    for member, weight in zip(members, raw, strict=True):
        product *= F.softmax(member.logits_BK / temperature, -1) ** (weight / sum(raw))
    expected = product / product.sum(-1, keepdim=True)
    assert torch.allclose(said.log_probs(temperature).exp(), expected)


def test_what_mixtures_offer() -> None:
    """Probabilities that are averaged have no logits, and layers are one teacher's own."""
    dense, top_k = [Fixed(0), Fixed(1)], [Fixed(0), Fixed(1)]
    top_k[1].offers = frozenset()
    for kind, offered in (
        (Ensemble(dense, [1, 1]), set()),
        (LogitEnsemble(dense, [1, 1]), {Need.LOGITS}),
        (RandomTeacher(dense, [1, 1], 0), {Need.LOGITS}),
        (RandomTeacherPerSample(dense, [1, 1], 0), {Need.LOGITS}),
        (Relabelled(dense), {Need.LOGITS}),
        (RandomTeacher(top_k, [1, 1], 0), set()),
        (Relabelled(top_k), set()),
    ):
        assert kind.offers == offered, type(kind)


def test_per_sample_each_teacher_is_asked_of_its_own_samples_only() -> None:
    members = [Fixed(0), Fixed(1), Fixed(2)]
    mixture = RandomTeacherPerSample(members, [1, 1, 2], seed=3)
    for step in range(30):
        shown = batch(step, epoch=step)
        drawn_B = mixture.members_of(shown.epoch, shown.index_B, None)
        before = [member.samples for member in members]
        said = mixture.signals(shown)
        after = [member.samples for member in members]
        counts = torch.bincount(drawn_B, minlength=3).tolist()
        assert [b - a for a, b in zip(before, after, strict=True)] == counts
        for row, member in enumerate(drawn_B.tolist()):
            own = F.log_softmax(members[member].logits_BK[row] / 2, -1)
            assert torch.equal(said.log_probs(2.0)[row], own)
            assert torch.equal(said.logits_BK[row], members[member].logits_BK[row])


def test_per_sample_draws_follow_weights_and_forget_batches() -> None:
    """A function of (seed, epoch, row): whatever batch or step a row comes in."""
    mixture = RandomTeacherPerSample([Fixed(s) for s in range(3)], [1, 2, 5], seed=1)
    counts: Counter[int] = Counter()
    for epoch in range(2000):
        whole = mixture.members_of(epoch, batch(step=epoch, epoch=epoch).index_B, None)
        counts.update(whole.tolist())
        part = batch(step=7, epoch=epoch).take(torch.tensor([3, 1]))
        assert mixture.members_of(part.epoch, part.index_B, None).tolist() == [
            int(whole[3]),
            int(whole[1]),
        ]
    for member, weight in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert counts[member] / (2000 * B) == pytest.approx(weight, abs=0.02)


def test_relabelled_copies_are_labelled_by_their_teacher() -> None:
    members = [Fixed(0), Fixed(1)]
    copy_B = torch.tensor([0, 1, 1, 0, 1])
    said = Relabelled(members).signals(batch(0, copy_B=copy_B)).log_probs(1.0)
    for row, copy in enumerate(copy_B.tolist()):
        assert torch.equal(said[row], F.log_softmax(members[copy].logits_BK[row], -1))
