"""Pseudo-labels: a teacher's likeliest class, where it is sure of it, for samples without a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.pseudo_label import AnswerMemory
from distill_cli.losses.pseudo_label import class_fairness, pseudo_cross_entropy
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Step
from distill_cli.objectives.hooks import CouplesSamples, HasAdapter, WholeBatch
from distill_cli.types import Need, PseudoLabels, Term, Terms

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class PseudoLabel(HasAdapter, WholeBatch, CouplesSamples):
    """a(t)·CE(argmax q, p) on samples without a label whose max q is at least τ; q is the teacher's.

    The mean is over all samples without a label, those under the threshold too (FixMatch). a rises
    evenly from 0 at the first share of training in `ramp` to 1 at the second; Lee has 0.0 until T₁
    and then a linear rise to 3 at T₂, which is `ramp: [T₁, T₂]` in shares and a `weight` of 3.

    `adaptive` (FreeMatch): class c has the threshold τ_t·p̃_c / max p̃, with τ_t ← m·τ_t +
    (1 − m)·mean max q and p̃ ← m·p̃ + (1 − m)·mean q over the samples without a label, both from 1/K
    on, before these samples are compared with it. `fairness` adds, with this weight,
    −H(norm(p̃/h̃), norm(p̄/h̄)): h̃ is the moving histogram of argmax q, p̄ and h̄ are the student's mean
    prediction and the histogram of its classes on the samples above the threshold, and norm(x) is
    x / Σ x. It is 0 where no sample is above.

    Attributes:
        threshold: τ; 0 takes every label. Without a say where `adaptive`.
        adaptive: Thresholds that follow the teacher's certainty, by class.
        momentum: m of the moving averages, one move a step: 0.999 looks back over some 1,000 steps.
        fairness: Weight of the fairness term; 0 leaves it out.
        hard: The likeliest class; else softmax(log q / T).
        temperature: T of a soft label; below 1 it is sharper than q.
        ramp: Shares of training at which the rise begins and ends.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="pseudo-label",
        summary="learn a teacher's own answers on images without a label, where it is sure",
        paper="Lee 2013, ICML workshop; FixMatch: Sohn et al. 2020, arXiv 2001.07685; FreeMatch: "
        "Wang et al. 2023, arXiv 2205.07246",
        defaults="FixMatch's for CIFAR-10: τ and the weight. T and m are those of FreeMatch's "
        "configurations in USB (Wang et al. 2022, arXiv 2208.07204), where adaptive is true and, for "
        "CIFAR-10, fairness 0.001",
        needs=frozenset({Need.TEACHER, Need.UNLABELLED}),
        rows="unlabelled",
        own_answers=True,
        terms=frozenset({"pseudo_label", "fairness"}),
    )

    threshold: Share = 0.95
    adaptive: bool = False
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    fairness: Annotated[float, Field(ge=0)] = 0.0
    hard: bool = True
    temperature: Annotated[float, Field(gt=0, le=1000)] = 0.5
    ramp: tuple[Share, Share] = (0.0, 0.0)

    def __post_init__(self) -> None:
        start, end = self.ramp
        if start > end:
            raise ValueError(f"ramp begins at {start:g} of training and ends at {end:g}")

    @property
    def coupled(self) -> bool:
        """Whether there is a fairness term, which is one number of the batch."""
        return self.fairness > 0

    @property
    def whole_batch(self) -> bool:
        """Whether thresholds follow means over the batch."""
        return self.adaptive

    def adapters(self, context: AdapterContext) -> nn.Module | None:
        """The moving averages; None where nothing asks for them."""
        if not (self.adaptive or self.coupled):
            return None
        return AnswerMemory(context.classes, self.momentum, thresholds=self.adaptive)

    def __call__(self, step: Step) -> Terms:
        """Terms `pseudo_label`, and `fairness` with its weight, over the samples without a label."""
        logits_BK, log_q_BK = step.student.logits_BK, step.teacher.log_probs(1.0).detach()
        unlabelled_B = ~step.batch.known_B
        log_most_B, class_B = log_q_BK.max(dim=-1)
        threshold: Tensor | float = self.threshold
        if self.adaptive or self.coupled:
            memory = step.adapter(AnswerMemory)
            memory.update(log_q_BK.exp(), unlabelled_B)
            if self.adaptive:
                threshold = memory.threshold_K()[class_B]
        accepted_B = unlabelled_B & (log_most_B.exp() >= threshold)
        loss_B = pseudo_cross_entropy(
            logits_BK, log_q_BK, accepted_B, None if self.hard else self.temperature
        )
        terms = {
            "pseudo_label": Term(
                loss_B=step.progress.risen(*self.ramp) * loss_B,
                rows="unlabelled",
                pseudo_labels=PseudoLabels(class_B=class_B, accepted_B=accepted_B),
            )
        }
        if self.coupled:
            fairness = class_fairness(logits_BK, accepted_B, memory.mean_K, memory.histogram_K)
            terms["fairness"] = Term(
                loss_B=self.fairness * fairness, rows="unlabelled", coupled=True
            )
        return terms
