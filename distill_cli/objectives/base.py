"""Objectives: frozen dataclasses of hyper-parameters that map a step's signals to named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_type_hints

from pydantic import Field
from torch import Tensor, nn

from distill_cli.types import (
    UNLABELLED,
    Batch,
    Need,
    Progress,
    Rows,
    StudentSignals,
    Targets,
    TeacherSignals,
    Term,
    Terms,
)

M = TypeVar("M", bound=nn.Module)


class DistillationTemperature:
    """Marks a parameter that `--temperature` sets: the T of a teacher's labels."""


Temperature = Annotated[float, Field(gt=0, le=1000), DistillationTemperature()]


class Owns(StrEnum):
    """Things that only one objective of a composition may define."""

    HARD_TARGET = "the hard label"
    PREDICTION = "what the network answers"


# A layer of the student and the layer of the teacher that it learns from; either may be AUTO.
Pair = tuple[str, str]
AUTO = "auto"
# Rules that pair layers where nobody names them: the middle ones, the last of each resolution,
# the last maps, or what enters the classifiers.
PairRule = Literal["middle", "stages", "last", "penultimate", "classifier"]
# Classifiers of a form of their own, by name; None is the network's.
HeadName = Literal["gated"]


@dataclass(frozen=True, kw_only=True)
class DefaultWeights:
    """The weights that an objective has where it is named alone; `defaults` says whose they are.

    Attributes:
        ce: Weight of cross-entropy on the hard label beside it.
        objective: Weight of the objective.
    """

    ce: float = 1.0
    objective: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TapShape:
    """What is known of a layer's output before training.

    Attributes:
        channels: C of the map.
        height: H of the map.
        width: W of the map.
        rectified: Whether the map is never negative: the layer ends in a rectifier.
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
class AdapterContext:
    """Facts about the networks and the data that adapters are made from, known before training.

    Attributes:
        student: Layers of the student that objectives look at, by name.
        teacher: Layers of the teacher that objectives look at, by name.
        normalised: Whether the student has layers that normalise, as batch norm does.
        class_names: Names in label order.
        rule_KK: Likeness of classes by a rule, each row of sum 1; None where there is none.
        centroid_KD: Centre of each class in the features of the run that an objective names.
        group_K: int64 group of each class, where labels name groups; None where they do not.
        noise_KK: Row i: the probabilities of the labels of images of class i; None where unknown.
        fingerprint: Identifies the sources of these four; empty where none is there.
    """

    student: Mapping[str, TapShape] = field(default_factory=dict)
    teacher: Mapping[str, TapShape] = field(default_factory=dict)
    normalised: bool = True
    class_names: tuple[str, ...] = ()
    rule_KK: Tensor | None = None
    centroid_KD: Tensor | None = None
    group_K: Tensor | None = None
    noise_KK: Tensor | None = None
    fingerprint: str = ""

    @property
    def classes(self) -> int:
        """K."""
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True)
class ObjectiveInfo:
    """Facts about an objective that are known without making one.

    Attributes:
        name: Name in recipes and in `distill methods`.
        summary: One line on what it does.
        paper: Source of the method.
        needs: Everything that it asks for beyond student logits, or may ask for.
        owns: Things that no other objective of a composition may own too.
        default_weights: The weights where it is named alone.
        defaults: Origin of its defaults: which are the authors', where from, and which are ours.
        targets: The kinds of targets that it is for.
        rule: Rule that pairs layers where nobody names them; None where it looks at none.
        coupled: Whether it compares the samples of a batch with each other.
        rows: The samples that it learns from, in all of its terms.
        head: The classifier that the network must have for it; None for the network's own.
        own_answers: Whether the network's own answers to the very same views teach it something.
        terms: Names of the terms that it may return, which no other objective of a composition has.
    """

    name: str
    summary: str
    paper: str
    needs: frozenset[Need] = frozenset()
    owns: frozenset[Owns] = frozenset()
    default_weights: DefaultWeights = DefaultWeights()
    defaults: str = ""
    targets: frozenset[Targets] = frozenset({"softmax"})
    rule: PairRule | None = None
    coupled: bool = False
    rows: Rows = "all"
    head: HeadName | None = None
    own_answers: bool = False
    terms: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch, and all that an objective may look at to say its terms.

    Attributes:
        student: Signals of the student.
        batch: The images and their labels.
        progress: Where training stands.
        teacher_signals: Signals of the teacher; None where no objective needs one.
        own_adapter: The objective's adapter; None where it has none.
    """

    student: StudentSignals
    batch: Batch
    progress: Progress
    teacher_signals: TeacherSignals | None = None
    own_adapter: nn.Module | None = None

    @property
    def teacher(self) -> TeacherSignals:
        """Signals of the teacher, which an objective that needs one has."""
        assert self.teacher_signals is not None, "needs are checked before the first step"
        return self.teacher_signals

    @property
    def teacher_logits_BK(self) -> Tensor:
        """fp32 logits of the teacher, which an objective that needs them has."""
        logits_BK = self.teacher.logits_BK
        assert logits_BK is not None, "needs are checked before the first step"
        return logits_BK

    def adapter(self, kind: type[M]) -> M:
        """The objective's adapter.

        Args:
            kind: Class of the module that the objective's `adapters` makes.
        """
        assert isinstance(self.own_adapter, kind), "the trainer owns what `adapters` made"
        return self.own_adapter


class Objective(Protocol):
    """`step → terms`; its fields are hyper-parameters."""

    info: ClassVar[ObjectiveInfo]

    def __call__(self, step: Step) -> Terms:
        """Terms, in the proportions of the method; `compose` weights, masks and averages them."""


def parameters_of(cls: type[Objective]) -> dict[str, Any]:
    """The hyper-parameters of an objective by name, with their defaults."""
    assert is_dataclass(cls), "objectives are dataclasses"
    return {field.name: field.default for field in fields(cls)}


def with_pairs(objective: Objective, pairs: tuple[Pair, ...]) -> Objective:
    """The objective with its layers named."""
    assert is_dataclass(objective), "objectives are dataclasses"
    assert not isinstance(objective, type)
    return replace(objective, pairs=pairs)


def temperatures_of(cls: type[Objective]) -> tuple[str, ...]:
    """The parameters of an objective that are marked as set by `--temperature`."""
    return tuple(
        name
        for name, hint in get_type_hints(cls, include_extras=True).items()
        if any(isinstance(mark, DistillationTemperature) for mark in get_args(hint)[1:])
    )


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
    return Term(loss_B=loss_B, rows="labelled")


def main_target(batch: Batch) -> Tensor:
    """int64 class of each sample; of a mixed image, the class of its larger share."""
    if batch.mixing is None:
        return batch.target_B
    larger_B = batch.mixing.share_B >= 0.5
    target_B = batch.target_B.where(larger_B, batch.mixing.target_B)
    return target_B.where(batch.target_B != UNLABELLED, UNLABELLED)
