"""The one place that weights, schedules, masks and averages the terms of objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.by_name import AdapterDict
from distill_cli.objectives.base import AdapterContext, HeadName, Objective, Step
from distill_cli.objectives.hooks import (
    EpochVerdict,
    HasAdapter,
    JudgesEpochs,
    Probe,
    SelectsSamples,
    WantsOrder,
    is_coupled,
    needs_of,
)
from distill_cli.types import (
    Batch,
    Need,
    OrderName,
    Progress,
    PseudoLabels,
    ScheduleName,
    StudentSignals,
    TeacherSignals,
    Term,
)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """The weight of an objective over training.

    Attributes:
        start: Weight at the first step.
        end: Weight at the last step (`linear`, `cosine`) or from half-way on (`step`).
        schedule: Course from start to end; `constant` stays at `start`.
    """

    start: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    end: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    schedule: ScheduleName = "constant"

    def at(self, fraction: float) -> float:
        """The weight when `fraction` in [0, 1] of training is behind us."""
        match self.schedule:
            case "constant":
                share = 0.0
            case "linear":
                share = fraction
            case "cosine":
                share = 0.5 * (1 - math.cos(math.pi * fraction))
            case "step":
                share = float(fraction >= 0.5)
        return self.start + (self.end - self.start) * share

    def on_device(self, fraction: Tensor) -> Tensor | float:
        """The same of an fp64 scalar, as an fp32 one; a weight that stays is a number."""
        match self.schedule:
            case "constant":
                return self.start
            case "linear":
                share = fraction
            case "cosine":
                share = 0.5 * (1 - torch.cos(math.pi * fraction))
            case "step":
                share = (fraction >= 0.5).double()
        return (self.start + (self.end - self.start) * share).float()


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """One objective and its weight."""

    objective: Objective
    weight: Weight


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a batch, or of a part of one: its share of the batch's means.

    Attributes:
        total: Weighted sum of the terms, a scalar that gradients flow from.
        terms: Means by name, without the weights of the composition, detached scalars.
        weights: Objective of each term, by the same names, and the weight of that objective.
        pseudo_labels: The labels that were made where there are none; None where nothing learns so.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, tuple[str, Weight]]
    pseudo_labels: PseudoLabels | None = None


def mean_over(term: Term, batch: Batch) -> Tensor:
    """A term's share of its mean over the effective batch, a scalar.

    Divided by the count of the whole, so that the parts of an accumulated batch sum to its mean.
    Of a term for labelled samples, or for those without a label, it is the number of them that a batch
    has on average: whatever lies beside it, each weighs the same; a mixed one by its own share. A coupled
    term is one number already.
    """
    if term.coupled:
        assert batch.whole is None, "what compares samples sees the whole batch"
        return term.loss_B
    return term.loss_B.sum() / batch.count_of(term.rows)


def _own(part: Weighted, adapters: nn.ModuleDict | None) -> nn.Module | None:
    """The adapter of a part; None where it has none."""
    name = part.objective.info.name
    return adapters[name] if adapters is not None and name in adapters else None


@dataclass(frozen=True)
class Composition:
    """Objectives that are trained together; `pipeline/objective/rules.py` says which may be."""

    parts: tuple[Weighted, ...]

    @property
    def orders(self) -> dict[str, OrderName]:
        """The order of samples that objectives want, by their names."""
        return {
            part.objective.info.name: part.objective.order
            for part in self.parts
            if isinstance(part.objective, WantsOrder) and part.objective.order is not None
        }

    @property
    def needs(self) -> frozenset[Need]:
        """Everything that any of the objectives needs."""
        return frozenset().union(*(needs_of(part.objective) for part in self.parts))

    @property
    def coupled(self) -> tuple[str, ...]:
        """The objectives that compare the samples of a batch with each other."""
        return tuple(p.objective.info.name for p in self.parts if is_coupled(p.objective))

    @property
    def learns_from_labels(self) -> bool:
        """Whether nothing is learnt from a sample without a label, as the weights are set."""
        return all(
            part.objective.info.rows == "labelled"
            for part in self.parts
            if any(part.weight.at(fraction) > 0 for fraction in (0.0, 0.5, 1.0))
        )

    @property
    def judging(self) -> tuple[str, ...]:
        """The objectives that judge each epoch, and may roll it back."""
        return tuple(
            p.objective.info.name for p in self.parts if isinstance(p.objective, JudgesEpochs)
        )

    def after_epoch(
        self, probe: Probe, finished: int, epochs: int, adapters: nn.ModuleDict
    ) -> EpochVerdict:
        """The verdict of all objectives on an epoch; one is enough to roll it back."""
        verdicts = [
            part.objective.after_epoch(probe, finished, epochs, _own(part, adapters))
            for part in self.parts
            if isinstance(part.objective, JudgesEpochs)
        ]
        figures = {name: value for verdict in verdicts for name, value in verdict.figures.items()}
        return EpochVerdict(
            figures=figures, roll_back=any(verdict.roll_back for verdict in verdicts)
        )

    @property
    def head(self) -> HeadName | None:
        """The classifier that one of the objectives asks for; None for the network's own."""
        asked = (part.objective.info.head for part in self.parts)
        return next((head for head in asked if head is not None), None)

    def adapters(self, context: AdapterContext) -> nn.ModuleDict:
        """Fresh modules of the objectives that need one, by their names."""
        made = {
            part.objective.info.name: part.objective.adapters(context)
            for part in self.parts
            if isinstance(part.objective, HasAdapter)
        }
        return AdapterDict({name: module for name, module in made.items() if module is not None})

    def __call__(
        self,
        student: StudentSignals,
        teacher: TeacherSignals | None,
        batch: Batch,
        progress: Progress,
        adapters: nn.ModuleDict | None = None,
    ) -> Loss:
        """The weighted loss of a batch; an objective of weight 0 is still computed and reported."""
        weighted: list[Tensor] = []
        means: dict[str, Tensor] = {}
        weights: dict[str, tuple[str, Weight]] = {}
        # Asked of the device only where a weight changes.
        fraction = progress.fraction if self._changes else 0.0
        shared = Step(student=student, batch=batch, progress=progress, teacher_signals=teacher)
        soft_B = self._soft_samples(shared)
        pseudo_labels: PseudoLabels | None = None
        for part in self.parts:
            course = part.weight
            weight = (
                course.at(fraction) if isinstance(fraction, float) else course.on_device(fraction)
            )
            objective, step = part.objective, replace(shared, own_adapter=_own(part, adapters))
            for name, term in objective(step).items():
                if soft_B is not None:
                    kept_B = ~soft_B if isinstance(objective, SelectsSamples) else soft_B
                    term = replace(term, loss_B=term.loss_B.where(kept_B, 0.0))
                assert name not in means, "terms of one name are refused before"
                mean = mean_over(term, batch)
                share = batch.share_of(term.rows)
                reached = weight * share if share < 1 else weight
                whole = isinstance(reached, float) and reached == 1
                weighted.append(mean if whole else reached * mean)
                means[name], weights[name] = mean.detach(), (objective.info.name, course)
                pseudo_labels = term.pseudo_labels or pseudo_labels
        return Loss(
            total=sum(weighted[1:], weighted[0]),
            terms=means,
            weights=weights,
            pseudo_labels=pseudo_labels,
        )

    @property
    def _changes(self) -> bool:
        return any(part.weight.schedule != "constant" for part in self.parts)

    def _soft_samples(self, step: Step) -> Tensor | None:
        """bool (B,): the samples of all objectives but the one that selects; None for all samples."""
        for part in self.parts:
            if isinstance(part.objective, SelectsSamples):
                return part.objective.soft_samples(step)
        return None
