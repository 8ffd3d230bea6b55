"""Runs that were begun before, perhaps by an earlier version, and are gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from distill_cli.errors import ArtifactError, DistillError, counted
from distill_cli.models import InputSpec
from distill_cli.models.artifact import input_spec
from distill_cli.pipeline.folders import has_model
from distill_cli.pipeline.inputs.file_options import OF_CLASSES, files_named
from distill_cli.pipeline.objective.entries import meant
from distill_cli.pipeline.run.prepared import NOT_TRAINING, PreparedRun, training_values
from distill_cli.pipeline.run.rank_share import has_batch_norm
from distill_cli.pipeline.run.recipe_diff import changes, way_on
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.earlier import batch_size_then, other_formula
from distill_cli.recipe.load import read_yaml, validate
from distill_cli.recipe.own_folder import at_home
from distill_cli.recipe.recorded import computed_by, made_by, mapping
from distill_cli.recipe.resolved import schema_of
from distill_cli.training import checkpoint
from distill_cli.training.events import Sink

R = TypeVar("R", bound=TrainRecipe)


def begun_by(files: Sequence[Path]) -> str | None:
    """The version that the first of these recipes which is there was made by."""
    return made_by(_recorded(files))


def _recorded(files: Sequence[Path]) -> Any:
    return next((read_yaml(file, ArtifactError) for file in files if file.is_file()), {}).get(
        "recorded"
    )


def as_made(recipe: R, version: str | None) -> R:
    """The recipe, its defaults those of a version; as it is where that is not known."""
    if version is None:
        return recipe
    recorded = {**(recipe.recorded or {}), "defaults": version}
    batch_size = recipe.batch_size or batch_size_then(version)
    return recipe.model_copy(update={"recorded": recorded, "batch_size": batch_size})


def check_begun(prepared: PreparedRun) -> str:
    """Refuses to go on with a run that was made from something else, or otherwise, than is planned.

    A checkpoint is of this run under its key, or under the key of a recipe.yaml that means the
    same: an earlier version wrote down less of it.

    Returns:
        That key.

    Raises:
        ArtifactError: Options, data or teachers are others, the checkpoint is damaged, or the
            version that began it computed an objective by another formula.
    """
    version = computed_by(_recorded([prepared.run / "recipe.yaml"]))
    listed = prepared.recipe.objective if isinstance(prepared.recipe, LabelledRecipe) else ()
    changed = None if isinstance(listed, str) else other_formula(version, listed)
    if changed is not None:
        raise ArtifactError(
            f"{prepared.run} was begun by version {version}, which computed another formula for {changed}",
            hint=f"Begin anew with another --out, or go on with version {version}",
        )
    try:
        return checkpoint.check_key(prepared.run, prepared.key, *_earlier(prepared))
    except checkpoint.OtherRecipeError as error:
        raise _differing(prepared) or error from None


def check_anew(prepared: PreparedRun) -> None:
    """Refuses to begin another run where one has saved a model, and no checkpoint.

    Raises:
        ArtifactError: Its recipe.yaml says that it was made from something else, or otherwise.
    """
    if (error := _differing(prepared)) is not None:
        raise error


def _differing(prepared: PreparedRun) -> ArtifactError | None:
    """The error that names all that differs; None where recipe.yaml does not tell."""
    then, recorded = _begun(prepared), mapping(_recorded([prepared.run / "recipe.yaml"]))
    if then is None:
        return None
    before, now = _shown(then, prepared.run), _shown(prepared.recipe, prepared.run)
    found = changes(before, now)
    for key in ("dataset", "labels", "teacher_data", "view_spec", "teachers"):
        # The recipe says of the views what a person asked for.
        if (key in recorded or key == "teacher_data") and not (found and key == "view_spec"):
            found += changes({key: recorded.get(key)}, {key: prepared.recorded.get(key)})
    if not found:
        return None
    return ArtifactError(
        f"{prepared.run} was started from another recipe or other data: {', '.join(found)}",
        hint=way_on(prepared.run, before, now, getattr(then, "teachers", None)),
    )


def take_over(prepared: PreparedRun, sink: Sink) -> InputSpec | None:
    """The same, and has the checkpoint know the run by its own key from now on.

    A last checkpoint that is damaged gives way to the one before it, which `sink` says, as that one
    has no checksum. Before recipe.yaml is written anew: killed in between, either is known. Images
    are normalised as they were: of large ones the mean is over some, and which ones is a version's
    affair.

    Returns:
        How they were; None where no model is kept.
    """
    key = check_begun(prepared)
    if line := _on_other_ranks(prepared):
        sink.message(line)
    for line in checkpoint.repair(prepared.run):
        sink.message(line)
    if key != prepared.key:
        checkpoint.rename(prepared.run, prepared.key)
    return input_spec(prepared.run) if has_model(prepared.run) else None


def _on_other_ranks(prepared: PreparedRun) -> str | None:
    """A line where another number of ranks goes on; None where it is the same."""
    recorded = mapping(_recorded([prepared.run / "recipe.yaml"]))
    then, now = recorded.get("ranks", 1), prepared.runtime.ranks.count
    if then == now or not isinstance(then, int):
        return None
    line = f"begun on {counted(then, 'rank')}, it goes on on {now}"
    parts, size = prepared.recipe.accumulate, prepared.recipe.batch_size
    if prepared.recipe.sync_bn or not has_batch_norm(prepared.network):
        return f"{line}: equal to rounding"
    return (
        f"{line}: batch norm is over {size // (now * parts):,} images at a time from here on, no longer "
        f"over {size // (then * parts):,}"
    )


def _begun(prepared: PreparedRun) -> TrainRecipe | None:
    """The recipe that the run was begun with, as it was meant; None where it cannot be read."""
    file = prepared.run / "recipe.yaml"
    try:
        return meant(
            validate(
                schema_of(prepared.recipe), read_yaml(file, ArtifactError) if file.is_file() else {}
            )
        )
    except DistillError:
        return None


def _earlier(prepared: PreparedRun) -> list[str]:
    then = _begun(prepared)
    run = prepared.run
    if then is None or _training(then, run) != _training(prepared.recipe, run):
        return []
    file = run / "recipe.yaml"
    kept = read_yaml(file, ArtifactError) if file.is_file() else {}
    # As it is written down; and as keys are made since, without the paths of files.
    plain = {key: kept[key] for key in kept if key not in NOT_TRAINING}
    return [prepared.key_of(plain), prepared.key_of(training_values(kept))]


def _training(recipe: TrainRecipe, run: Path) -> dict[str, Any]:
    return training_values(at_home(recipe.model_dump(mode="json"), run))


def _shown(recipe: TrainRecipe, run: Path) -> dict[str, Any]:
    """The same for messages: with the paths of files of which nothing else is recorded."""
    paths = files_named(recipe.model_dump())
    return _training(recipe, run) | {key: paths[key] for key in OF_CLASSES if key in paths}
