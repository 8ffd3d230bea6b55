"""Folders that a recipe learns from: teachers, weights to start from, runs that relate classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distill_cli.errors import UsageError
from distill_cli.files import real_path
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.hooks import UsesClassCentroids
from distill_cli.pipeline.folders import check_finished
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe


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
    recipe: TrainRecipe,
    out: Path,
    *,
    coming: Callable[[str], bool] = lambda name: False,
    resume: bool = False,
) -> None:
    """Refuses to learn from what is written over, not finished, or, to relate classes by, not there.

    Args:
        recipe: Of any training verb.
        out: The run folder.
        coming: Whether a folder is a run that an earlier stage would make.
        resume: Whether the run is gone on with, if it is begun.

    Raises:
        UsageError: With the folder, or the file in it.
    """
    for name in related(recipe):
        if not coming(name) and not Path(name).exists():
            raise UsageError(f"objective, model: there is no folder {name}")
    for name in learnt_from(recipe):
        if real_path(name) in (real_path(out), real_path(out / "model")):
            raise UsageError(
                f"--out {out} holds {name}, which is learnt from", hint="Choose another --out"
            )
    _check_noise_stays(recipe, out)
    known = (name for name in learnt_from(recipe) if not coming(name))
    check_finished(known, str(out) if resume else None)


def _check_noise_stays(recipe: TrainRecipe, out: Path) -> None:
    path = recipe.noise_matrix if isinstance(recipe, LabelledRecipe) else None
    if path is not None and real_path(Path(path).parent) == real_path(out):
        raise UsageError(
            f"--out {out} holds {path}, which is learnt from", hint="Choose another --out"
        )
