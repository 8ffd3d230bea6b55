"""Which run `--resume` goes on with."""

from __future__ import annotations

from pathlib import Path

from distill_cli.errors import UsageError
from distill_cli.pipeline.folders import holds_run
from distill_cli.recipe.base import TeacherLabels, TrainRecipe
from distill_cli.recipe.seeds import SEEDS
from distill_cli.recipe.stages import RECIPE, is_several


def kept_file(out: Path) -> Path | None:
    """The recipe of the run to resume, so that `--resume --out RUN` is enough; None where there is none."""
    # Runs of several seeds or stages have the recipe of all; recipe.yaml is that of the last stage.
    paths = [out / name for name in (SEEDS, RECIPE, "recipe.yaml")]
    return next((path for path in paths if path.is_file()), None)


def check_begun(recipe: TrainRecipe) -> None:
    """Refuses `--resume` where no run is, unless the options are enough to begin one.

    Raises:
        UsageError: With what to give.
    """
    given = recipe.teachers if isinstance(recipe, TeacherLabels) else recipe.data or recipe.init
    if given or is_several(recipe):
        return
    if recipe.out is None:
        raise UsageError("which run is to go on?", hint="Give --out RUN")
    out = Path(recipe.out)
    if kept_file(out) is not None:
        return
    needed = "--teachers" if isinstance(recipe, TeacherLabels) else "--data"
    hint = f"Give the --out folder of a run, or {needed} and all else to begin one there"
    if holds_run(out):
        hint = f"{out / 'recipe.yaml'} is missing: give the options of its run again, as {needed}"
    raise UsageError(f"there is no run in {out} to go on with", hint=hint)
