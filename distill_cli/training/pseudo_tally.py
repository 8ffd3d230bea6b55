"""Labels that training makes up, counted without waiting for the device. Shapes: K classes, N rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distill_cli.types import Batch, PseudoLabelCounts, PseudoLabels

# The counts before those by class: samples without a label, accepted ones whose true label is known,
# and of these the right ones.
SEEN, KNOWN, RIGHT, CLASSES = range(4)


class PseudoLabelTally:
    """Counts over an epoch, in int64 and in memory that stays where it is, as a recorded step must.

    Attributes:
        counts: The three of `SEEN`, `KNOWN` and `RIGHT`, then the accepted ones by class; None before any.
        truth_N: int64 true class of each training row, −1 where it is not known; None where none is.
    """

    def __init__(self, counts: Sequence[int] = ()) -> None:
        self.counts = torch.tensor(list(counts), dtype=torch.int64) if counts else None
        self.truth_N: Tensor | None = None

    def note(self, labels: PseudoLabels, batch: Batch, classes: int) -> None:
        """A step, or a part of one.

        Args:
            labels: The labels that it made up.
            batch: The samples.
            classes: K.
        """
        device = labels.class_B.device
        if self.counts is None:
            self.counts = torch.zeros(CLASSES + classes, dtype=torch.int64, device=device)
        elif self.counts.device != device:
            self.counts = self.counts.to(device)
        self.counts[SEEN].add_((~batch.known_B).sum())
        if self.truth_N is not None:
            self.truth_N = self.truth_N.to(batch.index_B.device)
            truth_B = self.truth_N[batch.index_B].to(device)
            known_B = labels.accepted_B & (truth_B >= 0)
            self.counts[KNOWN].add_(known_B.sum())
            self.counts[RIGHT].add_((known_B & (truth_B == labels.class_B)).sum())
        self.counts[CLASSES:].index_add_(0, labels.class_B, labels.accepted_B.long())

    def clear(self) -> None:
        """Starts anew, in the same memory."""
        if self.counts is not None:
            self.counts.zero_()

    def means(self) -> dict[str, float]:
        """Figures of the epoch so far, none of which a hidden label has a part in; waits for the device.

        `accepted` is the share of accepted samples among those without a label, `accepted_entropy` the
        entropy of their classes over that of as many of each, 1 where they are balanced.
        """
        if self.counts is None:
            return {}
        seen, _, _, *by_class = self.counts.tolist()
        accepted = sum(by_class)
        shares = [count / accepted for count in by_class if count]
        entropy = -sum(share * math.log(share) for share in shares)
        return {
            "accepted": accepted / max(seen, 1),
            "accepted_entropy": abs(entropy) / math.log(max(len(by_class), 2)),
        }

    def epoch(self, epoch: int, class_names: Sequence[str]) -> PseudoLabelCounts | None:
        """All counts of an epoch, which is numbered from 1; None where there is nothing to count."""
        if self.counts is None:
            return None
        seen, known, right, *by_class = self.counts.tolist()
        return PseudoLabelCounts(
            epoch=epoch,
            seen=seen,
            accepted=sum(by_class),
            known=known,
            right=right,
            classes=dict(zip(class_names, by_class, strict=True)),
        )

    def state_dict(self) -> list[int]:
        """The counts; none where they are all 0, as between epochs."""
        counts = [] if self.counts is None else self.counts.tolist()
        return counts if any(counts) else []
