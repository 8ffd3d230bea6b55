"""Objectives of a recipe, parsed, weighted and scheduled; `rules.py` refuses what makes no sense."""

from __future__ import annotations

from math import isclose, isfinite
from typing import Any

from pydantic import TypeAdapter, ValidationError

from distill_cli.errors import UsageError, nearest
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import DefaultWeights, Objective, Owns, parameters_of
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.hooks import SelectsSamples
from distill_cli.objectives.label_smoothing import LabelSmoothing
from distill_cli.pipeline.objective.rules import (
    check_flags,
    check_kinds,
    check_parts,
    check_sense,
    check_smoothed,
)
from distill_cli.pipeline.objective.temperature import tempered
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.earlier import HARD_WEIGHT, OWN_WEIGHT, defaults_then, parameters_then
from distill_cli.recipe.messages import fault, in_words
from distill_cli.recipe.parsing import split_commas
from distill_cli.recipe.recorded import NAMED_ONLY, made_by
from distill_cli.recipe.schema import HintRecipe, StudentRecipe
from distill_cli.types import Targets

# The objectives on sigmoid targets that stand for those on softmax targets.
ON_SIGMOID = {"ce": "bce", "label-smoothing": "bce", "kd": "sigmoid-kd"}
# Hard labels that --label-smoothing replaces.
PLAIN = ("ce", "label-smoothing", "bce")
# Deep mutual learning (Zhang et al. 2018, arXiv 1706.00384, equation 4): both terms as they are, at T = 1.
MUTUAL = ({"name": "ce"}, {"name": "kd", "temperature": 1.0, "weight": 1.0})
# Keys of an entry beside the parameters of the objective.
WEIGHT_KEYS = ("weight", "weight_end", "schedule")


def composition(recipe: TrainRecipe, targets: Targets = "softmax") -> Composition:
    """The objectives that the recipe asks for.

    Where none of the named ones owns the hard label, cross-entropy (or label smoothing) joins them.
    A published pair of weights is the default where there is one. The recipe of a run has the
    defaults of the version that made it.

    Args:
        recipe: Recipe of any training verb.
        targets: Whether one class applies to an image, or each by itself.

    Raises:
        UsageError: An unknown objective or parameter, or a combination that makes no sense.
    """
    version = made_by(recipe.recorded)
    entries = _entries(recipe, version)
    if targets == "sigmoid":
        entries = [_on_sigmoid(entry, version) for entry in entries]
    entries = [{**parameters_then(version, entry), **entry} for entry in entries]
    parts = tuple(_part(entry) for entry in entries)
    check_kinds(parts, targets, recipe.epochs)
    check_parts(parts)
    composed = Composition(parts)
    check_sense(recipe, composed)
    return composed


def check_objectives(recipe: TrainRecipe) -> Composition:
    """Refuses, before the data are opened, objectives that make no sense whatever the data are.

    Returns:
        The objectives, on softmax targets where nothing is said and both make sense.

    Raises:
        UsageError: As `composition` raises it.
    """
    if isinstance(recipe, LabelledRecipe) and recipe.targets is not None:
        return composition(recipe, recipe.targets)
    try:
        return composition(recipe)
    except UsageError as error:
        try:
            return composition(recipe, "sigmoid")
        except UsageError:
            raise error from None


def targets_of(recipe: TrainRecipe, *, several: bool) -> Targets:
    """The recipe's kind of targets; by default what the data are.

    Args:
        recipe: Recipe of any training verb.
        several: Whether several labels may apply to an image.

    Raises:
        UsageError: Softmax, where several labels may apply.
    """
    asked = recipe.targets if isinstance(recipe, LabelledRecipe) else None
    if several and asked == "softmax":
        raise UsageError(
            "--targets softmax: several labels may apply to an image of these data",
            hint="Leave it out: each label then applies or not by itself",
        )
    return "sigmoid" if several else asked or "softmax"


