"""What an objective, or its adapter, may do beside mapping signals to terms.

Each is a protocol: whoever has the method can do it, and the trainer asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from distill_cli.objectives.base import Objective, Pair, Setting, Step
from distill_cli.types import Need, OrderName


@runtime_checkable
class OfLayers(Objective, Protocol):
    """An objective that looks at layers: a dataclass whose pairs can be filled in."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Layers of the student and of the teacher, by name; none before its rule is applied."""


@runtime_checkable
class Looking(Protocol):
    """An objective that looks at layers of the student alone."""

    @property
    def looks(self) -> tuple[str, ...]:
        """Their names."""


@runtime_checkable
class Needing(Protocol):
    """An objective whose parameters decide what it needs; `about` says what it may need."""

    @property
    def needs(self) -> frozenset[Need]:
        """What it asks for beyond student logits."""


@runtime_checkable
class Ordering(Protocol):
    """An objective that may want samples in an order of its own."""

    @property
    def order(self) -> OrderName | None:
        """How the samples of an epoch follow each other; None where any order will do."""


@runtime_checkable
class Selecting(Protocol):
    """An objective that says which samples the others of its composition are for, and which it."""

    def softened(self, step: Step) -> Tensor:
        """bool (B,): the samples that the others are for; the rest are its own."""


@runtime_checkable
class WholeBatch(Protocol):
    """An objective that may have to see a batch as one, though its samples are apart."""

    @property
    def whole_batch(self) -> bool:
        """Whether it has to, as it is set: accumulation is then refused."""


@runtime_checkable
class Related(Protocol):
    """An objective that relates classes as a trained run does."""

    @property
    def model(self) -> str | None:
        """The run or model folder; None where it needs none as it is set."""


@runtime_checkable
class Relating(Protocol):
    """An adapter with an opinion on which classes are alike."""

    def relations(self) -> Tensor:
        """(K, K): what share of the label of class y is put on each class, or of its residual."""


@runtime_checkable
class Adapting(Protocol):
    """An objective that learns or remembers something of its own, beside the student."""

    def adapters(self, setting: Setting) -> nn.Module | None:
        """A fresh module for it; None where it needs none for these layers."""


@runtime_checkable
class Settling(Objective, Protocol):
    """An objective that leaves a value to the networks; what a run records has it."""

    def settled(self, setting: Setting) -> Objective:
        """Itself, with every such value."""


@runtime_checkable
class OwnOptimizer(Protocol):
    """An adapter that is not moved by the student's optimiser."""

    def optimizer(self) -> Optimizer:
        """Of its own parameters."""


@runtime_checkable
class Checked(Protocol):
    """An objective whose parameters may contradict each other, or the length of training."""

    def check(self, epochs: int) -> None:
        """Refuses what makes no sense in so many epochs.

        Raises:
            UsageError: With the reason.
        """


class Probe(Protocol):
    """Looks at the network as it stands, in eval mode and without gradients."""

    def __call__(self, *, epoch: int, samples: int, batch: int) -> Sequence[Tensor]:
        """What enters the classifier, of training images as they are, not augmented.

        Args:
            epoch: From 0: which images are drawn.
            samples: How many, at most as many as there are.
            batch: Rows of each tensor, at most as many as there are.

        Returns:
            feature_BD, fp32 on the CPU, one a batch: whole batches only.
        """


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an objective makes of an epoch that has just ended.

    Attributes:
        figures: What the epoch's row in metrics.jsonl and summary.csv says of it: the same names
            after every epoch.
        roll_back: Undo the epoch: the student's weights and buffers, and what moves them, are again
            what they were at its start. What adapters remember, the schedule and the count of epochs
            go on.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    roll_back: bool = False


@runtime_checkable
class Judging(Protocol):
    """An objective that judges, after each epoch, how the network learns the labels."""

    def after_epoch(
        self, probe: Probe, finished: int, epochs: int, adapters: nn.Module | None
    ) -> Verdict:
        """The verdict, of which `adapters` may remember what is needed later.

        Args:
            probe: Looks at the network.
            finished: Epochs that are behind us, at least 1.
            epochs: Of the whole training.
            adapters: Its own.
        """


@runtime_checkable
class Telling(Protocol):
    """An adapter that has something to say once training is over."""

    def told(self, class_names: Sequence[str]) -> list[str]:
        """Lines for a person, without the objective's name."""


def needs_of(objective: Objective) -> frozenset[Need]:
    """What it needs as it is set."""
    return objective.needs if isinstance(objective, Needing) else objective.about.needs
