"""Mixtures of teachers. Draws are pure functions of (seed, step), or of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.teachers.signals import AssignedSignals, EnsembleSignals, mean_of_logits
from distill_cli.types import Batch, Need, Teacher, TeacherSignals


class _Mixture:
    """Base of the mixtures: members with the same classes, and their weights, scaled to sum 1."""

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float]) -> None:
        assert len(members) == len(weights) > 0, "one weight a teacher"
        assert all(weight >= 0 for weight in weights), "weights are not negative"
        heard = [(m, w) for m, w in zip(members, weights, strict=True) if w > 0]
        total = sum(weight for _, weight in heard)
        assert total > 0, "some teacher has weight"
        self.members: tuple[Teacher, ...] = tuple(member for member, _ in heard)
        self.weights = tuple(weight / total for _, weight in heard)
        self.class_names = self.members[0].class_names
        joined = "+".join(member.fingerprint for member in self.members)
        self.fingerprint = blake2b(joined.encode(), digest_size=16).hexdigest()
        # Features exist for one teacher only: layers of several have no common meaning.
        self.offers = frozenset({Need.LOGITS}).intersection(*(m.offers for m in self.members))


class Ensemble(_Mixture):
    """Labels every sample with the weighted mean of the teachers' probabilities."""

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float]) -> None:
        super().__init__(members, weights)
        self.offers = frozenset()

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks every teacher."""
        return EnsembleSignals(tuple(m.signals(batch) for m in self.members), self.weights)


class LogitEnsemble(_Mixture):
    """Labels every sample with the weighted mean of the teachers' logits."""

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks every teacher."""
        return mean_of_logits([m.signals(batch) for m in self.members], self.weights)


class RandomTeacher(_Mixture):
    """Labels every batch by one teacher, drawn with probability w_m.

    Fukuda et al., Interspeech 2017 ("switching"). Cross-entropy is linear in the target, so the
    expected gradient is the ensemble's, at the cost of one teacher. The draw is a pure function
    of (seed, step): the same after a restart and on every rank.

    Args:
        members: The teachers.
        weights: Their probabilities, scaled to sum 1.
        seed: The run's seed.
    """

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float], seed: int) -> None:
        super().__init__(members, weights)
        self.seed = seed

    def drawn(self, step: int) -> int:
        """Number of the teacher that labels the batch of this step."""
        return int(self._chosen(draw(self.seed, Purpose.TEACHER, step)))

    def _chosen(self, bits: Tensor) -> Tensor:
        """Numbers of members drawn by random bits, int64 of the same shape."""
        bounds_M = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)
        # The last bound may fall short of 1 by rounding.
        return torch.bucketize(uniform(bits), bounds_M[:-1].contiguous(), right=True)

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks only the teacher that was drawn."""
        return self.members[self.drawn(batch.step)].signals(batch)


class RandomTeacherPerSample(RandomTeacher):
    """Labels every sample by one teacher, drawn with probability w_m anew in each epoch.

    The draw is a pure function of (seed, epoch, row).
    """

    def drawn_for(self, batch: Batch) -> Tensor:
        """int64 (B): number of the teacher that labels each sample."""
        return self._chosen(draw(self.seed, Purpose.TEACHER, batch.epoch, batch.index_B))

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks each teacher for its samples only."""
        return _assigned(self.members, self.drawn_for(batch), batch)


class Relabelled(_Mixture):
    """Labels each copy of the data by one teacher; a batch holds the copy of each sample.

    Fukuda et al., Interspeech 2017 ("augmentation").
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        super().__init__(members, [1.0] * len(members))

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks each teacher for the samples of its copy only."""
        assert batch.copy_B is not None, "the loader sets the copy of each sample"
        return _assigned(self.members, batch.copy_B, batch)


def _assigned(members: Sequence[Teacher], member_B: Tensor, batch: Batch) -> TeacherSignals:
    """Each member's signals on the samples that are assigned to it."""
    parts = []
    for number in member_B.unique().tolist():
        position_P = (member_B == number).nonzero()[:, 0]
        parts.append((members[number].signals(batch.take(position_P)), position_P))
    return AssignedSignals(tuple(parts), samples=len(member_B))
