"""The learning rate as a pure function of the step, so that a resumed run needs no state of it."""

from __future__ import annotations

from dataclasses import dataclass

from distill_cli.objectives.compose import ScheduleName, Weight

# Shares of training after which `step` divides the rate by ten: 150, 180 and 210 of the 240
# epochs that the distillation literature trains CIFAR for.
MILESTONES = (150 / 240, 180 / 240, 210 / 240)


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up, then constant, linear, cosine or step decay.

    Attributes:
        peak: The rate after warm-up.
        total_steps: Steps of the whole training.
        warmup_steps: Steps over which the rate climbs to its peak.
        schedule: How it falls; linear and cosine end near zero.
    """

    peak: float
    total_steps: int
    warmup_steps: int
    schedule: ScheduleName

    def at(self, step: int) -> float:
        """The rate of a step, from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        decaying = max(1, self.total_steps - self.warmup_steps)
        fraction = (step - self.warmup_steps) / decaying
        if self.schedule == "step":
            return self.peak * 0.1 ** sum(fraction >= milestone for milestone in MILESTONES)
        return self.peak * Weight(start=1.0, end=0.0, schedule=self.schedule).at(fraction)
