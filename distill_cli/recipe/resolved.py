"""Training recipes in which nothing is left open: what a run trains, and what its folder keeps.

Each class is a verb's recipe with narrower types: a value that data, teachers, network or machine
decide is there, and no reader asks whether it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.schema import HintRecipe, StudentRecipe, TeacherRecipe
from distill_cli.types import Background, Decoding, OrderName, Orientation, Resize, Targets


class ResolvedRecipe(TrainRecipe):
    """A recipe of any training verb after `pipeline.run.prepare` has read all that it names."""

    out: str
    data: str
    augment: list[str]
    val_fraction: float
    split_seed: int
    view_seed: int
    resize: Resize
    orientation: Orientation
    background: Background
    decoding: Decoding
    model: str
    batch_size: int
    lr: float
    weight_decay: float
    compile: bool


class ResolvedLabelled(ResolvedRecipe, LabelledRecipe):
    """A recipe of a classifier that is trained to its end; `objective` lists every value."""

    objective: list[dict[str, Any]]
    targets: Targets
    order: OrderName


class ResolvedTeacher(ResolvedLabelled, TeacherRecipe):
    """`distill teacher train`, resolved."""


class ResolvedStudent(ResolvedLabelled, StudentRecipe):
    """`distill student`, resolved."""

    objective: list[dict[str, Any]]
    teachers: list[str]
    mode: Literal["single", "ensemble", "random", "relabel"]


class ResolvedHints(ResolvedRecipe, HintRecipe):
    """`distill hint-init`, resolved."""

    teachers: list[str]
    hint_layer: str
    guided_layer: str


RESOLVED: dict[type[TrainRecipe], type[ResolvedRecipe]] = {
    TeacherRecipe: ResolvedTeacher,
    StudentRecipe: ResolvedStudent,
    HintRecipe: ResolvedHints,
}


def resolved(asked: TrainRecipe, values: Mapping[str, Any]) -> ResolvedRecipe:
    """The recipe that was asked for, with the values that it left open.

    Args:
        asked: The recipe of a verb.
        values: The keys that were open, or that stand for others now.

    Raises:
        pydantic.ValidationError: A value is still missing, which is a fault of the caller.
    """
    given = {name: getattr(asked, name) for name in type(asked).model_fields}
    return RESOLVED[type(asked)].model_validate({**given, **values, "recorded": None})


def schema_of(recipe: ResolvedRecipe) -> type[TrainRecipe]:
    """The class of the recipe before it was resolved: what a recipe.yaml is read as."""
    return next(schema for schema, narrow in RESOLVED.items() if narrow is type(recipe))
