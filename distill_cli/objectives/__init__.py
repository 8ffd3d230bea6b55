"""The table of objectives. A method is one file here, one line below and one test."""

from __future__ import annotations

from distill_cli.objectives.attention import AttentionTransfer
from distill_cli.objectives.base import Objective
from distill_cli.objectives.binary_cross_entropy import BinaryCrossEntropy
from distill_cli.objectives.category_structure import CategoryStructure
from distill_cli.objectives.coarse import Coarse
from distill_cli.objectives.consistency import Consistency
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.d2l import DimensionDriven
from distill_cli.objectives.dist import Dist
from distill_cli.objectives.disturb_label import DisturbLabel
from distill_cli.objectives.dkd import DecoupledDistillation
from distill_cli.objectives.dropmax import DropMax
from distill_cli.objectives.feature_norm_kd import FeatureNormDistillation
from distill_cli.objectives.forward import Forward
from distill_cli.objectives.grouped_smoothing import GroupedSmoothing
from distill_cli.objectives.hint import Hint
from distill_cli.objectives.kd import KnowledgeDistillation
from distill_cli.objectives.knowledge_refinery import KnowledgeRefinery
from distill_cli.objectives.label_mix import LabelMix
from distill_cli.objectives.label_smoothing import LabelSmoothing
from distill_cli.objectives.logit_standardisation import LogitStandardisation
from distill_cli.objectives.nkd import NormalisedDistillation
from distill_cli.objectives.pseudo_label import PseudoLabel
from distill_cli.objectives.rkd import RelationalDistillation
from distill_cli.objectives.selective import Selective
from distill_cli.objectives.sigmoid_kd import SigmoidDistillation
from distill_cli.objectives.similarity import Similarity
from distill_cli.objectives.tfkd_reg import TeacherFreeRegularisation
from distill_cli.objectives.tfkd_self import TeacherFreeSelf

OBJECTIVES: dict[str, type[Objective]] = {
    cls.info.name: cls
    for cls in (
        CrossEntropy,
        LabelSmoothing,
        GroupedSmoothing,
        TeacherFreeSelf,
        TeacherFreeRegularisation,
        DisturbLabel,
        DropMax,
        DimensionDriven,
        KnowledgeRefinery,
        LabelMix,
        Coarse,
        Forward,
        Selective,
        KnowledgeDistillation,
        DecoupledDistillation,
        NormalisedDistillation,
        Dist,
        LogitStandardisation,
        Consistency,
        PseudoLabel,
        BinaryCrossEntropy,
        SigmoidDistillation,
        Hint,
        AttentionTransfer,
        Similarity,
        RelationalDistillation,
        CategoryStructure,
        FeatureNormDistillation,
    )
}
