"""The reasons for which objectives are refused by what these teachers, networks and labels offer.

Of the three moments of refusing this is the last, before the first byte is written; `rules.py` has
the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.objectives.base import Objective, Pair
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import needs_of
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.types import BIAS, UNLABELLED, Need, Teacher


def check_offers(
    composed: Composition, teacher: Teacher, names: Sequence[str], members: Sequence[Member]
) -> None:
    """Refuses objectives that ask for what the teachers cannot say.

    Raises:
        UsageError: Several teachers together have no logits, or no layers.
        ArtifactError: A cache keeps none.
    """
    for part in composed.parts:
        info, needs = part.objective.info, needs_of(part.objective)
        caches = [
            name
            for name, member in zip(names, members, strict=True)
            if isinstance(member, CachedTeacher)
            and needs & {Need.LOGITS, Need.FEATURES} - member.offers
        ]
        missing = needs & {Need.LOGITS, Need.FEATURES} - teacher.offers
        if Need.FEATURES in missing and caches:
            raise ArtifactError(
                f"objective '{info.name}' looks at the teacher's layers, and {caches[0]} is a "
                "cache of labels",
                hint="Give the teacher's run folder instead: it is asked while the student trains",
            )
        if Need.FEATURES in missing:
            raise UsageError(
                f"objective '{info.name}' looks at the layers of one teacher, these are "
                f"{len(members)}",
                hint="Give one of them",
            )
        if Need.LOGITS in missing and caches:
            raise ArtifactError(
                f"objective '{info.name}' needs raw logits, and cache {caches[0]} keeps the "
                "likeliest classes only",
                hint="Dump with --codec fp16, or give the teacher's run folder",
            )
        if Need.LOGITS in missing:
            raise UsageError(
                f"objective '{info.name}' needs raw logits, and a mean of probabilities has none",
                hint="--ensemble-of logits, --mode random or --mode relabel have them",
            )


def check_labels(composed: Composition, dataset: Dataset) -> None:
    """Refuses objectives that ask for labels of another kind, or for images without any.

    Args:
        composed: The objectives.
        dataset: With the rows that are trained on.

    Raises:
        UsageError: With what would give them what they ask for.
    """
    every = bool((dataset.train.label_N[dataset.fit_rows] != UNLABELLED).all())
    for part in composed.parts:
        info, needs = part.objective.info, needs_of(part.objective)
        if Need.UNLABELLED in needs and every:
            raise UsageError(
                f"objective '{info.name}' learns from images without a label, and every training image "
                "has one",
                hint="--unlabelled DATA adds some, --labels-fraction and --labels-per-class hide labels",
            )
        if Need.HIERARCHY in needs and dataset.group_K is None:
            raise UsageError(
                f"objective '{info.name}' is for labels that name groups of classes, and these name "
                "classes",
                hint="--coarse-labels FILE says the groups",
            )


def check_pairs(objective: Objective, pairs: Sequence[Pair]) -> None:
    """Refuses the classifier's bias as a layer to learn from.

    Raises:
        UsageError: An objective of other layers names it.
    """
    if objective.info.rule != "classifier" and any(BIAS in pair for pair in pairs):
        raise UsageError(
            f"objective '{objective.info.name}': {BIAS} is the same of every image, "
            "and no layer to learn from"
        )
