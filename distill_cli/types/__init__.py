"""Types that flow between the rooms of the house.

Shape suffixes used everywhere: B batch, K classes, C channels, H height, W width,
N samples of a split, M teachers, V views. `logits_BK` is a (batch, classes) tensor.
"""

from distill_cli.types.batch import UNLABELLED, Batch, Mixing
from distill_cli.types.count import Count
from distill_cli.types.identity import (
    EARLIER_FRAMING,
    FRAMINGS,
    UNREAD,
    Background,
    DatasetIdentity,
    Framing,
    Orientation,
    PlainView,
    Resize,
    Source,
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
    "EARLIER_FRAMING",
    "ECE_BINS",
    "FIGURES",
    "FRAMINGS",
    "GATED_PARTS",
    "OF_CLASSIFIER",
    "PENULTIMATE",
    "POSTERIOR",
    "UNLABELLED",
    "UNREAD",
    "Background",
    "Batch",
    "Count",
    "DatasetIdentity",
    "Features",
    "Framing",
    "HintResult",
    "Mixing",
    "Need",
    "OrderName",
    "Orientation",
    "PlainView",
    "Progress",
    "Relation",
    "Resize",
    "RunResult",
    "ScheduleName",
    "Source",
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
