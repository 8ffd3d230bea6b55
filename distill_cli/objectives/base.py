"""What an objective is: a frozen dataclass of hyper-parameters that maps signals to named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from distill_cli.types import (
    UNLABELLED,
    Batch,
    Need,
    OrderName,
    Progress,
    StudentSignals,
    Targets,
    TeacherSignals,
    Term,
    Terms,
)


class Owns(StrEnum):
    """What only one objective of a composition may hold."""

    HARD_TARGET = "the hard label"
    PREDICTION = "what the network answers"


# A layer of the student and the layer of the teacher that it learns from; either may be AUTO.
Pair = tuple[str, str]
AUTO = "auto"
# Which layers are paired where nobody names them: the middle ones, the last of each resolution,
# the last maps, or what enters the classifiers.
PairRule = Literal["middle", "stages", "last", "penultimate", "classifier"]
# Classifiers of a form of their own, by name; None is the network's.
HeadName = Literal["gated"]


@dataclass(frozen=True, kw_only=True)
class Usual:
    """The weights that an objective has where it is named alone, as its paper has them.

    Attributes:
        hard: Of cross-entropy on the hard label beside it.
        own: Of the objective.
    """

    hard: float = 1.0
    own: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TapShape:
    """What is known of a layer's output before training.

    Attributes:
        channels: Of its map.
        height: Of its map.
        width: Of its map.
        rectified: Whether it is never negative: it ends in a rectifier.
    """

    channels: int
    height: int
    width: int
    rectified: bool = False

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known before training of the networks and the data.

    Attributes:
        student: The layers that an objective looks at, by name.
        teacher: Those of the teacher.
        class_names: In label order.
        rule_KK: How alike classes are by a rule, each row of sum 1; None where there is none.
        centroid_KD: Where each class lies in the features of the run that an objective names.
    """

    student: Mapping[str, TapShape] = field(default_factory=dict)
    teacher: Mapping[str, TapShape] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    rule_KK: Tensor | None = None
    centroid_KD: Tensor | None = None

    @property
    def classes(self) -> int:
        """K."""
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of an objective without making one.

    Attributes:
        name: In recipes and in `distill methods`.
        summary: One line on what it does.
        paper: Where it comes from.
        needs: What it asks for beyond student logits, or may.
        owns: What no other objective of a composition may own too.
        usual: Its weights where it is named alone.
        targets: The kinds of targets that it is for.
        rule: How layers are paired where nobody names them; None where it looks at none.
        coupled: It compares the samples of a batch with each other.
        head: The classifier that the network must have for it; None for its own.
    """

    name: str
    summary: str
    paper: str
    needs: frozenset[Need] = frozenset()
    owns: frozenset[Owns] = frozenset()
    usual: Usual = Usual()
    targets: frozenset[Targets] = frozenset({"softmax"})
    rule: PairRule | None = None
    coupled: bool = False
    head: HeadName | None = None


class Objective(Protocol):
    """`(student, teacher, batch, progress, adapters) → terms`; its fields are hyper-parameters."""

    about: ClassVar[About]

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
        adapters: nn.Module | None,
    ) -> Terms:
        """Unweighted terms; `compose` weights, masks and averages them."""


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
    def order(self) -> OrderName:
        """How the samples of an epoch follow each other."""


@runtime_checkable
class Selecting(Protocol):
    """An objective that says which samples the others of its composition are for."""

    def softened(
        self, student: StudentSignals, teacher: TeacherSignals | None, batch: Batch
    ) -> Tensor:
        """bool (B,): the samples that the others are for; the rest are its own."""


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


def on_hard_labels(batch: Batch, loss: Callable[[Tensor], Tensor]) -> Term:
    """A loss against the hard label; against both labels by their shares where images are mixed.

    A loss that is linear in its target, as cross-entropy is, then equals that against the mixed
    label λ·onehot(y) + (1 − λ)·onehot(y′) (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        batch: The images and their labels.
        loss: From class indices to a loss per sample, 0 where the index is −1 (unlabelled).
    """
    loss_B = loss(batch.target_B)
    if batch.mixing is not None:
        share_B = batch.mixing.share_B
        loss_B = share_B * loss_B + (1 - share_B) * loss(batch.mixing.target_B)
        loss_B = loss_B * (batch.target_B != UNLABELLED)
    return Term(loss_B=loss_B, labelled_only=True)


def main_target(batch: Batch) -> Tensor:
    """int64 class of each sample; of a mixed image, the class of its larger share."""
    if batch.mixing is None:
        return batch.target_B
    larger_B = batch.mixing.share_B >= 0.5
    target_B = batch.target_B.where(larger_B, batch.mixing.target_B)
    return target_B.where(batch.target_B != UNLABELLED, UNLABELLED)
