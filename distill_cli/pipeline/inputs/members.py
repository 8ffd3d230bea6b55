"""The teachers of a training, opened and checked: against the data, and by what they know."""

from __future__ import annotations

from collections.abc import Sequence

from distill_cli.data.dataset import Dataset
from distill_cli.pipeline.inputs.artifacts import Artifacts
from distill_cli.pipeline.inputs.label_rules import said_of_knowing
from distill_cli.pipeline.inputs.teacher_checks import check_knowledge, check_targets
from distill_cli.pipeline.inputs.teacher_data import (
    TeacherData,
    check_cached_rows,
    open_teacher_data,
    shown_to_teachers,
)
from distill_cli.pipeline.inputs.teacher_folders import check_teachers, expand_teachers
from distill_cli.pipeline.inputs.teachers import Member, open_teachers
from distill_cli.recipe.base import LabelledRecipe, TeacherLabels, TrainRecipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.runtime import Runtime, teacher_precision
from distill_cli.training.events import Sink
from distill_cli.types import Targets


def teacher_names(recipe: TrainRecipe, runs: Artifacts) -> list[str]:
    """The teachers' folders; none where the recipe has no teachers."""
    if not isinstance(recipe, TeacherLabels):
        return []
    check_teachers(recipe.teachers)
    own = isinstance(recipe, StudentRecipe)
    return expand_teachers(recipe.teachers or [], coming=runs.comes, own=own)


def open_members(
    recipe: TrainRecipe,
    names: Sequence[str],
    dataset: Dataset,
    targets: Targets,
    runtime: Runtime,
    sink: Sink,
    runs: Artifacts,
) -> tuple[list[Member], TeacherData | None]:
    """The teachers, opened, and checked against the data and what is learnt of them; and what they see.

    Args:
        recipe: The recipe of any training verb.
        names: Its teachers that are there before it.
        dataset: The images that they label.
        targets: The student's targets.
        runtime: The device and the ranks.
        sink: Is told what they see, and how good each is.
        runs: The reader of their folders.

    Returns:
        The teachers, and the images that they see in place of the student's; None for the same ones.

    Raises:
        DistillError: One cannot be opened, does not fit, or knows nothing.
    """
    if not isinstance(recipe, TeacherLabels):
        return [], None
    precision = teacher_precision(recipe.teacher_precision, runtime.device)
    maps = recipe.class_map
    check_cached_rows(recipe, names, dataset)
    members = open_teachers(names, dataset, runtime, precision, maps, runs)
    if isinstance(recipe, LabelledRecipe):
        check_targets(names, members, targets, force=recipe.force)
    teacher_data = runtime.ranks.first_on_machine(
        lambda: open_teacher_data(recipe, dataset, members, sink, glance=runs.dry)
    )
    shown = shown_to_teachers(teacher_data, dataset)
    check_knowledge(names, members, shown, runtime.device, sink, force=recipe.force, runs=runs)
    for line in said_of_knowing(recipe, names, members, dataset, runs):
        sink.message(line)
    return members, teacher_data
