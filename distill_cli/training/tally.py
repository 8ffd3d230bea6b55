"""Figures of training steps, added up without waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Steps, and values of images, after which what was noted is added up. Adding up at every step
# would cost a small network a tenth of its time in small kernels. Where images are large it costs
# nothing, and small tensors that live on between large ones keep memory from being reused.
STEPS, VALUES = 50, 1 << 22


class Tally:
    """Sums over an epoch of loss, terms and the share of correct answers.

    Attributes:
        names: Of the figures: `loss`, `top1`, and the terms.
        sums: Their sums over the steps, fp64 (fp32 on Metal, which has no fp64); None before any.
    """

    def __init__(self) -> None:
        self.load_state_dict({})

    def load_state_dict(self, sums: Mapping[str, float]) -> None:
        """Starts anew from the sums of `state_dict`."""
        self.names = tuple(sums)
        self.sums: Tensor | None = None
        if sums:
            self.sums = torch.tensor(list(sums.values()), dtype=torch.float64)
        self._figures: list[Tensor] = []
        self._answers: list[tuple[Tensor, Tensor, int]] = []
        self._noted = 0

    def note(
        self,
        logits_BK: Tensor,
        target_B: Tensor,
        samples: int,
        figures: Mapping[str, Tensor],
        *,
        values: int = 0,
    ) -> None:
        """A step, or a part of one.

        Args:
            logits_BK: Of the student.
            target_B: int64 class, −1 where unlabelled.
            samples: Of the whole step.
            figures: Detached scalars, the same names each time.
            values: Of the images.
        """
        self.names = ("top1", *figures)
        self._figures += figures.values()
        self._answers.append((logits_BK.detach(), target_B, samples))
        self._noted += max(values, logits_BK.numel())
        if len(self._answers) >= STEPS or self._noted >= VALUES:
            self._add_up()

    def _add_up(self) -> None:
        if not self._answers:
            return
        wide = torch.float32 if self._answers[0][0].device.type == "mps" else torch.float64
        hits = [
            (logits_BK.argmax(dim=-1) == target_B).sum() / samples
            for logits_BK, target_B, samples in self._answers
        ]
        figures = torch.stack(self._figures).to(wide).view(len(hits), -1)
        sums = torch.cat([torch.stack(hits).to(wide)[:, None], figures], dim=1).sum(dim=0)
        self.sums = sums if self.sums is None else self.sums.to(sums) + sums
        self._figures, self._answers, self._noted = [], [], 0

    def read(self) -> dict[str, float]:
        """The sums by name; waits for the device."""
        self._add_up()
        return {} if self.sums is None else dict(zip(self.names, self.sums.tolist(), strict=True))

    def state_dict(self) -> dict[str, float]:
        """The sums by name."""
        return self.read()
