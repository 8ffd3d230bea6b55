"""The runs that a self-training is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_cli.errors import UsageError
from distill_cli.recipe.load import load
from distill_cli.recipe.schema import SelfTrainRecipe, StudentRecipe, TeacherRecipe
from distill_cli.recipe.stage import Stage
from distill_cli.recipe.stages import is_several, stages_of

OUT = Path("runs/x")


def rounds(**flags: Any) -> list[Stage]:
    recipe = load(SelfTrainRecipe, flags={"data": "digits", **flags}, environment={})
    assert is_several(recipe)
    return stages_of(recipe, OUT)


def test_hard_labels_travel_in_lists() -> None:
    """The first round learns the labels that are known, from images that it is shown labelled."""
    made = rounds(unlabelled="u", seed=3, lr=0.3, require=["test_top1>=0.9"], relabel="mine.csv")
    assert [stage.name for stage in made] == ["round-1", "round-2", "round-3"]
    assert [stage.out for stage in made] == [OUT / "stages/round-1", OUT / "stages/round-2", OUT]
    assert {type(stage.recipe) for stage in made} == {TeacherRecipe}
    lists = [OUT / f"stages/round-{number}-chosen.csv" for number in (2, 3)]
    assert [stage.list_path for stage in made] == [None, *lists]
    assert [stage.recipe.relabel for stage in made] == ["mine.csv", *map(str, lists)]
    assert [stage.recipe.unlabelled for stage in made] == ["u", "u", "u"], "some may be in the list"
    assert rounds(unlabelled="u")[0].recipe.unlabelled is None
    assert [stage.recipe.seed for stage in made] == [3, 4, 5]
    assert [len(stage.recipe.require) for stage in made] == [0, 0, 1]
    assert {stage.recipe.lr for stage in made} == {0.3}
    assert not any(is_several(stage.recipe) for stage in made)


def test_soft_labels_are_the_round_before_itself() -> None:
    """It sees the images as they are; and what was not chosen is not learnt from."""
    made = rounds(soft=True, rounds=2, transductive=True, augment="strong", relabel="mine.csv")
    first, student = (stage.recipe for stage in made)
    assert isinstance(student, StudentRecipe)
    assert student.teachers == [str(OUT / "stages/round-1")]
    assert (student.teacher_augment, student.augment) == (["none"], ["strong"])
    assert student.objective == "ce,pseudo-label"
    assert student.objective_values is not None
    assert student.objective_values["pseudo-label"] == {
        **{"threshold": 0.0, "hard": False},
        "temperature": 1.0,
    }
    assert (first.relabel, student.relabel) == ("mine.csv", "mine.csv")
    assert made[1].list_path == OUT / "stages/round-2-chosen.csv"
    assert (first.unlabelled_list, student.unlabelled_list) == (None, str(made[1].list_path))
    assert (first.transductive, student.transductive) == (False, True)


def test_a_list_of_objectives_has_the_soft_one_behind() -> None:
    made = rounds(soft=True, rounds=2, objective=[{"name": "label-smoothing", "epsilon": 0.1}])
    listed = made[1].recipe.model_dump()["objective"]
    assert [entry["name"] for entry in listed] == ["label-smoothing", "pseudo-label"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"rounds": 1}, "greater than or equal to 2"),
        ({"threshold": 1.5}, "less than or equal to 1"),
        ({"objective": "tfkd-self"}, "trains a copy first"),
        ({"soft": True, "objective": "ce,pseudo-label"}, "adds pseudo-label"),
        ({"unlabelled_share": 0.5}, "goes with --soft"),
        ({"targets": "sigmoid"}, "one class"),
        ({"coarse_labels": "groups.yaml"}, "one class"),
    ],
)
def test_contradictions_are_refused(flags: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        rounds(**flags)
