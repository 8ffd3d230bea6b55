"""Mixtures of teachers. Draws are pure functions of (seed, step), or of (seed, epoch, sample)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.teachers.cached import CachedTeacher, StackedCaches
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
        self.stacked: StackedCaches | None = None
        # Features exist for one teacher only: layers of several have no common meaning.
        self.offers = frozenset({Need.LOGITS}).intersection(*(m.offers for m in self.members))

    @property
    def stackable(self) -> bool:
        """Whether all members are caches of one codec, which can lie beside each other."""
        caches = [member for member in self.members if isinstance(member, CachedTeacher)]
        return len(caches) == len(self.members) and len({cache.kind for cache in caches}) == 1

    def stack(self) -> None:
        """Lays the caches beside each other, where they can and lie on the device."""
        if self.stackable and self.stacked is None:
            caches = [member for member in self.members if isinstance(member, CachedTeacher)]
            self.stacked = StackedCaches(caches)

    def _assigned(self, member_B: Tensor, batch: Batch) -> TeacherSignals:
        """Each member's signals on the samples that are assigned to it."""
        if self.stacked is not None:
            return self.stacked.signals(member_B, batch)
        parts = []
        for number in member_B.unique().tolist():
            position_P = (member_B == number).nonzero()[:, 0]
            parts.append((self.members[number].signals(batch.take(position_P)), position_P))
        return AssignedSignals(tuple(parts), samples=len(member_B))


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
        self._bounds: dict[torch.device, Tensor] = {}
        self._last: tuple[int, int] | None = None

    def drawn(self, step: int) -> int:
        """Number of the teacher that labels the batch of this step; asked again, it is remembered."""
        if self._last is None or self._last[0] != step:
            self._last = step, int(self._chosen(draw(self.seed, Purpose.TEACHER, step)))
        return self._last[1]

    def _chosen(self, bits: Tensor) -> Tensor:
        """Numbers of members drawn by random bits, int64 of the same shape."""
        return torch.bucketize(uniform(bits), self._bounds_on(bits.device), right=True)

    def _bounds_on(self, device: torch.device) -> Tensor:
        """Ends of the members' shares of [0, 1), on a device: copied there once."""
        if device not in self._bounds:
            bounds_M = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)
            # The last bound may fall short of 1 by rounding.
            self._bounds[device] = bounds_M[:-1].contiguous().to(device)
        return self._bounds[device]

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
        return self._assigned(self.drawn_for(batch), batch)


class Relabelled(_Mixture):
    """Labels each copy of the data by one teacher; a batch holds the copy of each sample.

    Fukuda et al., Interspeech 2017 ("augmentation").
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        super().__init__(members, [1.0] * len(members))

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks each teacher for the samples of its copy only."""
        assert batch.copy_B is not None, "the loader sets the copy of each sample"
        return self._assigned(batch.copy_B, batch)


def caches_of(teacher: Teacher | None) -> list[CachedTeacher]:
    """Every cache that a teacher asks."""
    if isinstance(teacher, CachedTeacher):
        return [teacher]
    members: tuple[Teacher, ...] = teacher.members if isinstance(teacher, _Mixture) else ()
    return [cache for member in members for cache in caches_of(member)]


def fits(teacher: Teacher | None, room: float) -> bool:
    """Whether a teacher's caches fit into so many bytes of the device's memory."""
    return sum(cache.bytes for cache in caches_of(teacher)) <= room


def reside(teacher: Teacher | None, room: float = math.inf) -> None:
    """Has a teacher's caches lie on its device, where the rows of a batch are looked up; if they fit."""
    if not fits(teacher, room):
        return
    for cache in caches_of(teacher):
        cache.reside()
    if isinstance(teacher, _Mixture):
        teacher.stack()


def variant_of(teacher: Teacher | None, step: int) -> int:
    """Number of the network or cache that a teacher asks at a step; 0 where it always asks the same."""
    if isinstance(teacher, RandomTeacher) and not isinstance(teacher, RandomTeacherPerSample):
        return teacher.drawn(step)
    return 0


def unrecordable(teacher: Teacher | None, room: float) -> str | None:
    """Why a step with this teacher cannot be recorded; None where it can.

    Args:
        teacher: The run's.
        room: Bytes of the device's memory that caches may take.
    """
    if not fits(teacher, room):
        size = sum(cache.bytes for cache in caches_of(teacher))
        return f"the labels take {size / 1e9:.1f} GB, for which the device's memory has no room"
    assigns = isinstance(teacher, RandomTeacherPerSample | Relabelled)
    if assigns and isinstance(teacher, _Mixture) and not teacher.stackable:
        return "each image asks a network of its own, or caches of different codecs"
    return None
