"""Compositions that make no sense, refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import real_path
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import Objective
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import (
    ConditionalNeeds,
    JudgesEpochs,
    SelectsSamples,
    TapsStudent,
    UsesClassCentroids,
    WholeBatch,
    needs_of,
)
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.pipeline.objective.order import check_order
from distill_cli.recipe.base import LabelledRecipe, TeacherLabels, TrainRecipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.types import Need, Teacher

# Labels that an objective which selects samples leaves as they are: it has them itself.
NO_SOFT_LABEL = frozenset({"ce"})


def check_sense(recipe: TrainRecipe, composed: Composition) -> None:
    """Refuses objectives that cannot be trained together, or not by this verb.

    Raises:
        UsageError: With the reason.
    """
    _check_selecting(composed)
    _check_teaching(recipe, composed)
    _check_groups(recipe, composed)
    check_order(recipe, composed)
    objectives = [part.objective for part in composed.parts]
    if recipe.accumulate > 1 and (cut := undivided(composed)):
        raise UsageError(
            f"objective '{cut[0]}' looks at a batch as a whole: --accumulate would cut it up",
            hint="Leave --accumulate out, or use a smaller --batch-size",
        )
    looking = [
        each.info.name
        for each in objectives
        if isinstance(each, TapsStudent | JudgesEpochs) or Need.FEATURES in needs_of(each)
    ]
    if recipe.compile and looking:
        raise UsageError(
            f"--compile cannot look at layers, and objective '{looking[0]}' does",
            hint="Leave it out with this objective",
        )


def undivided(composed: Composition) -> list[str]:
    """The objectives that must see a batch as a whole."""
    whole = [
        part.objective.info.name
        for part in composed.parts
        if isinstance(part.objective, WholeBatch) and part.objective.whole_batch
    ]
    return [*composed.coupled, *whole]


def learnt_from(recipe: TrainRecipe) -> list[str]:
    """The folders that a recipe learns from: teachers, weights to start from, related runs."""
    teachers: list[str] = getattr(recipe, "teachers", None) or []
    return [*teachers, *([recipe.init] if recipe.init else []), *related(recipe)]


def related(recipe: TrainRecipe) -> list[str]:
    """The runs that relate classes for objectives in a list."""
    listed = recipe.objective if isinstance(recipe, LabelledRecipe) else []
    if isinstance(listed, str):
        return []
    relating = [name for name, cls in OBJECTIVES.items() if issubclass(cls, UsesClassCentroids)]
    return [
        str(entry["model"])
        for entry in listed
        if entry.get("name") in relating and entry.get("model") is not None
    ]


def check_sources(
    recipe: TrainRecipe, out: Path, *, coming: Callable[[str], bool] = lambda name: False
) -> None:
    """Refuses to write over what is learnt from, and runs to relate classes by that are not there.

    Args:
        recipe: Of any training verb.
        out: The run folder.
        coming: Whether a folder is a run that an earlier stage would make.

    Raises:
        UsageError: With the folder.
    """
    for name in related(recipe):
        if not coming(name) and not Path(name).exists():
            raise UsageError(f"objective, model: there is no folder {name}")
    for name in learnt_from(recipe):
        if real_path(name) in (real_path(out), real_path(out / "model")):
            raise UsageError(
                f"--out {out} holds {name}, which is learnt from", hint="Choose another --out"
            )


def companions(cls: type[Objective]) -> list[type[Objective]]:
    """The objectives of which one must stand beside this one; none where it may stand alone."""
    if not issubclass(cls, SelectsSamples):
        return []
    return [
        other
        for other in OBJECTIVES.values()
        if other is not cls
        and other.info.name not in NO_SOFT_LABEL
        and not other.info.coupled
        and other.info.targets & cls.info.targets
    ]


def _check_groups(recipe: TrainRecipe, composed: Composition) -> None:
    spec = recipe.groups if isinstance(recipe, LabelledRecipe) else None
    asking = [
        part.objective.info.name
        for part in composed.parts
        if Need.GROUPS in needs_of(part.objective)
    ]
    if spec is None and asking:
        raise UsageError(
            f"objective '{asking[0]}' needs to know which classes are alike",
            hint="--groups words, or --groups FILE",
        )
    if spec is not None and not asking:
        raise UsageError(
            "--groups: none of these objectives looks at groups of classes",
            hint="Add --objective grouped-smoothing",
        )


def _check_selecting(composed: Composition) -> None:
    """Refuses a choice between labels where there is one kind, or where samples are not apart."""
    for part in composed.parts:
        name = part.objective.info.name
        if not isinstance(part.objective, SelectsSamples):
            continue
        others = [p.objective.info for p in composed.parts if p is not part]
        if all(info.name in NO_SOFT_LABEL for info in others):
            raise UsageError(
                f"objective '{name}' chooses which samples get a soft label, and none is named",
                hint=f"As --objective {name},label-smoothing",
            )
        if composed.coupled:
            raise UsageError(
                f"objective '{composed.coupled[0]}' compares the samples of a batch with each "
                f"other: '{name}' cannot choose some of them for it"
            )


def _check_teaching(recipe: TrainRecipe, composed: Composition) -> None:
    if isinstance(recipe, StudentRecipe) and recipe.hint_epochs is not None and not recipe.hints:
        raise UsageError("--hint-epochs is of --hints", hint="Leave it out, or add --hints")
    taught = Need.TEACHER in composed.needs
    if isinstance(recipe, TeacherLabels) and not taught:
        raise UsageError(
            "objective: none of these learns from a teacher",
            hint=_other_form(composed) or "Use `distill teacher train` for a network without one",
        )
    if not isinstance(recipe, TeacherLabels) and taught:
        other = _other_form(composed)
        hint = "Use `distill student --teachers …`" + (f". {other}" if other else "")
        raise UsageError("objective: this one needs teachers", hint=hint)


def _other_form(composed: Composition) -> str:
    """Where to read of other parameters, of an objective that learns from teachers or does not."""
    names = [
        part.objective.info.name
        for part in composed.parts
        if isinstance(part.objective, ConditionalNeeds)
        and Need.TEACHER in part.objective.info.needs
    ]
    return f"{names[0]} can be set otherwise: distill methods show {names[0]}" if names else ""


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
