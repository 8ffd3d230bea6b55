"""Objectives with every value, as a recipe lists them: those a run keeps, and those earlier runs meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from distill_cli.errors import DistillError
from distill_cli.objectives.base import AUTO, Pair, with_pairs
from distill_cli.objectives.compose import Composition, Weighted
from distill_cli.objectives.hooks import PairsLayers
from distill_cli.pipeline.inputs.framing import framed_as
from distill_cli.pipeline.objective.build import composition
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.earlier import other_formula
from distill_cli.recipe.load import validate
from distill_cli.recipe.recorded import (
    NAMED_ONLY,
    asked_of,
    computed_by,
    is_spelled,
    made_by,
    mapping,
)
from distill_cli.recipe.schema import HintRecipe, StudentRecipe, TeacherRecipe
from distill_cli.report.run_folder import RunSummary

R = TypeVar("R", bound=TrainRecipe)


def entry_of(part: Weighted) -> dict[str, Any]:
    """An objective as an entry of a recipe's list: name, weight over training, every parameter."""
    objective, weight = part.objective, part.weight
    end = {} if weight.schedule == "constant" else {"weight_end": weight.end}
    return {
        "name": objective.info.name,
        "weight": weight.start,
        **end,
        "schedule": weight.schedule,
        **TypeAdapter(type(objective)).dump_python(objective, mode="json"),
    }


def spelled(recipe: R, composed: Composition) -> R:
    """The recipe with its objectives as a list of every value, in place of names and flags.

    It means the same wherever it is read. A hint-init has one objective, and its layers are keys.

    Args:
        recipe: Recipe of any training verb.
        composed: Its objectives, their layers found.
    """
    if isinstance(recipe, HintRecipe):
        pairs = layers_of(composed.parts[0])
        keys = ("guided_layer", "hint_layer")
        return recipe.model_copy(update=dict(zip(keys, pairs[0], strict=True)) if pairs else {})
    named = {key: None for key in NAMED_ONLY if key in type(recipe).model_fields}
    entries = [entry_of(part) for part in composed.parts]
    return recipe.model_copy(update={"objective": entries, **named})


def layers_of(part: Weighted) -> tuple[Pair, ...]:
    """The pairs of layers that an objective looks at; none where it looks at none."""
    return part.objective.pairs if isinstance(part.objective, PairsLayers) else ()


def meant(recipe: R) -> R:
    """A run's recipe, spelt out as it was meant when the run was made.

    Args:
        recipe: Recipe as recipe.yaml has it; `recorded` has the layers that were found.

    Raises:
        UsageError: This version knows no such objectives.
    """
    recipe = framed_as(recipe)
    sigmoid = isinstance(recipe, LabelledRecipe) and recipe.targets == "sigmoid"
    composed = composition(recipe, "sigmoid" if sigmoid else "softmax")
    recorded = mapping(recipe.recorded).get("layers")
    recorded_layers = [mapping(entry) for entry in recorded] if isinstance(recorded, list) else []
    return spelled(
        recipe, Composition(tuple(_with_layers(part, recorded_layers) for part in composed.parts))
    )


def _with_layers(part: Weighted, recorded_layers: Sequence[Mapping[str, Any]]) -> Weighted:
    """With the layers that were found for it, where it does not name them itself."""
    name = part.objective.info.name
    pairs = tuple(
        (str(entry.get("student")), str(entry.get("teacher")))
        for entry in recorded_layers
        if entry.get("objective") == name
    )
    named = layers_of(part)
    if not pairs or (named and not any(AUTO in pair for pair in named)):
        return part
    return replace(part, objective=with_pairs(part.objective, pairs))


def with_values(run: RunSummary) -> RunSummary:
    """A run whose recipe says of its objectives what it would say if it were made today.

    A recipe that this version cannot read stays as it is.
    """
    kept = run.recipe
    if is_spelled(kept.get("recorded")):
        return run
    # Runs started from Python may leave `command` open, teachers they have.
    schema = StudentRecipe if kept.get("teachers") else TeacherRecipe
    try:
        recipe = validate(schema, {**kept, "command": schema.COMMAND})
        now = meant(recipe).model_dump(mode="json")
    except DistillError:
        return run
    values_now = {key: now[key] for key in ("objective", *NAMED_ONLY) if key in now}
    values_now["objective"] = [_computed(entry, kept.get("recorded")) for entry in now["objective"]]
    before = {"asked": asked_of(recipe), "defaults": made_by(recipe.recorded)}
    # A key that its version did not have was what it is by default.
    values = {**now, **kept, **values_now, "recorded": {**run.recorded, **before}}
    return replace(run, recipe=values)


def _computed(entry: dict[str, Any], recorded: Any) -> dict[str, Any]:
    """An entry that says by whose formula it was computed, where that is another one today."""
    version = computed_by(recorded)
    return {**entry, "formula": version} if other_formula(version, [entry]) else entry
