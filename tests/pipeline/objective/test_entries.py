"""Objectives with every value: the list that a run keeps means what was asked for."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from distill_cli.errors import UsageError
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.hint import Hint
from distill_cli.objectives.hooks import SelectsSamples
from distill_cli.pipeline.objective.build import composition
from distill_cli.pipeline.objective.entries import meant, spelled
from distill_cli.recipe.base import LabelledRecipe
from distill_cli.recipe.load import load, validate
from distill_cli.recipe.recorded import NAMED_ONLY
from distill_cli.recipe.schema import HintRecipe, StudentRecipe, TeacherRecipe
from distill_cli.types import Targets


def kept(recipe: LabelledRecipe, targets: Targets = "softmax") -> Any:
    """What recipe.yaml has of a recipe, and what that means when it is read again."""
    composed = composition(recipe, targets)
    once = spelled(recipe, composed)
    for key in NAMED_ONLY:
        assert getattr(once, key, None) is None
    again = validate(type(recipe), json.loads(json.dumps(once.model_dump(mode="json"))))
    read = composition(again, targets)
    for then, now in zip(composed.parts, read.parts, strict=True):
        assert now.objective == then.objective
        for fraction in (0.0, 0.4, 0.5, 1.0):
            assert now.weight.at(fraction) == then.weight.at(fraction)
    assert json.dumps(spelled(again, read).objective) == json.dumps(once.objective)
    return once.objective


def named(name: str) -> LabelledRecipe:
    cls = OBJECTIVES[name]
    beside = f"{name},label-smoothing" if issubclass(cls, SelectsSamples) else name
    groups = {"groups": "words"} if name == "grouped-smoothing" else {}
    groups |= {"noise_matrix": "noise.csv"} if name == "forward" else {}
    for kind in (TeacherRecipe, StudentRecipe):
        recipe = validate(kind, {"objective": beside, **groups})
        targets: Targets = "softmax" if "softmax" in cls.info.targets else "sigmoid"
        try:
            composition(recipe, targets)
        except UsageError:
            continue
        return recipe
    raise AssertionError(f"no verb trains {name} at its defaults")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_stands_with_its_weight_and_every_parameter(name: str) -> None:
    cls = OBJECTIVES[name]
    targets: Targets = "softmax" if "softmax" in cls.info.targets else "sigmoid"
    entries = {entry["name"]: entry for entry in kept(named(name), targets)}
    own = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    assert entries[name].keys() == {"name", "weight", "schedule", *own}
    assert entries[name]["weight"] == cls.info.default_weights.objective


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (
            {"temperature": 3, "alpha": 0.7},
            {"ce.weight": 0.3, "kd.weight": 0.7, "kd.temperature": 3.0},
        ),
        (
            {"alpha_end": 0.1, "schedule": "cosine"},
            {"ce.weight_end": 0.9, "kd.weight": 0.9, "kd.weight_end": 0.1, "kd.schedule": "cosine"},
        ),
        ({"alpha_end": 0.1}, {"ce.schedule": "linear", "kd.schedule": "linear"}),
        ({"schedule": "step"}, {"kd.weight_end": 0.0, "ce.weight_end": 1.0}),
        ({"label_smoothing": 0.2}, {"label-smoothing.epsilon": 0.2, "label-smoothing.weight": 0.1}),
        (
            {"objective": "kd,hint", "hint_layer": "layers.1"},
            {
                "hint.pairs": [["auto", "layers.1"]],
                "hint.weight": Hint.info.default_weights.objective,
            },
        ),
        ({"objective": [{"name": "kd"}]}, {"kd.weight": 1.0, "kd.temperature": 4.0}),
        (
            {"objective": [{"name": "feature-norm-kd", "form": "release"}]},
            {"feature-norm-kd.tau": 2.0},
        ),
        ({"objective": [{"name": "kd", "weight_end": 2}]}, {"kd.schedule": "linear"}),
    ],
)
def test_flags_stand_in_the_entries(values: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = {
        f"{entry['name']}.{key}": value
        for entry in kept(validate(StudentRecipe, values))
        for key, value in entry.items()
    }
    for key, value in wanted.items():
        assert found[key] == (pytest.approx(value) if isinstance(value, float) else value), key


def test_what_stands_for_others_on_sigmoid_targets_is_kept_by_its_own_name() -> None:
    recipe = validate(StudentRecipe, {"temperature": 2, "label_smoothing": 0.2})
    assert [entry["name"] for entry in kept(recipe, "sigmoid")] == ["bce", "sigmoid-kd"]
    teacher = validate(TeacherRecipe, {"objective": "label-smoothing"})
    [entry] = kept(teacher, "sigmoid")
    assert entry == {"name": "bce", "weight": 1.0, "schedule": "constant", "epsilon": 0.1}


def test_a_hint_init_keeps_its_layers_as_keys() -> None:
    recipe = validate(
        HintRecipe,
        {
            "recorded": {
                "layers": [{"objective": "hint", "student": "layers.0", "teacher": "layers.2"}],
            }
        },
    )
    found = meant(recipe)
    assert (found.guided_layer, found.hint_layer) == ("layers.0", "layers.2")


def again(tmp_path: Any, recorded: dict[str, Any], **given: Any) -> StudentRecipe:
    """A run's recipe that is read with something said beside it."""
    recipe = validate(StudentRecipe, {"command": "student", "objective": "dkd", "temperature": 2})
    values = spelled(recipe, composition(recipe)).model_dump(mode="json")
    values["recorded"] = recorded
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    return load(StudentRecipe, recipe=path, environment={}, **given)


ASKED = {"defaults": "0.1.0", "asked": {"objective": "dkd", "temperature": 2.0}}


def test_a_kept_list_yields_to_flags_of_named_objectives(tmp_path: Any) -> None:
    plain = again(tmp_path, ASKED)
    assert isinstance(plain.objective, list)
    cooler = again(tmp_path, ASKED, flags={"temperature": "8"})
    assert (cooler.objective, cooler.temperature) == ("dkd", 8)
    # The rest still means what it meant in the run.
    assert cooler.recorded == ASKED
    other = again(tmp_path, ASKED, assignments=["objective=kd"])
    assert (other.objective, other.temperature) == ("kd", 2)
    assert other.recorded is None
    listed = again(tmp_path, ASKED, assignments=["objective=[{name: kd}]"])
    assert (listed.temperature, listed.recorded) == (None, None)
    assert [part.objective.info.name for part in composition(listed).parts] == ["kd"]
    chained = again(tmp_path, ASKED, flags={"hints": True})
    assert chained.objective == "dkd"


@pytest.mark.parametrize("recorded", [{"asked": 5}, {"versions": 5}, {"asked": {}}, {}])
def test_a_recorded_that_was_edited_by_hand_harms_nothing(
    tmp_path: Any, recorded: dict[str, Any]
) -> None:
    found = again(tmp_path, recorded, flags={"epochs": "2"})
    assert len(composition(found).parts) == 2
    with pytest.raises(UsageError, match="say it in its entries"):
        composition(again(tmp_path, recorded, flags={"alpha": "0.5"}))
