"""Mixtures of teachers. Draws are pure functions of (seed, step), or of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.teachers.signals import AssignedSignals, EnsembleSignals, mean_of_logits
from distill_cli.teachers.tables import Table, numbers
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


class Assigned(_Mixture):
    """Base of the mixtures in which each sample has a member of its own that labels it.

    Attributes:
        table: The rows of all members beside each other; None where each looks up its own.
    """

    table: Table | None = None

    @property
    def caches(self) -> list[CachedTeacher]:
        """The members where all are caches of one codec, which can lie beside each other, else none."""
        caches = [member for member in self.members if isinstance(member, CachedTeacher)]
        alike = len(caches) == len(self.members) and len({cache.kind for cache in caches}) == 1
        return caches if alike else []

    def members_of(self, epoch: int | Tensor, index_B: Tensor, copy_B: Tensor | None) -> Tensor:
        """Number of the member that labels each sample, int64 (B) where the samples' rows lie.

        Args:
            epoch: The epoch of the batch.
            index_B: Its rows.
            copy_B: The copy of the data that each sample is of; None where there is one copy.
        """
        raise NotImplementedError

    def signals(self, batch: Batch) -> TeacherSignals:
        """Asks each member for its samples only."""
        member_B = self.members_of(batch.epoch, batch.index_B, batch.copy_B)
        if self.table is not None:
            reader = self.caches[0].reader
            return self.table.signals(numbers(reader, batch.index_B, batch.view_B, member_B))
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


class RandomTeacherPerSample(Assigned, RandomTeacher):
    """Labels every sample by one teacher, drawn with probability w_m anew in each epoch.

    The draw is a pure function of (seed, epoch, row).
    """

    def members_of(self, epoch: int | Tensor, index_B: Tensor, copy_B: Tensor | None) -> Tensor:
        """int64 (B): number of the teacher that is drawn for each sample."""
        return self._chosen(draw(self.seed, Purpose.TEACHER, epoch, index_B))


class Relabelled(Assigned):
    """Labels each copy of the data by one teacher; a batch holds the copy of each sample.

    Fukuda et al., Interspeech 2017 ("augmentation").
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        super().__init__(members, [1.0] * len(members))

    def members_of(self, epoch: int | Tensor, index_B: Tensor, copy_B: Tensor | None) -> Tensor:
        """int64 (B): number of the teacher of each sample's copy."""
        assert copy_B is not None, "the loader sets the copy of each sample"
        return copy_B


def variant_of(teacher: Teacher | None, step: int) -> int:
    """Number of the network or cache that a teacher asks at a step; 0 where it always asks the same."""
    if isinstance(teacher, RandomTeacher) and not isinstance(teacher, Assigned):
        return teacher.drawn(step)
    return 0


def unrecordable(teacher: Teacher | None) -> str | None:
    """Why a step with this teacher cannot be recorded; None where it can."""
    if isinstance(teacher, Assigned) and not teacher.caches:
        return "each image asks a network of its own, or caches of different codecs"
    return None


# Teachers that look rows up in a table of their own.
Owner = CachedTeacher | Assigned


def owners(teacher: Teacher | None, step: int | None = None) -> list[Owner]:
    """Whatever looks up rows of caches for a teacher; at one step where it is given."""
    if isinstance(teacher, CachedTeacher) or (isinstance(teacher, Assigned) and teacher.caches):
        return [teacher]
    if not isinstance(teacher, _Mixture):
        return []
    members = teacher.members
    if (
        step is not None
        and isinstance(teacher, RandomTeacher)
        and not isinstance(teacher, Assigned)
    ):
        members = (members[teacher.drawn(step)],)
    return [owner for member in members for owner in owners(member, step)]
