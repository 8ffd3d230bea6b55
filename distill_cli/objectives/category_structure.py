"""Category structure: how samples lie about the centres of their classes, and those to each other.

Shapes: B batch, K classes, C × H × W maps, D values of a flattened map, or logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.category_structure import MovingCentres
from distill_cli.adapters.regressor import Regressor
from distill_cli.losses.category_structure import (
    Centres,
    centres,
    compact,
    inter,
    intra,
    right_answers,
)
from distill_cli.objectives.base import (
    AdapterContext,
    DefaultWeights,
    ObjectiveInfo,
    Pair,
    Step,
    TapShape,
    main_target,
)
from distill_cli.objectives.hooks import ConditionalNeeds, HasAdapter, PairsLayers, WantsOrder
from distill_cli.types import (
    Need,
    OrderName,
    Term,
    Terms,
)

Weight = Annotated[float, Field(ge=0)]
Form = Literal["paper", "release", "teacher-free"]
# The terms of each form and their weights: of `paper` chosen by us, else the authors'.
WEIGHTS: dict[Form, dict[str, float]] = {
    "paper": {"intra_weight": 0.5, "inter_weight": 10.0},
    "release": {
        "intra_weight": 0.002,
        "inter_weight": 0.04,
        "compact_weight": 0.1,
        "logit_weight": 1e-6,
    },
    "teacher-free": {"compact_weight": 0.1},
}
TERMS = tuple(WEIGHTS["release"])


@dataclass(frozen=True, kw_only=True)
class CategoryStructure(PairsLayers, ConditionalNeeds, WantsOrder, HasAdapter):
    """MSE between both networks' residuals t − c(y), and between the cosines of their centres.

    intra: mean ((t − c_T(y)) − (s − sg c_S(y)))²; inter: mean (cos(c_T, c_T′) − cos(c_S, c_S′))² over
    the classes present; s, t the features of student and teacher, c(y) the centre of y's samples.

    The `paper` form compares features in these two means. Their weights are ours, chosen on held-out
    images of MNIST (benchmarks/results/structure.md): at the released ones the two pull with 1 % of
    cross-entropy's gradient at first, and soon with less than 0.2 % (docs/pulls.md).

    The `release` form is the authors' code, to rounding: the same of logits beside features; intra
    divided by C·H·W of the features, or by K, once more, and inter by the number of classes present;
    the centres that residuals of features are about are of right answers, each network's own, and a
    sample stands for a centre that there is none of; with them 0.1·mean (z − sg μ(y))², μ the centres
    of the student's logits, and 1e-6·mean (z − v)². It pulls with 1 to 12 % of cross-entropy's
    gradient (docs/pulls.md), but what the teacher says with less than 1 %: nearly all is the pull of
    logits to the centre of their class.

    The `teacher-free` form is that pull alone, beside hard labels.

    Attributes:
        form: `paper`, `release` or `teacher-free`.
        intra_weight: Of the residuals about centres; none for 0.5 (`paper`) or 0.002 (`release`).
        inter_weight: Of the cosines between centres; none for 10 (`paper`) or 0.04 (`release`).
        compact_weight: Of the student's logits about their own centres; none for 0.1 (`release`,
            `teacher-free`).
        logit_weight: Of both networks' logits; none for 1e-6 (`release`).
        centres: `batch` are means over a batch, which then shows every class alike (`order:
            balanced`, unless another one is asked for); `moving` are remembered from batch to batch.
        momentum: Share of a moving centre that a batch leaves as it was.
        pairs: Layers of student and teacher; "auto" for what enters the classifiers. Where their
            sizes differ, a layer of its own learns to map the student's to the teacher's.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="category-structure",
        summary="keep how samples lie about class centres (form teacher-free needs no teacher)",
        paper="Chen et al. 2020, ECCV (category structure)",
        defaults="weights of the paper form are ours, chosen on held-out images of MNIST; those of the "
        "release form, and 0.9 of cross-entropy, are the authors'",
        needs=frozenset({Need.TEACHER, Need.LOGITS, Need.FEATURES}),
        default_weights=DefaultWeights(ce=0.9, objective=1.0),
        rule="penultimate",
        coupled=True,
        rows="labelled",
        terms=frozenset(
            {"structure_intra", "structure_inter", "structure_compact", "structure_logits"}
        ),
    )

    form: Form = "paper"
    intra_weight: Weight | None = None
    inter_weight: Weight | None = None
    compact_weight: Weight | None = None
    logit_weight: Weight | None = None
    centres: Literal["batch", "moving"] = "batch"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        if self.form == "teacher-free" and self.pairs:
            raise ValueError(
                "form teacher-free looks at no layers. Leave pairs out, or choose form: paper"
            )
        for name in TERMS:
            if name in WEIGHTS[self.form]:
                if getattr(self, name) is None:
                    # Spelt out, so that what records an objective records what it computes.
                    object.__setattr__(self, name, WEIGHTS[self.form][name])
            elif getattr(self, name) is not None:
                others = ", ".join(form for form, has in WEIGHTS.items() if name in has)
                raise ValueError(
                    f"form {self.form} has no {name}. Leave it out (it is of {others})"
                )

    @property
    def needs(self) -> frozenset[Need]:
        """A teacher and its layers, but for `teacher-free`; its logits for `release`."""
        by_form = {
            "paper": frozenset({Need.TEACHER, Need.FEATURES}),
            "release": frozenset({Need.TEACHER, Need.FEATURES, Need.LOGITS}),
            "teacher-free": frozenset[Need](),
        }
        return by_form[self.form]

    @property
    def order(self) -> OrderName | None:
        """Balanced where centres are of one batch: a sample alone is its class's centre."""
        return "balanced" if self.centres == "batch" else None

    def adapters(self, context: AdapterContext) -> nn.Module:
        """What maps each pair; behind it, of moving centres, the memories of each comparison."""
        maps = [_mapping(context.student[own], context.teacher[other]) for own, other in self.pairs]
        memories: list[nn.Module] = []
        if self.centres == "moving":
            # Of each pair, of both networks; of right answers too, where these are apart; then
            # of logits.
            release = self.form == "release"
            of_pair = 4 if release else 2
            sizes = [
                prod(context.teacher[other].size) for _, other in self.pairs for _ in range(of_pair)
            ]
            logits = {"paper": 0, "release": 2, "teacher-free": 1}[self.form]
            sizes += [context.classes] * logits
            memories = [MovingCentres(context.classes, size, self.momentum) for size in sizes]
        return nn.ModuleList([*maps, *memories])

    def __call__(self, step: Step) -> Terms:
        """Terms `structure_intra`, `_inter`, `_compact` and `_logits`, those of its form.

        They have their weights, and are sums over the pairs (and logits, in the `release` form).
        """
        adapters, student = step.adapter(nn.ModuleList), step.student
        target_B, classes = main_target(step.batch), student.logits_BK.shape[1]
        memories = iter(adapters[len(self.pairs) :])

        def centred(values_BD: Tensor, of_B: Tensor = target_B) -> Centres:
            mean_KD, present_K = centres(values_BD, of_B, classes)
            if self.centres == "batch":
                return mean_KD, present_K
            now: Centres = next(memories)(mean_KD, present_K)
            return now

        if self.form == "teacher-free":
            return {"structure_compact": self._compact(step, centred(student.logits_BK))}
        intra_terms, inter_terms = [], []
        for index, (own_BD, other_BD) in enumerate(self._compared(step)):
            about, taught = centred(own_BD), centred(other_BD.detach())
            inter_term = inter(own_BD, other_BD, target_B, classes, about, taught)
            of_own, of_other = about, taught
            if self.form == "release" and index < len(self.pairs):
                of_own = centred(own_BD, right_answers(student.logits_BK, target_B))
                of_other = centred(
                    other_BD.detach(), right_answers(step.teacher_logits_BK, target_B)
                )
            intra_term = intra(own_BD, other_BD, target_B, classes, of_own, of_other)
            if self.form == "release":
                intra_term = intra_term / own_BD.shape[1]
                inter_term = inter_term / (about[1] & taught[1]).sum().clamp(min=1)
            intra_terms.append(intra_term)
            inter_terms.append(inter_term)
        intra_term, inter_term = torch.stack(intra_terms).sum(), torch.stack(inter_terms).sum()
        terms = {
            "structure_intra": Term(
                loss_B=self._weight("intra") * intra_term, rows="labelled", coupled=True
            ),
            "structure_inter": Term(
                loss_B=self._weight("inter") * inter_term, rows="labelled", coupled=True
            ),
        }
        if self.form == "release":
            # Logits are what was compared last, about the centres of all samples.
            terms["structure_compact"] = self._compact(step, about)
            square_B = (student.logits_BK - step.teacher_logits_BK.detach()).square().mean(dim=-1)
            terms["structure_logits"] = Term(loss_B=self._weight("logit") * square_B)
        return terms

    def _weight(self, term: str) -> float:
        """The weight of a term that the form has."""
        weight: float = getattr(self, f"{term}_weight")
        return weight

    def _compared(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """Values (B, D) of student and teacher: of each pair, and in the `release` form logits."""
        adapters, compared = step.adapter(nn.ModuleList), []
        for index, (own, other) in enumerate(self.pairs):
            mapped_BCHW: Tensor = adapters[index](step.student.features[own])
            compared.append((mapped_BCHW.flatten(1), step.teacher.features[other].flatten(1)))
        if self.form == "release":
            compared.append((step.student.logits_BK, step.teacher_logits_BK.detach()))
        return compared

    def _compact(self, step: Step, about: Centres) -> Term:
        logits_BK = step.student.logits_BK
        loss = compact(logits_BK, main_target(step.batch), logits_BK.shape[1], about)
        return Term(loss_B=self._weight("compact") * loss, rows="labelled", coupled=True)


def _mapping(student: TapShape, teacher: TapShape) -> nn.Module:
    """From the student's layer to the shape of the teacher's."""
    if student.size == teacher.size:
        return nn.Identity()
    return Regressor(student.size, teacher.size, rectified=teacher.rectified)
