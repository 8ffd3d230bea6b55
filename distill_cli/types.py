"""What flows between the rooms of the house.

Shape suffixes used everywhere: B batch, K classes, C channels, H height, W width,
N samples of a split, M teachers, V views. `logits_BK` is a (batch, classes) tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Source = Literal["table", "files"]
# The target of a sample that has no label.
UNLABELLED = -1
# Equal bins of confidence, (b/15, (b + 1)/15], that calibration is measured in.
ECE_BINS = 15


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """All that decides the pixels of `view(sample, view_index)`, besides the sample itself.

    Attributes:
        augment: Augmentations in order, fully spelled: `("crop:4", "flip")`; empty for none.
        channels: 1 (grey) or 3 (RGB).
        height: Pixels.
        width: Pixels.
        seed: Seed of every random draw of a view; a training run's own seed is another one.
        source: What a view starts from: an image of the view's size, decoded once (`table`), or
            the whole image, read from its file (`files`).
    """

    augment: tuple[str, ...]
    channels: int
    height: int
    width: int
    seed: int
    source: Source = "table"

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return {**asdict(self), "augment": list(self.augment)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ViewSpec:
        """The inverse of `to_json`; unknown keys raise TypeError."""
        return cls(**{**value, "augment": tuple(value["augment"])})


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """What must agree before two artefacts may be used together.

    Attributes:
        fingerprint: blake2b of the sorted (sample id, label, content hash) of the train split.
        ids_digest: blake2b of the sorted sample ids of the train split.
        samples: Rows of the train split, the held-out part included.
        class_names: In label order.
        split_seed: Seed of the train/held-out split.
        val_fraction: Share of the train split that is held out (0 where `val/` exists).
    """

    fingerprint: str
    ids_digest: str
    samples: int
    class_names: tuple[str, ...]
    split_seed: int
    val_fraction: float

    def to_json(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetIdentity:
        """The inverse of `to_json`; unknown keys raise TypeError."""
        return cls(**{**value, "class_names": tuple(value["class_names"])})


def differences(expected: Any, found: Any) -> list[str]:
    """The fields in which two dataclasses of one type differ, as `name: expected … , found …`."""
    return [
        f"{field.name}: expected {getattr(expected, field.name)!r}, "
        f"found {getattr(found, field.name)!r}"
        for field in fields(expected)
        if getattr(expected, field.name) != getattr(found, field.name)
    ]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """What was mixed into each image of a batch: image_i = share_i·own + (1 − share_i)·partner.

    Attributes:
        share_B: Share of the image's own content, in [0, 1], fp32, on the run's device.
        target_B: int64 class of the partner, −1 where unlabelled, on the run's device.
    """

    share_B: Tensor
    target_B: Tensor

    def rows(self, rows: slice) -> Mixing:
        """Of some of the batch's samples."""
        return Mixing(share_B=self.share_B[rows], target_B=self.target_B[rows])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch of views.

    Attributes:
        images_BCHW: Float in [0, 1], un-normalised, on the run's device.
        target_B: int64 class index, −1 where unlabelled, on the run's device.
        index_B: int64 row of the train split (sorted by sample id), on the CPU.
        view_B: int64 view of each sample, on the CPU.
        step: Global step from 0: what draws per batch are hashed from.
        mixing: The other half of mixed images; None where images are not mixed.
        whole: The effective batch that this is a part of; None where it is whole itself.
        unlabelled: Whether any sample may be without a label: if none can, none is looked for.
    """

    images_BCHW: Tensor
    target_B: Tensor
    index_B: Tensor
    view_B: Tensor
    step: int
    mixing: Mixing | None = None
    whole: Batch | None = None
    unlabelled: bool = True

    @property
    def samples(self) -> int:
        """Samples of the effective batch: what a mean over it divides by."""
        return len((self.whole or self).index_B)

    @property
    def labelled(self) -> Tensor | int:
        """Labelled samples of the effective batch, at least 1; a scalar on the run's device."""
        if not self.unlabelled:
            return self.samples
        return ((self.whole or self).target_B != UNLABELLED).sum().clamp(min=1)

    def split(self, parts: int) -> Iterator[Batch]:
        """The batch in at most `parts` runs of samples, for accumulation; means stay the whole's."""
        size = -(-len(self.index_B) // parts)
        for start in range(0, len(self.index_B), size) if parts > 1 else ():
            rows = slice(start, start + size)
            yield Batch(
                images_BCHW=self.images_BCHW[rows],
                target_B=self.target_B[rows],
                index_B=self.index_B[rows],
                view_B=self.view_B[rows],
                step=self.step,
                mixing=self.mixing and self.mixing.rows(rows),
                whole=self,
                unlabelled=self.unlabelled,
            )
        if parts == 1:
            yield self


@dataclass(frozen=True, kw_only=True)
class StudentSignals:
    """What the student says of a batch: `logits_BK`, fp32."""

    logits_BK: Tensor


class TeacherSignals(Protocol):
    """What a teacher says of a batch. `log_probs` always answers; raw logits may not exist."""

    @property
    def logits_BK(self) -> Tensor | None:
        """fp32 logits where one dense teacher speaks; None for an ensemble of probabilities."""

    def log_probs(self, temperature: float) -> Tensor:
        """log of the softened class probabilities at `temperature`, (B, K), fp32."""


class Teacher(Protocol):
    """A label is a function: live network, cache on disk or a mixture, the caller cannot tell."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes it speaks of, in the order of its outputs."""

    @property
    def fingerprint(self) -> str:
        """Identifies the teacher's weights."""

    def signals(self, batch: Batch) -> TeacherSignals:
        """What it says of these views; no gradient flows."""


class Need(StrEnum):
    """What an objective needs beyond student logits; checked before the first step."""

    TEACHER = "teacher"
    LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class Term:
    """One named, unweighted part of a loss.

    Attributes:
        loss_B: Loss per sample, fp32.
        labelled_only: Averaged over the labelled samples, instead of all; 0 on the others.
    """

    loss_B: Tensor
    labelled_only: bool = False


Terms = Mapping[str, Term]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands.

    Attributes:
        epoch: Epoch from 0.
        step: Global step from 0.
        total_steps: Steps of the whole stage.
    """

    epoch: int
    step: int
    total_steps: int

    @property
    def fraction(self) -> float:
        """Share of the stage that is behind us: 0 at the first step, 1 at the last."""
        return self.step / max(1, self.total_steps - 1)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The final figures of a run: the keys of result.json.

    Attributes:
        test_top1: Share of right answers on the test split, looked at once, best epoch's weights.
        test_errors: Wrong answers.
        test_samples: Images of the test split.
        test_nll: Nats.
        test_ece: Expected calibration error, 15 bins.
        val_top1: Held-out accuracy of the best epoch.
        best_epoch: From 1.
        params: Parameters of the network.
        model_bytes: Of model.safetensors.
        latency_ms: Median time of one image through the network on the run's device.
        images_per_second: Median over epochs after the first, training steps only.
        seconds: Training and held-out evaluation.
        teacher_agreement: Share of test images with the teacher's class; None where unknown.
        teacher_kl: Mean KL(teacher ‖ student) on test at T = 1, nats; None where unknown.
    """

    test_top1: float
    test_errors: int
    test_samples: int
    test_nll: float
    test_ece: float
    val_top1: float
    best_epoch: int
    params: int
    model_bytes: int
    latency_ms: float
    images_per_second: float
    seconds: float
    teacher_agreement: float | None
    teacher_kl: float | None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)
