"""A label mixed of several: the hard one, relations between classes, a prediction, a rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from distill_cli.adapters.label_mix import ClassEmbeddings
from distill_cli.adapters.target_matrix import TargetMatrix
from distill_cli.losses.numerics import one_hot
from distill_cli.losses.soft_targets import class_relation, mixed_targets, soft_cross_entropy
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Owns, Step, on_hard_labels
from distill_cli.objectives.hooks import ConditionalNeeds, HasAdapter, UsesClassCentroids
from distill_cli.types import (
    UNLABELLED,
    Need,
    Terms,
)

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class LabelMix(ConditionalNeeds, UsesClassCentroids, HasAdapter):
    """CE(q, softmax z), q = hard·δ_y + relation·softmax_j(cos(c_y, c_j)/T_r) + sample·p_T + rule·ρ_y.

    p is the network's own prediction, held constant, or the teacher's. c are centroids of classes,
    about their mean, in the features of a trained run, or embeddings E that learn beside the
    network from CE(sg p, softmax_j(cos(e_y, e_j)/T_r)).

    Attributes:
        hard: Share of the hard label; the four make up 1.
        relation: Share of the relation between classes.
        sample: Share of a prediction for this very sample.
        rule: Share of what `--groups` says.
        model: Run whose centroids relate the classes; none: learnt embeddings.
        relation_temperature: T_r.
        rate: Of the embeddings' own optimiser, for the mean over the samples of one class.
        sample_from: Whose prediction.
        sample_temperature: T of the prediction.
    """

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(
        name="label-mix",
        summary="hard label, class relations, a prediction and a rule in one label",
        paper="relations: Sun et al. 2017, arXiv 1710.10393; own prediction: Reed et al. 2014, "
        "arXiv 1412.6596",
        defaults="ours",
        needs=frozenset({Need.TEACHER, Need.MODEL, Need.GROUPS}),
        owns=frozenset({Owns.HARD_TARGET}),
        rows="labelled",
        own_answers=True,
        terms=frozenset({"ce", "embeddings"}),
    )

    hard: Share = 0.8
    relation: Share = 0.1
    sample: Share = 0.1
    rule: Share = 0.0
    model: str | None = None
    relation_temperature: Annotated[float, Field(gt=0, le=1000)] = 0.3
    rate: Annotated[float, Field(gt=0)] = 0.1
    sample_from: Literal["own", "teacher"] = "own"
    sample_temperature: Annotated[float, Field(gt=0, le=1000)] = 1.0

    def __post_init__(self) -> None:
        shares = self.hard + self.relation + self.sample + self.rule
        if not isclose(shares, 1, abs_tol=1e-6):
            raise ValueError(f"hard, relation, sample and rule make up one label, not {shares:g}")
        if self.model is not None and self.relation == 0:
            raise ValueError("model is named, and relation has no share")

    @property
    def needs(self) -> frozenset[Need]:
        """Of what has a share."""
        taught = self.sample > 0 and self.sample_from == "teacher"
        asked = {Need.TEACHER: taught, Need.GROUPS: self.rule > 0, Need.MODEL: self.model}
        return frozenset(need for need, asks in asked.items() if asks)

    def adapters(self, context: AdapterContext) -> nn.Module:
        """What does not depend on the sample, scaled to 1: a matrix, and embeddings."""
        made = nn.ModuleDict()
        if self.relation and self.model is None:
            made["embeddings"] = ClassEmbeddings(
                context.classes, self.relation_temperature, self.rate
            )
        elif self.relation and context.centroid_KD is not None:
            about_KD = context.centroid_KD - context.centroid_KD.mean(dim=0)
            made["relation"] = TargetMatrix(class_relation(about_KD, self.relation_temperature))
        if self.rule and context.rule_KK is not None:
            made["rule"] = TargetMatrix(context.rule_KK)
        return made

    def __call__(self, step: Step) -> Terms:
        """Term `ce`, over the labelled samples, and `embeddings`, of these alone."""
        adapters, logits_BK = step.adapter(nn.ModuleDict), step.student.logits_BK
        predicted_BK = self._predicted(step) if self.sample else logits_BK
        relation_KK = adapters["embeddings"]() if "embeddings" in adapters else None

        def rows(target_B: Tensor) -> Iterator[tuple[float, Tensor]]:
            index_B = target_B.clamp(min=0)
            yield self.hard, one_hot(index_B, logits_BK.shape[1])
            if self.sample:
                yield self.sample, predicted_BK
            if relation_KK is not None:
                yield self.relation, relation_KK.detach()[index_B]
            for name, share in (("relation", self.relation), ("rule", self.rule)):
                if name in adapters:
                    yield share, adapters[name](index_B)

        def loss(target_B: Tensor) -> Tensor:
            loss_B = soft_cross_entropy(logits_BK, mixed_targets(list(rows(target_B))))
            return loss_B * (target_B != UNLABELLED)

        def foretold(target_B: Tensor) -> Tensor:
            assert relation_KK is not None, "asked where there are embeddings"
            # Shares that leave the range of fp32, at low temperatures, would be a log of 0.
            least = torch.finfo(relation_KK.dtype).tiny
            log_row_BK = relation_KK.clamp(min=least).log()[target_B.clamp(min=0)]
            answer_BK = F.softmax(logits_BK.detach(), dim=-1)
            loss_B: Tensor = -(answer_BK * log_row_BK).sum(dim=-1)
            return loss_B * (target_B != UNLABELLED)

        terms = {"ce": on_hard_labels(step.batch, loss)}
        if relation_KK is not None:
            terms["embeddings"] = on_hard_labels(step.batch, foretold)
        return terms

    def _predicted(self, step: Step) -> Tensor:
        """p_T of each sample, (B, K), constant."""
        if self.sample_from == "own":
            return F.softmax(step.student.logits_BK.detach() / self.sample_temperature, dim=-1)
        return step.teacher.log_probs(self.sample_temperature).exp()
