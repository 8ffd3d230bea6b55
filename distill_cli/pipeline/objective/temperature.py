"""The objectives whose temperature `--temperature` sets."""

from __future__ import annotations

from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import Objective, parameters_of, temperatures_of
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.earlier import temperature_by_name
from distill_cli.recipe.parsing import split_commas
from distill_cli.recipe.recorded import made_by
from distill_cli.recipe.schema import StudentRecipe

# The parameter of an objective's temperature, marked or its own.
TEMPERATURE = "temperature"


def has_temperature(cls: type[Objective]) -> bool:
    """Whether an objective has a temperature, which `--temperature` may not mean."""
    return TEMPERATURE in parameters_of(cls)


def tempered(cls: type[Objective], version: str | None) -> tuple[str, ...]:
    """The parameters of an objective that `--temperature` sets.

    Args:
        cls: Class of the objective.
        version: The distill whose flags a recipe means; None for today's.
    """
    if temperature_by_name(version):
        return (TEMPERATURE,) if has_temperature(cls) else ()
    return temperatures_of(cls)


def temperature_message(recipe: TrainRecipe) -> str:
    """The sentence on what `--temperature` sets, where several objectives have a temperature; else empty.

    Args:
        recipe: Recipe of any training verb, its objectives checked.
    """
    if not isinstance(recipe, StudentRecipe) or recipe.temperature is None:
        return ""
    names = split_commas(recipe.objective) if isinstance(recipe.objective, str) else []
    known = {name: OBJECTIVES[name] for name in names}
    version = made_by(recipe.recorded)
    having = [name for name, cls in known.items() if has_temperature(cls)]
    if len(having) < 2:
        return ""
    meant = [name for name in having if tempered(known[name], version)]
    others = "".join(
        f"; {name} keeps its own, {getattr(known[name](), TEMPERATURE):g}"
        for name in having
        if name not in meant
    )
    return f"--temperature {recipe.temperature:g} is that of {' and '.join(meant)}{others}"
