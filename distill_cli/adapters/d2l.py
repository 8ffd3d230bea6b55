"""Memory of dimensionality-driven learning, kept beside the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_cli.adapters.hooks import HasSummary


class DimensionMemory(nn.Module, HasSummary):
    """How the local dimension of the features went, when it turned, and how far labels are trusted.

    Numbers on the CPU, but for α, which each step reads where it is computed.

    Attributes:
        lids: The dimension after each epoch, oldest first. Features that all lie in one place have
            none: then the one before stands once more.
        turn: The epoch, from 1, at whose end it turned; 0 before.
        looks: Epochs after which a turn was looked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lids: list[float] = []
        self.turn = 0
        self.looks = 0
        self._alpha = 1.0
        self._on: dict[torch.device, Tensor] = {}

    @property
    def alpha(self) -> float:
        """α."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._alpha = alpha
        for scalar in self._on.values():
            scalar.fill_(alpha)

    def alpha_on(self, device: torch.device) -> Tensor:
        """α as a scalar on a device, fp64 where it has that: one tensor for ever, which is written to."""
        if device not in self._on:
            wide = torch.float32 if device.type == "mps" else torch.float64
            self._on[device] = torch.full((), self._alpha, dtype=wide, device=device)
        return self._on[device]

    def note(self, lid: float) -> None:
        """The dimension after an epoch; 0 where there is none."""
        if lid > 0:
            self.lids.append(lid)
        elif self.lids:
            self.lids.append(self.lids[-1])

    def get_extra_state(self) -> dict[str, Tensor]:
        """All of it, in tensors."""
        return {
            "lids": torch.tensor(self.lids, dtype=torch.float64),
            "turn": torch.tensor(self.turn),
            "looks": torch.tensor(self.looks),
            "alpha": torch.tensor(self.alpha, dtype=torch.float64),
        }

    def set_extra_state(self, state: Any) -> None:
        """The inverse."""
        assert isinstance(state, Mapping), "as `get_extra_state` made it"
        self.lids = state["lids"].tolist()
        self.turn, self.looks = int(state["turn"]), int(state["looks"])
        self.alpha = float(state["alpha"])

    def summary(self, class_names: Sequence[str]) -> list[str]:
        """Whether labels were doubted, and from when on."""
        if self.turn:
            return [
                f"the features' dimension turned in epoch {self.turn}, which was undone; later "
                f"epochs mixed the network's own answers into the labels, with alpha "
                f"{self.alpha:.2f} in the end"
            ]
        reason = "training ended before a turn is looked for"
        if self.looks:
            looked = "1 epoch that was" if self.looks == 1 else f"{self.looks} epochs that were"
            reason = f"the features' dimension turned in none of {looked} looked at"
        return [
            f"{reason}: every label was trusted to the end (alpha 1), as by cross-entropy. "
            "turn_epoch sets the turn by hand"
        ]
