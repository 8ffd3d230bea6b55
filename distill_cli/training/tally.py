"""Figures of training steps, added up without waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distill_cli.types import UNLABELLED, Batch

# Steps, and values of images, after which what was noted is added up. Adding up at every step
# would cost a small network a tenth of its time in small kernels. Where images are large it costs
# nothing, and small tensors that live on between large ones keep memory from being reused.
STEPS, VALUES = 50, 1 << 22


class Tally:
    """Sums over an epoch of loss, terms and the share of correct answers.

    Attributes:
        names: Names of the figures: `loss`, `top1`, and the terms.
        sums: Sums of the figures over the steps, fp64 (fp32 on Metal, which has no fp64); None before any.
        in_place: Add up at every step, into memory that stays where it is, as a recorded step must.
    """

    def __init__(self) -> None:
        self.load_state_dict({})

    def load_state_dict(self, sums: Mapping[str, float]) -> None:
        """Starts anew from the sums of `state_dict`."""
        self.names = tuple(sums)
        self.in_place = False
        self.sums: Tensor | None = None
        if sums:
            self.sums = torch.tensor(list(sums.values()), dtype=torch.float64)
        self._figures: list[Tensor] = []
        self._answers: list[tuple[Tensor, Tensor, Tensor | None, int]] = []
        self._noted = self._steps = 0

    def note(self, logits_BK: Tensor | None, batch: Batch, figures: Mapping[str, Tensor]) -> None:
        """A step, or a part of one.

        Args:
            logits_BK: Logits of the student; None where its forward stops before them.
            batch: The batch that it saw.
            figures: Detached scalars, the same names each time.
        """
        self.names = (*(("top1",) if logits_BK is not None else ()), *figures)
        self._figures += figures.values()
        self._noted += batch.images_BCHW.numel()
        self._steps += 1
        if logits_BK is not None:
            answer = (logits_BK.detach(), batch.target_B, batch.target_BK, batch.samples)
            self._answers.append(answer)
            self._noted += logits_BK.numel()
        if self.in_place or self._steps >= STEPS or self._noted >= VALUES:
            self._add_up()

    def clear(self) -> None:
        """Starts anew, in the same memory."""
        self._figures, self._answers, self._noted, self._steps = [], [], 0, 0
        if self.sums is not None:
            self.sums.zero_()

    def _add_up(self) -> None:
        if not self._steps:
            return
        device = self._figures[0].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        if self._adds_one(device):
            return
        figures = torch.stack(self._figures).to(wide).view(self._steps, -1)
        if self._answers:
            hits = torch.stack([_right(*answer) for answer in self._answers]).to(wide)
            figures = torch.cat([hits[:, None], figures], dim=1)
        sums = figures.sum(dim=0)
        if not self.in_place:
            self.sums = sums if self.sums is None else self.sums.to(sums) + sums
        elif self.sums is None or self.sums.device != device:
            self.sums = sums.clone() if self.sums is None else self.sums.to(sums) + sums
        else:
            self.sums.add_(sums)
        self._figures, self._answers, self._noted, self._steps = [], [], 0, 0

    def _adds_one(self, device: torch.device) -> bool:
        """Adds up one step in place by as few operations as can be; whether it did.

        It is what a recorded step does, where each operation of a small network's counts; the bits are
        those of the sum of one.
        """
        kept = self.in_place and self.sums is not None and self.sums.device == device
        if not kept or self._steps > 1:
            return False
        assert self.sums is not None, "kept"
        kind = self._figures[0].dtype
        hits = [_right(*answer).to(kind) for answer in self._answers]
        self.sums.add_(torch.stack([*hits, *self._figures]))
        self._figures, self._answers, self._noted, self._steps = [], [], 0, 0
        return True

    def read(self) -> dict[str, float]:
        """The sums by name; waits for the device."""
        self._add_up()
        return {} if self.sums is None else dict(zip(self.names, self.sums.tolist(), strict=True))

    def state_dict(self) -> dict[str, float]:
        """The sums by name."""
        return self.read()


def _right(logits_BK: Tensor, target_B: Tensor, target_BK: Tensor | None, samples: int) -> Tensor:
    """Share of right answers of a step; where several labels may apply, all must be right."""
    right_B = logits_BK.argmax(dim=-1) == target_B
    if target_BK is not None:
        known_BK = target_BK != UNLABELLED
        all_B = (((logits_BK > 0) == (target_BK > 0.5)) & known_BK).all(dim=-1)
        right_B = right_B.where(target_B != UNLABELLED, all_B)
    return right_B.sum() / samples
