"""D2L: labels are trusted until the network begins to learn them by heart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.d2l import DimensionMemory
from distill_cli.errors import UsageError, counted
from distill_cli.losses.d2l import adapted_targets, local_dimension
from distill_cli.losses.soft_targets import soft_cross_entropy
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.objectives.hooks import ChecksEpochs, EpochVerdict, HasAdapter, JudgesEpochs, Probe
from distill_cli.types import Terms


def mean_dimension(batches: Sequence[Tensor], k: int) -> float:
    """Mean LID of features, neighbours sought within each batch; 0 where no sample has any.

    Rows that are equal, as of duplicates or of features that are all 0, are one: at one distance
    from everywhere, they would fill the neighbourhoods of the others with what is no dimension.

    Args:
        batches: feature_BD of each.
        k: Neighbours.
    """
    apart = [feature_BD.double().unique(dim=0) for feature_BD in batches]
    lid_N = torch.cat([local_dimension(feature_BD, k) for feature_BD in apart])
    known_N = lid_N[lid_N > 0]
    return float(known_N.mean()) if len(known_N) else 0.0


def turns(lids: Sequence[float], window: int) -> bool:
    """LID − mean(the `window` before) > 2·std(the `window` before), of the last of `lids`.

    Where all before are equal they are one value that stands for epochs without any, as of features
    that lie in one place: nothing is known of how far it varies.
    """
    if len(lids) <= window:
        return False
    before = lids[-1 - window : -1]
    spread = statistics.pstdev(before)
    return spread > 0 and lids[-1] - statistics.fmean(before) > 2 * spread


def trust(lids: Sequence[float], finished: int, epochs: int) -> float:
    """α = exp(−(i/N)·LID_i / min_{j≤i} LID_j), i of N epochs finished."""
    expansion = lids[-1] / min(lids) if lids else 1.0
    return math.exp(-finished / epochs * expansion)


@dataclass(frozen=True, kw_only=True)
class DimensionDriven(ChecksEpochs, JudgesEpochs, HasAdapter):
    """CE(α·δ_y + (1 − α)·δ_ŷ, softmax z), ŷ the network's own answer.

    α is 1 until the local intrinsic dimension (LID) of the penultimate features turns: it falls
    while the network learns what labels have in common, and rises when it begins to learn wrong ones
    by heart. LID(x) = −[(1/k)·Σ_{i≤k} log(r_i/r_k)]⁻¹ with r_i the distance to x's i-th neighbour,
    averaged over images after each epoch; it turns where LID − mean > 2·sd, both of the `window`
    epochs before. The epoch of the turn is undone, once; after epoch i of N, α then is
    exp(−(i/N)·LID_i/min LID).

    Attributes:
        k: Neighbours that a LID is estimated from.
        window: Epochs before, which the LID after an epoch is compared with.
        initial_epochs: Epochs in which the LID is not looked at, then come those of the first
            window; none for three tenths of training.
        turn_epoch: The epoch of the turn, from 1, set by hand; none for where the LID turns.
        samples: Training images that are looked at after an epoch.
        batch: Of these, how many at a time: neighbours are sought among them.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="d2l",
        summary="trust labels less once features grow in dimension: for wrong labels",
        paper="Ma et al. 2018, arXiv 1806.02612",
        defaults="k, window, samples and batch are the authors'. They choose initial epochs by data set: "
        "5 of 50 on MNIST, 40 of 120 on CIFAR-10, 60 of 200 on CIFAR-100; three tenths is ours",
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        terms=frozenset({"ce"}),
    )

    k: Annotated[int, Field(ge=2)] = 20
    window: Annotated[int, Field(ge=2)] = 5
    initial_epochs: Annotated[int, Field(ge=0)] | None = None
    turn_epoch: Annotated[int, Field(ge=1)] | None = None
    samples: Annotated[int, Field(ge=3)] = 1280
    batch: Annotated[int, Field(ge=3)] = 128

    def check(self, epochs: int) -> None:
        """Refuses what could never turn, or not look at the neighbours that it asks for."""
        subject = f"objective '{self.info.name}'"
        if self.k >= self.batch:
            raise UsageError(
                f"{subject}: a batch of {self.batch} has no {self.k} neighbours of a sample",
                hint="Raise batch, or lower k",
            )
        if self.batch > self.samples:
            raise UsageError(
                f"{subject}: {counted(self.samples, 'sample')} {'is' if self.samples == 1 else 'are'} no batch of {self.batch}",
                hint="Raise samples, or lower batch",
            )
        if self.turn_epoch is not None:
            if self.initial_epochs is not None:
                raise UsageError(
                    f"{subject}: turn_epoch sets the turn by hand, initial_epochs where it is looked "
                    "for",
                    hint="Leave one of them out",
                )
            if self.turn_epoch >= epochs:
                raise UsageError(
                    f"{subject}: no epoch comes after turn_epoch {self.turn_epoch}, training has "
                    f"{epochs}",
                    hint="Lower turn_epoch, or raise --epochs",
                )
        elif self.initial_epochs is not None and self._first(epochs) >= epochs:
            raise UsageError(
                f"{subject}: a turn is looked for after initial_epochs {self.initial_epochs} + "
                f"window {self.window} + 1 epochs, training has {epochs}, and one must be left",
                hint="Lower them, raise --epochs, or set turn_epoch",
            )

    def _first(self, epochs: int) -> int:
        """The first epoch, from 1, that may be the turn."""
        initial = round(0.3 * epochs) if self.initial_epochs is None else self.initial_epochs
        return initial + self.window + 1

    def adapters(self, context: AdapterContext) -> nn.Module:
        """What it remembers."""
        return DimensionMemory()

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples."""
        logits_BK = step.student.logits_BK
        alpha = step.adapter(DimensionMemory).alpha_on(logits_BK.device)

        def loss(target_B: Tensor) -> Tensor:
            return soft_cross_entropy(logits_BK, adapted_targets(target_B, logits_BK, alpha))

        return {"ce": on_hard_labels(step.batch, loss)}

    def after_epoch(
        self, probe: Probe, finished: int, epochs: int, adapters: nn.Module | None
    ) -> EpochVerdict:
        """Measures the LID, and sets the α of the next epoch.

        Figures: `lid` at the epoch's end, `alpha` that it was trained with, `turned` where it is the
        turn.
        """
        assert isinstance(adapters, DimensionMemory), "made by the trainer"
        batches = probe(epoch=finished - 1, samples=self.samples, batch=self.batch)
        lid, alpha = mean_dimension(batches, self.k), adapters.alpha
        adapters.note(lid)
        turned = adapters.turn == 0 and self._is_turn(finished, epochs, adapters)
        if turned:
            adapters.turn = finished
        if adapters.turn and finished < epochs:
            adapters.alpha = trust(adapters.lids, finished, epochs)
        figures = {"lid": lid, "alpha": alpha, "turned": turned}
        return EpochVerdict(figures=figures, roll_back=turned)

    def _is_turn(self, finished: int, epochs: int, memory: DimensionMemory) -> bool:
        if self.turn_epoch is not None:
            return finished == self.turn_epoch
        # After the last epoch there is none that could be trained otherwise.
        if not self._first(epochs) <= finished < epochs:
            return False
        memory.looks += 1
        return turns(memory.lids, self.window)
