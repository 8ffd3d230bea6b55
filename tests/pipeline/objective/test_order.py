"""Who wants which order, and data that cannot be balanced."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch

from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.objectives.base import ObjectiveInfo
from distill_cli.objectives.category_structure import CategoryStructure
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.hooks import WantsOrder
from distill_cli.pipeline.objective.order import order_of
from distill_cli.pipeline.objective.rules import check_parts
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import HintRecipe, StudentRecipe, TeacherRecipe
from distill_cli.types import OrderName, ViewSpec

SPEC = ViewSpec(augment=("flip",), channels=1, height=8, width=8, seed=0)


@dataclass(frozen=True, kw_only=True)
class Shuffled(WantsOrder):
    """An objective that does not want balanced batches."""

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(name="shuffled", summary="-", paper="-")
    order: OrderName | None = "shuffled"

    def __call__(self, *_: Any) -> Any:
        raise AssertionError


def composed(*objectives: Any) -> Composition:
    return Composition(tuple(Weighted(objective=one, weight=Weight(start=1)) for one in objectives))


def dataset(labels: list[int], classes: int = 3) -> Dataset:
    """Its last row is held out."""
    label_N = torch.tensor(labels)
    said = SimpleNamespace(
        train=SimpleNamespace(label_N=label_N),
        fit_rows=torch.arange(len(labels) - 1),
        class_names=tuple("abc"[:classes]),
        multi_label=False,
    )
    return cast("Dataset", said)


FULL = dataset([0, 1, 2, 0, 1, 2, 0])


def order(recipe: TrainRecipe, wanted: Composition, data: Dataset = FULL) -> OrderName | None:
    batch_size = recipe.batch_size or len(data.fit_rows)
    return order_of(recipe, getattr(recipe, "mode", None), wanted, data, SPEC, batch_size)


def test_the_recipe_first_then_the_objectives_then_shuffled() -> None:
    free = CategoryStructure(form="teacher-free")
    moving = CategoryStructure(form="teacher-free", centres="moving")
    for kind in (TeacherRecipe, StudentRecipe):
        assert order(validate(kind, {}), composed()) == "shuffled"
        assert order(validate(kind, {}), composed(free)) == "balanced"
        assert order(validate(kind, {}), composed(moving)) == "shuffled"
        assert order(validate(kind, {"order": "balanced"}), composed(moving)) == "balanced"
        assert order(validate(kind, {"order": "shuffled"}), composed(free)) == "shuffled"
    assert order(validate(HintRecipe, {}), composed()) is None


def test_two_objectives_that_want_different_orders_are_refused() -> None:
    with pytest.raises(UsageError, match="'category-structure' and 'shuffled' cannot be combined"):
        check_parts(composed(CategoryStructure(), Shuffled()).parts)
    check_parts(composed(CategoryStructure(), Shuffled(order=None)).parts)
    check_parts(composed(CategoryStructure(centres="moving"), Shuffled()).parts)


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0, 1, 0, 1, 0, 1, 2], "class 'c' has no image"), ([0, 1, 2, -1, -1, 2, 0], "2 of 6")],
)
def test_data_that_cannot_be_balanced(labels: list[int], said: str) -> None:
    data = dataset(labels)
    with pytest.raises(ArtifactError, match=said):
        order(validate(TeacherRecipe, {"order": "balanced"}), composed(), data)
    assert order(validate(TeacherRecipe, {}), composed(), data) == "shuffled"
