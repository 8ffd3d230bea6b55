"""Checks of a training by its paths and folders, before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill_cli.cli.begun import check_begun
from distill_cli.errors import UsageError, nearest
from distill_cli.pipeline.entries import check_not_gone
from distill_cli.pipeline.folders import check_finished, check_one_run, check_output
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.pipeline.inputs.teacher_folders import (
    check_distinct,
    check_teachers,
    expand_teachers,
    moves,
)
from distill_cli.recipe import known_names
from distill_cli.recipe.base import TeacherLabels, TrainRecipe
from distill_cli.recipe.peer_options import is_peer, peer_of
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.recipe.stages import is_several, stages_of


def check_early(recipe: TrainRecipe, *, resume: bool, overwrite: bool) -> None:
    """Refuses what paths and folders tell, before torch is imported."""
    if resume:
        check_begun(recipe)
    if recipe.out is not None:
        check_output(Path(recipe.out), resume=resume, overwrite=overwrite)
    check_inputs_of_stages(recipe, Path(recipe.out or "the run"), resume=resume)


def check_inputs_of_stages(recipe: TrainRecipe, out: Path, *, resume: bool) -> None:
    """The same of what the stages of a recipe name, or its only one.

    Args:
        recipe: The recipe of any training verb.
        out: The folder of its stages.
        resume: Go on with a run that is there.
    """
    if not is_several(recipe):
        _check_inputs(recipe, made=(), resume=resume)
        return
    stages = stages_of(recipe, out)
    for number, stage in enumerate(stages):
        made = [str(earlier.out) for earlier in stages[:number]]
        _check_inputs(stage.recipe, made=made, resume=resume)


def _check_inputs(recipe: TrainRecipe, made: Sequence[str], *, resume: bool) -> None:
    """Checks teachers, data, model and starting weights, but for those that earlier stages make."""
    along = filter(is_peer, getattr(recipe, "teachers", None) or [])
    models = {"model": recipe.model, **{f"teacher {name}": peer_of(name).model for name in along}}
    for subject, model in models.items():
        if model is not None and not known_names.is_model(model):
            raise UsageError(
                f"{subject}: there is no network '{model}'. {nearest(model, known_names.models())}"
            )
    given = [*(getattr(recipe, "teachers", None) or []), recipe.init]
    given = [name for name in given if name is not None and name not in made]
    if isinstance(recipe, TeacherLabels):
        check_teachers(recipe.teachers)
        outside = [name for name in recipe.teachers or [] if name not in made]
        expanded = expand_teachers(outside, own=isinstance(recipe, StudentRecipe))
        given = [name for name in given if not moves(name)]
        if recipe.recorded is None:
            # Runs of earlier versions go on with the teachers they have, one of them twice too.
            check_distinct(expanded)
    elif recipe.data is None and recipe.init is None:
        raise UsageError("which images? Give --data", hint="Try --data digits, which is built in")
    if recipe.init is not None and recipe.init not in made:
        if not Path(recipe.init).exists():
            raise UsageError(f"--init {recipe.init} does not exist")
        refuse_file(Path(recipe.init), "--init")
        check_one_run(Path(recipe.init))
        check_not_gone(Path(recipe.init))
    check_finished(given, recipe.out if resume else None)