def _on_sigmoid(entry: dict[str, Any], version: str | None) -> dict[str, Any]:
    """An entry with the objective that stands for its own on sigmoid targets."""
    if entry["name"] == "label-smoothing":
        then = parameters_then(version, entry)
        entry = {"epsilon": LabelSmoothing().epsilon, **then, **entry}
    return {**entry, "name": ON_SIGMOID.get(entry["name"], entry["name"])}


def _entries(recipe: TrainRecipe, version: str | None) -> list[dict[str, Any]]:
    if isinstance(recipe, HintRecipe):
        # Stage 1 as in the paper: no batch norm in the regressor, nothing beside it to be overrun.
        return [{"name": "hint", "normalised": False, "gradient_scale": 1.0, **_hint_pairs(recipe)}]
    assert isinstance(recipe, LabelledRecipe), "every other verb has an objective"
    if isinstance(recipe, StudentRecipe) and recipe.mutual and _plain(recipe):
        return _with_values(recipe, [dict(entry) for entry in MUTUAL])
    if isinstance(recipe.objective, str):
        return _with_values(recipe, _named(recipe, split_commas(recipe.objective), version))
    entries = [dict(entry) for entry in recipe.objective]
    if not entries:
        raise UsageError("objective: the list is empty")
    for key in NAMED_ONLY:
        if key != "objective_values" and getattr(recipe, key, None) is not None:
            raise UsageError(f"{key}: with a list of objectives, say it in its entries")
    for entry in entries:
        _class(entry.get("name"))
    return _with_values(recipe, entries)


def _plain(recipe: StudentRecipe) -> bool:
    """Whether it says nothing of how it learns from its teachers."""
    flags = (recipe.temperature, recipe.alpha, recipe.alpha_end, recipe.schedule)
    return recipe.objective == "kd" and flags == (None,) * 4 and recipe.label_smoothing is None


