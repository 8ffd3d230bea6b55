"""Several teachers as one."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.teachers.signals import EnsembleSignals
from distill_cli.types import Batch, Teacher, TeacherSignals


class _Mixture:
    """What every mixture shares: members that speak of the same classes, and their weights."""

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


class Ensemble(_Mixture):
    """Labels every sample with the weighted mean of the teachers' probabilities."""

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks every teacher."""
        return EnsembleSignals(tuple(m.signals(batch) for m in self.members), self.weights)


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
        """Which teacher labels the batch of this step."""
        point = float(uniform(draw(self.seed, Purpose.TEACHER, step)))
        bounds = list(accumulate(self.weights))
        return next((m for m, bound in enumerate(bounds) if point < bound), len(bounds) - 1)

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks the teacher that was drawn, and no other."""
        return self.members[self.drawn(batch.step)].signals(batch)
