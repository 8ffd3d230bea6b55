"""Terms of a loss that grow out of all proportion, told without waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distill_cli.objectives.compose import Loss, Weight

# Multiple of its value at the first step that a weighted term may reach without a warning.
TOO_MUCH = 1000
# A weighted term that begins below it, as one that warms up, is held against the whole loss.
NOTHING = 1e-3
# Share of its weight that is proposed instead.
LESS = 0.01
WHOLE = "loss"


class Growth:
    """Weighted terms at the first step, and warnings of those that outgrew it.

    Attributes:
        first: Weighted terms of the first step by name, and the whole loss.
        warnings: Warnings that were given, by term: one each.
    """

    def __init__(self) -> None:
        self.load_state_dict({})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; of an empty one, a fresh start."""
        self.first: dict[str, float] = dict(state_dict.get("first", {}))
        self.warnings: dict[str, str] = dict(state_dict.get("said", {}))
        self._noted: dict[str, Tensor] = {}
        self._weights: Mapping[str, tuple[str, Weight]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Plain values; waits for the device."""
        self._settle()
        return {"first": self.first, "said": self.warnings}

    def note(self, loss: Loss, *, first: bool) -> None:
        """A step, or a part of one, whose shares add up; `first` of the whole training."""
        self._weights = loss.weights
        if first:
            # By the weights of the first step, at which nothing of training is behind us.
            weighted = {
                name: loss.weights[name][1].at(0.0) * loss.terms[name] for name in loss.terms
            }
            for name, share in {**weighted, WHOLE: loss.total.detach()}.items():
                self._noted[name] = self._noted[name] + share if name in self._noted else share

    def look(self, means: Mapping[str, float], fraction: float) -> list[str]:
        """New warnings; waits for the device.

        Args:
            means: Means of the terms as they are now, without their weights.
            fraction: Share of training that is behind us.
        """
        self._settle()
        whole = self.first.get(WHOLE, 0.0)
        grown: list[tuple[float, str, str]] = []
        for term, (objective, course) in self._weights.items():
            weight = course.at(fraction)
            then, now = self.first.get(term, 0.0), abs(weight * means[term])
            small = then < NOTHING
            then = whole if small else then
            if term not in self.warnings and now > TOO_MUCH * then > 0:
                what = "the whole loss" if small else "it"
                figures = f"{what} was at step 1 ({then:.3g} then, {now:.3g} now, weighted)"
                grown.append((now, term, self._words(term, objective, weight, figures)))
        # The largest first: others may only be dragged along.
        news = {term: words for _, term, words in sorted(grown, reverse=True)}
        self.warnings |= news
        return list(news.values())

    def _settle(self) -> None:
        """Makes numbers of what was noted of the first step."""
        if self._noted:
            values = torch.stack([value.float() for value in self._noted.values()]).abs().tolist()
            self.first, self._noted = dict(zip(self._noted, values, strict=True)), {}

    def _words(self, term: str, objective: str, weight: float, figures: str) -> str:
        subject = objective if term == objective.replace("-", "_") else f"{objective}, term {term}"
        others = {name for name, _ in self._weights.values()} - {objective}
        instead = f"a weight of {LESS * weight:g} in place of {weight:g}, or " if others else ""
        return f"{subject}: more than {TOO_MUCH:,} times what {figures}. Try {instead}a lower --lr"