def _with_values(recipe: LabelledRecipe, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries with what `--set objective.NAME.KEY=VALUE` says of them."""
    said = recipe.objective_values or {}
    names = [str(entry["name"]) for entry in entries]
    for name in said:
        if name not in names:
            raise UsageError(f"objective.{name}: none of these objectives. {nearest(name, names)}")
    return [{**entry, **said.get(str(entry["name"]), {})} for entry in entries]


def _hint_pairs(recipe: HintRecipe | StudentRecipe) -> dict[str, Any]:
    """The layers of `--guided-layer` and `--hint-layer`, if one is named."""
    if recipe.hint_layer is None and recipe.guided_layer is None:
        return {}
    return {"pairs": [[recipe.guided_layer or "auto", recipe.hint_layer or "auto"]]}


def _named(recipe: LabelledRecipe, names: list[str], version: str | None) -> list[dict[str, Any]]:
    if not names:
        raise UsageError("objective: none is named")
    classes = {name: _class(name) for name in names}
    usual = {name: _usual(cls, version) for name, cls in classes.items()}
    # Selectors go last, so that --alpha applies to the soft label.
    names = sorted(names, key=lambda name: issubclass(classes[name], SelectsSamples))
    hard: dict[str, Any] = {"name": "ce"}
    if recipe.label_smoothing is not None:
        hard = {"name": "label-smoothing", "epsilon": recipe.label_smoothing}
    owner = next((n for n, cls in classes.items() if Owns.HARD_TARGET in cls.info.owns), None)
    smoothing: dict[str, Any] = {}
    if owner is not None and recipe.label_smoothing is not None:
        if owner in PLAIN:
            hard["name"] = "bce" if owner == "bce" else hard["name"]
            names = [name for name in names if name != owner]
            owner = None
        else:
            check_smoothed(owner, list(parameters_of(classes[owner])))
            smoothing = {"epsilon": recipe.label_smoothing}
    soft = [
        {"name": name, "weight": usual[name].objective, **(smoothing if name == owner else {})}
        for name in names
    ]
    if not soft:
        return [hard]
    if owner is None:
        soft = [{**hard, "weight": usual[names[0]].ce}, *soft]
    if isinstance(recipe, StudentRecipe):
        check_flags(recipe, soft, version, alone=owner is None)
        soft = _weighed(recipe, soft, usual[names[0]], version)
    return soft


def _weighed(
    recipe: StudentRecipe,
    entries: list[dict[str, Any]],
    usual: DefaultWeights,
    version: str | None,
) -> list[dict[str, Any]]:
    """The flags of weight and temperature applied to the first objective that is named.

    Args:
        recipe: Recipe with the flags, which `check_flags` let pass.
        entries: Entries of the named objectives; cross-entropy first, where one weighs against it.
        usual: Weights of the first objective.
        version: The distill whose flags the recipe means; None for today's.
    """
    if recipe.temperature is not None:
        for entry in entries:
            for key in tempered(_class(entry["name"]), version):
                entry[key] = recipe.temperature
    pairs = _hint_pairs(recipe)
    entries = [{**e, **pairs} if e["name"] == "hint" else e for e in entries]
    asked = [recipe.alpha, recipe.alpha_end, recipe.schedule]
    if asked == [None, None, None]:
        return entries
    start = usual.objective if recipe.alpha is None else recipe.alpha
    end = recipe.alpha_end or 0.0
    fading = {"schedule": recipe.schedule or ("constant" if recipe.alpha_end is None else "linear")}
    # Published weights do not always sum to 1: then cross-entropy keeps its own.
    summing = recipe.alpha is not None or isclose(usual.ce + usual.objective, 1)
    hard = (1 - start, 1 - end) if summing else (usual.ce, usual.ce)
    first, second, *rest = entries
    return [
        {**first, **fading, "weight": hard[0], "weight_end": hard[1]},
        {**second, **fading, "weight": start, "weight_end": end},
        *rest,
    ]


def _usual(cls: type[Objective], version: str | None) -> DefaultWeights:
    """Its weights where it is named, as a version had them."""
    usual, then = cls.info.default_weights, defaults_then(version, cls.info.name)
    return DefaultWeights(
        ce=then.get(HARD_WEIGHT, usual.ce),
        objective=then.get(OWN_WEIGHT, usual.objective),
    )


def _class(name: Any) -> type[Objective]:
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise UsageError(f"objective: unknown '{name}'. {nearest(str(name), OBJECTIVES)}")
    return OBJECTIVES[name]


def _part(entry: dict[str, Any]) -> Weighted:
    values = dict(entry)
    cls = _class(values.pop("name"))
    # An end is there to be reached, as --alpha-end is.
    default = "linear" if "weight_end" in values else "constant"
    weight = {
        "start": values.pop("weight", 1.0),
        "schedule": values.pop("schedule", default),
        "end": values.pop("weight_end", 0.0),
    }
    name, known = cls.info.name, parameters_of(cls)
    for key in values:
        if key not in known:
            raise UsageError(
                f"objective '{name}' has no '{key}'. {nearest(key, [*known, *WEIGHT_KEYS])}"
            )
    try:
        part = Weighted(
            objective=TypeAdapter(cls).validate_python(values),
            weight=TypeAdapter(Weight).validate_python(weight),
        )
    except ValidationError as error:
        first = error.errors()[0]
        spelled = {"start": "weight", "end": "weight_end"}
        key = ".".join(spelled.get(str(part), str(part)) for part in first["loc"])
        subject = f"objective '{name}'" + (f", {key}" if key else "")
        raise UsageError(f"{subject}: {fault([first]) if key else in_words(first)}") from None
    # As validated: a text may stand for a number, and pydantic has no such switch for dataclasses.
    for key in values:
        value = getattr(part.objective, key)
        if isinstance(value, float) and not isfinite(value):
            raise UsageError(f"objective '{name}', {key}: a number is finite (got {value})")
    return part
