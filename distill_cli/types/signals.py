"""Signals of student and teacher on a batch, and the terms that objectives make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from distill_cli.types.batch import Batch, Rows

if TYPE_CHECKING:
    from torch import Tensor

# Layer outputs by tap: fp32 (B, C, H, W), whatever the network's own layout; vectors are 1×1 maps.
Features = Mapping[str, "Tensor"]
# The layer that enters the classifier, which every network has.
PENULTIMATE = "penultimate"
# Prefix of the parts of a classifier, whatever it is called in its network. Its bias is added to
# every image's logits, 0 where it has none.
OF_CLASSIFIER = "classifier/"
BIAS = f"{OF_CLASSIFIER}bias"
# The parts of a gated classifier: its logits, and those of its gates without and with the label.
POSTERIOR = f"{OF_CLASSIFIER}posterior"
GATED_PARTS = (f"{OF_CLASSIFIER}logits", f"{OF_CLASSIFIER}prior", POSTERIOR)
# Whether one class applies to an image, or each applies or not by itself.
Targets = Literal["softmax", "sigmoid"]
# The ways of an objective's weight over training.
ScheduleName = Literal["constant", "linear", "cosine", "step"]
# How the samples of an epoch follow each other: at random, or every class as often in each batch.
OrderName = Literal["shuffled", "balanced"]


@dataclass(frozen=True, kw_only=True)
class StudentSignals:
    """Signals of the student on a batch.

    Attributes:
        logits: fp32 (B, K); None where the forward stopped at a layer before them.
        features: Outputs of the layers that were asked for.
    """

    logits: Tensor | None
    features: Features = field(default_factory=dict)

    @property
    def logits_BK(self) -> Tensor:
        """fp32 logits, which must be there."""
        assert self.logits is not None, "what learns from logits goes on to the end"
        return self.logits


class TeacherSignals(Protocol):
    """Signals of a teacher on a batch. `log_probs` always answers; the rest may not exist."""

    @property
    def logits_BK(self) -> Tensor | None:
        """fp32 logits where one dense teacher speaks; None for an ensemble of probabilities."""

    @property
    def features(self) -> Features:
        """Outputs of the layers that were asked for; empty where none can be had."""

    def log_probs(self, temperature: float) -> Tensor:
        """log of the softened class probabilities at `temperature`, (B, K), fp32."""


class Need(StrEnum):
    """Needs of an objective beyond student logits; checked before the first step."""

    TEACHER = "teacher"
    LOGITS = "logits"
    FEATURES = "features"
    GROUPS = "groups"
    HIERARCHY = "hierarchy"
    NOISE = "noise"
    UNLABELLED = "unlabelled"
    MODEL = "model"


class Teacher(Protocol):
    """A label is a function: live network, cache on disk or a mixture, the caller cannot tell."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes, in the order of its outputs."""

    @property
    def fingerprint(self) -> str:
        """Identifies the teacher's weights."""

    @property
    def offers(self) -> frozenset[Need]:
        """Signals that it has beside probabilities: raw logits, features of layers."""

    def signals(self, batch: Batch) -> TeacherSignals:
        """Signals on these views; no gradient flows."""


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """The labels that a teacher's answers give to samples without one.

    Attributes:
        class_B: int64 class of each sample.
        accepted_B: bool (B,): the samples that learn from it; none that has a label.
    """

    class_B: Tensor
    accepted_B: Tensor


@dataclass(frozen=True, kw_only=True)
class Term:
    """One named part of a loss: per sample, or one number of the whole batch.

    Attributes:
        loss_B: Loss per sample, fp32; a scalar where `coupled`.
        rows: The samples that it is averaged over; 0 on the others. Where `coupled`, it is a number
            of these alone.
        coupled: The samples of a batch are compared with each other: there is one number of all.
        pseudo_labels: The labels that it learns from where there are none, for the report; None where
            it makes none.
    """

    loss_B: Tensor
    rows: Rows = "all"
    coupled: bool = False
    pseudo_labels: PseudoLabels | None = None


Terms = Mapping[str, Term]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The point that training has reached.

    Attributes:
        epoch: Epoch from 0.
        step: Global step from 0. Both are int64 scalars where steps are counted on a device, so that
            a recorded step counts on.
        total_steps: Steps of the whole stage.
        seed: Seed of the run, for draws that objectives make.
    """

    epoch: int | Tensor
    step: int | Tensor
    total_steps: int
    seed: int = 0

    @property
    def fraction(self) -> float | Tensor:
        """Share of the stage that is behind us: 0 at the first step, 1 at the last; fp64 as a tensor."""
        last = max(1, self.total_steps - 1)
        return self.step / last if isinstance(self.step, int) else self.step.double() / last

    def grown(self, share: float) -> float | Tensor:
        """What rises from 0 to 1 over the first `share` of the stage, evenly; 1 where that is 0."""
        if share == 0:
            return 1.0
        part = self.fraction / share
        return min(1.0, part) if isinstance(part, float) else part.clamp(max=1.0)

    def risen(self, start: float, end: float) -> float | Tensor:
        """A rise from 0 at the share `start` of the stage to 1 at `end`, even; 1 at once where these
        are one; an fp32 scalar where steps are counted on a device.
        """
        fraction = self.fraction
        if isinstance(fraction, float):
            if start == end:
                return float(fraction >= end)
            return min(1.0, max(0.0, (fraction - start) / (end - start)))
        if end == 0:
            return 1.0
        if start == end:
            return (fraction >= end).float()
        return ((fraction - start) / (end - start)).clamp(min=0.0, max=1.0).float()
