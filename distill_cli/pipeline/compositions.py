"""From a recipe to its objectives, weighted and scheduled."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from distill_cli.errors import UsageError, nearest
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import Objective, Owns
from distill_cli.objectives.compose import Composition, Part, Weight
from distill_cli.recipe.schema import StudentRecipe, TrainRecipe
from distill_cli.types import Need

# Flags that speak of the one named objective; a list of objectives says them in its entries.
SINGLE_ONLY = ("label_smoothing", "temperature", "alpha", "alpha_end", "schedule")
ALPHA = 0.9


def composition(recipe: TrainRecipe) -> Composition:
    """The objectives that the recipe asks for.

    One name is that objective; one that learns from teachers and leaves the hard label free is
    joined by cross-entropy (or label smoothing) of weight 1 − alpha.

    Raises:
        UsageError: An unknown objective or parameter, or a combination that makes no sense.
    """
    if isinstance(recipe.objective, str):
        entries = _named(recipe, recipe.objective)
    else:
        entries = [dict(entry) for entry in recipe.objective]
        if not entries:
            raise UsageError("objective: the list is empty")
        for key in SINGLE_ONLY:
            if getattr(recipe, key, None) is not None:
                raise UsageError(f"{key}: with a list of objectives, say it in its entries")
    composed = Composition(tuple(_part(entry) for entry in entries))
    if isinstance(recipe, StudentRecipe):
        if Need.TEACHER not in composed.needs:
            raise UsageError(
                "objective: none of these learns from a teacher",
                hint="Use `distill teacher train` for a network without one",
            )
    elif Need.TEACHER in composed.needs:
        raise UsageError(
            "objective: this one needs teachers", hint="Use `distill student --teachers …`"
        )
    return composed


def _named(recipe: TrainRecipe, name: str) -> list[dict[str, Any]]:
    hard: dict[str, Any] = {"name": "ce"}
    if recipe.label_smoothing is not None:
        hard = {"name": "label-smoothing", "epsilon": recipe.label_smoothing}
    if Owns.HARD_TARGET in _objective(name).owns:
        if recipe.label_smoothing is None:
            return [{"name": name}]
        if name not in ("ce", "label-smoothing"):
            raise UsageError(f"label_smoothing cannot be combined with objective '{name}'")
        return [hard]
    if not isinstance(recipe, StudentRecipe):
        return [hard, {"name": name}]
    soft: dict[str, Any] = {"name": name}
    if recipe.temperature is not None:
        soft["temperature"] = recipe.temperature
    if recipe.schedule == "constant" and recipe.alpha_end is not None:
        raise UsageError("--alpha-end contradicts --schedule constant", hint="Leave one out")
    start = ALPHA if recipe.alpha is None else recipe.alpha
    end = recipe.alpha_end or 0.0
    fading = {"schedule": recipe.schedule or ("constant" if recipe.alpha_end is None else "linear")}
    return [
        {**hard, **fading, "weight": 1 - start, "weight_end": 1 - end},
        {**soft, **fading, "weight": start, "weight_end": end},
    ]


def _objective(name: Any) -> type[Objective]:
    if name not in OBJECTIVES:
        raise UsageError(f"objective: unknown '{name}'. {nearest(str(name), OBJECTIVES)}")
    return OBJECTIVES[name]


def _part(entry: dict[str, Any]) -> Part:
    values = dict(entry)
    cls = _objective(values.pop("name", None))
    weight = {
        "start": values.pop("weight", 1.0),
        "end": values.pop("weight_end", 0.0),
        "schedule": values.pop("schedule", "constant"),
    }
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            valid = [*known, "weight", "weight_end", "schedule"]
            raise UsageError(f"objective '{cls.name}' has no '{key}'. {nearest(key, valid)}")
    try:
        return Part(
            objective=TypeAdapter(cls).validate_python(values),
            weight=TypeAdapter(Weight).validate_python(weight),
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"objective '{cls.name}', {key}: {first['msg']} (got {first['input']!r})"
        ) from None
