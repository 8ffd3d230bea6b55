"""Types that flow between the rooms of the house.

Shape suffixes used everywhere: B batch, K classes, C channels, H height, W width,
N samples of a split, M teachers, V views. `logits_BK` is a (batch, classes) tensor.
"""

from distill_cli.types.batch import UNLABELLED, Batch, Mixing
from distill_cli.types.count import Count
from distill_cli.types.identity import (
    UNREAD,
    DatasetIdentity,
    DataVersion,
    Source,
    SplitBy,
    ViewSpec,
    differences,
    digest_of_ids,
)
from distill_cli.types.relation import Relation
from distill_cli.types.result import ECE_BINS, FIGURES, HintResult, RunResult
from distill_cli.types.signals import (
    BIAS,
    GATED_PARTS,
    OF_CLASSIFIER,
    PENULTIMATE,
    POSTERIOR,
    Features,
    Need,
    OrderName,
    Progress,
    ScheduleName,
    StudentSignals,
    Targets,
    Teacher,
    TeacherSignals,
    Term,
    Terms,
)

__all__ = [
    "BIAS",
    "ECE_BINS",
    "FIGURES",
    "GATED_PARTS",
    "OF_CLASSIFIER",
    "PENULTIMATE",
    "POSTERIOR",
    "UNLABELLED",
    "UNREAD",
    "Batch",
    "Count",
    "DataVersion",
    "DatasetIdentity",
    "Features",
    "HintResult",
    "Mixing",
    "Need",
    "OrderName",
    "Progress",
    "Relation",
    "RunResult",
    "ScheduleName",
    "Source",
    "SplitBy",
    "StudentSignals",
    "Targets",
    "Teacher",
    "TeacherSignals",
    "Term",
    "Terms",
    "ViewSpec",
    "differences",
    "digest_of_ids",
]
