"""Abilities of objectives beside mapping a step to terms, declared by class.

An objective has one by inheriting from it; names of its hyper-parameters claim none. Abilities of
adapters are in `adapters/hooks.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from distill_cli.objectives.base import AdapterContext, Objective, Pair, Step
from distill_cli.types import Need, OrderName


class PairsLayers(ABC):
    """An objective that compares layers: a dataclass whose pairs can be filled in."""

    @property
    @abstractmethod
    def pairs(self) -> tuple[Pair, ...]:
        """Layers of the student and of the teacher, by name; none before its rule is applied."""


class TapsStudent(ABC):
    """An objective that looks at layers of the student alone."""

    @property
    @abstractmethod
    def taps(self) -> tuple[str, ...]:
        """Names of the layers."""


class ConditionalNeeds(ABC):
    """An objective whose parameters decide what it needs; `info` says what it may need."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """Everything that it asks for beyond student logits."""


class WantsOrder(ABC):
    """An objective that may want samples in an order of its own."""

    @property
    @abstractmethod
    def order(self) -> OrderName | None:
        """How the samples of an epoch follow each other; None where any order will do."""


class SelectsSamples(ABC):
    """An objective that chooses the samples that get the soft label; the others are its own."""

    @abstractmethod
    def soft_samples(self, step: Step) -> Tensor:
        """bool (B,): the samples that the other objectives of its composition are for."""


class WholeBatch(ABC):
    """An objective that may have to see a batch as one, though its samples are apart."""

    @property
    @abstractmethod
    def whole_batch(self) -> bool:
        """Whether it has to, as it is set: accumulation is then refused."""


class CouplesSamples(ABC):
    """An objective that may compare the samples of a batch with each other; `info` tells of the rest."""

    @property
    @abstractmethod
    def coupled(self) -> bool:
        """Whether it does, as it is set."""


class UsesClassCentroids(ABC):
    """An objective that relates classes as a trained run does."""

    @property
    @abstractmethod
    def model(self) -> str | None:
        """The run or model folder; None where it needs none as it is set."""


class HasAdapter(ABC):
    """An objective that learns or remembers something of its own, beside the student."""

    @abstractmethod
    def adapters(self, context: AdapterContext) -> nn.Module | None:
        """A fresh module for it; None where it needs none for these layers."""


class ResolvesDefaults(ABC):
    """An objective that leaves a value to the networks; what a run records has it."""

    @abstractmethod
    def resolved(self, context: AdapterContext) -> Objective:
        """The objective with every such value."""


class ChecksEpochs(ABC):
    """An objective whose parameters may contradict each other, or the length of training."""

    @abstractmethod
    def check(self, epochs: int) -> None:
        """Refuses what makes no sense in so many epochs.

        Raises:
            UsageError: With the reason.
        """


class Probe(Protocol):
    """Looks at the network as it stands, in eval mode and without gradients."""

    def __call__(self, *, epoch: int, samples: int, batch: int) -> Sequence[Tensor]:
        """Features that enter the classifier, of training images as they are, not augmented.

        Args:
            epoch: Epoch from 0: which images are drawn.
            samples: How many, at most as many as there are.
            batch: Rows of each tensor, at most as many as there are.

        Returns:
            feature_BD, fp32 on the CPU, one a batch: whole batches only.
        """


@dataclass(frozen=True, kw_only=True)
class EpochVerdict:
    """The judgement of an objective on an epoch that has just ended.

    Attributes:
        figures: Figures for the epoch's row in metrics.jsonl and summary.csv: the same names after
            every epoch.
        roll_back: Undo the epoch: the student's weights and buffers, and what moves them, are again
            what they were at its start. What adapters remember, the schedule and the count of epochs
            go on.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    roll_back: bool = False


class JudgesEpochs(ABC):
    """An objective that judges, after each epoch, how the network learns the labels."""

    @abstractmethod
    def after_epoch(
        self, probe: Probe, finished: int, epochs: int, adapters: nn.Module | None
    ) -> EpochVerdict:
        """The verdict, of which `adapters` may remember what is needed later.

        Args:
            probe: Looks at the network.
            finished: Epochs that are behind us, at least 1.
            epochs: Epochs of the whole training.
            adapters: The objective's own.
        """


def is_coupled(objective: Objective) -> bool:
    """Whether an objective compares the samples of a batch with each other as it is set."""
    if isinstance(objective, CouplesSamples):
        return objective.coupled
    return objective.info.coupled


def needs_of(objective: Objective) -> frozenset[Need]:
    """Everything that an objective needs as it is set."""
    return objective.needs if isinstance(objective, ConditionalNeeds) else objective.info.needs
