"""Compositions that make no sense, refused with the reason."""

from __future__ import annotations

from pathlib import Path

from distill_cli.errors import UsageError
from distill_cli.objectives.abilities import Needing, Related, Selecting
from distill_cli.objectives.compose import Composition
from distill_cli.recipe.base import TeacherLabels, TrainRecipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.types import Need


def check_sense(recipe: TrainRecipe, composed: Composition) -> None:
    """Refuses objectives that cannot be trained together, or not by this verb.

    Raises:
        UsageError: With the reason.
    """
    _check_selecting(composed)
    _check_model(composed)
    _check_teaching(recipe, composed)
    if composed.coupled and recipe.accumulate > 1:
        raise UsageError(
            f"objective '{composed.coupled[0]}' compares the samples of a batch with each other: "
            "--accumulate would cut the batch up",
            hint="Leave --accumulate out, or use a smaller --batch-size",
        )


def _check_selecting(composed: Composition) -> None:
    """Refuses a choice between labels where there is one kind, or where samples are not apart."""
    for part in composed.parts:
        name = part.objective.about.name
        if not isinstance(part.objective, Selecting):
            continue
        others = [p.objective.about.name for p in composed.parts if p is not part]
        if not set(others) - {"ce"}:
            raise UsageError(
                f"objective '{name}' chooses which samples get a soft label, and none is named",
                hint=f"As --objective {name},label-smoothing",
            )
        if composed.coupled:
            raise UsageError(
                f"objective '{composed.coupled[0]}' compares the samples of a batch with each "
                f"other: '{name}' cannot choose some of them for it"
            )


def _check_model(composed: Composition) -> None:
    for part in composed.parts:
        model = part.objective.model if isinstance(part.objective, Related) else None
        if model is not None and not Path(model).exists():
            name = part.objective.about.name
            raise UsageError(f"objective '{name}', model: there is no folder {model}")


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
        part.objective.about.name
        for part in composed.parts
        if isinstance(part.objective, Needing) and Need.TEACHER in part.objective.about.needs
    ]
    return f"{names[0]} can be set otherwise: distill methods show {names[0]}" if names else ""
