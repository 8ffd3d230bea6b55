"""A verdict for each group beside which the same network learnt hard labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_cli.recipe import schema
from distill_cli.report.against import describe_against
from distill_cli.report.baseline import is_baseline, judged
from distill_cli.report.groups import UNWRITTEN, Group, group_runs
from tests.report.made import STUDENT, run, seeds

FEW, MANY = [20, 21, 22], [60, 61, 62]
TESTED = {"test": {"fingerprint": "test"}}


def groups(*of_runs: Any) -> list[Group]:
    return group_runs([run for runs in of_runs for run in runs])


def test_a_student_is_judged_against_the_same_network_on_hard_labels(tmp_path: Path) -> None:
    found = groups(
        seeds(tmp_path / "big", [2, 2, 2], {"model": "mlp_512x2"}),
        seeds(tmp_path / "kd", FEW, STUDENT),
        seeds(tmp_path / "hard", MANY),
    )
    [outcome] = judged(found)
    assert (outcome.group, outcome.baseline) == (found[1], found[2])
    assert outcome.kind == "helped"
    assert outcome.verdict.paired
    assert outcome.sentence.startswith("helped: 40.0 fewer errors of 360 on average")
    assert outcome.differing == ()
    assert outcome.to_json()["baseline"] == found[2].label


def test_the_baseline_that_differs_least_is_taken_and_what_differs_is_said(tmp_path: Path) -> None:
    found = groups(
        seeds(tmp_path / "far", MANY, {"epochs": 9, "lr": 0.5}),
        seeds(tmp_path / "near", MANY, {"epochs": 30}),
        seeds(tmp_path / "kd", FEW, STUDENT),
    )
    [outcome] = judged(found)
    assert outcome.baseline is found[1]
    assert outcome.sentence.endswith("Not only the labels differ: epochs 3 and 30")


def test_a_network_of_as_many_bits_is_the_baseline(tmp_path: Path) -> None:
    few = {"weight_bits": 4}
    full = seeds(tmp_path / "full", MANY)
    same = seeds(tmp_path / "same", MANY, {**few, "epochs": 30, "lr": 0.5})
    student = seeds(tmp_path / "kd", FEW, {**STUDENT, **few})
    found = groups(full, same, student)
    [outcome] = judged(found)
    assert outcome.baseline is found[1]
    assert outcome.differing == ("epochs 3 and 30", "lr 0.1 and 0.5")
    # Where there is no such network, the answer says so, whichever side has fewer bits.
    [outcome] = judged(groups(full, student))
    assert outcome.sentence.endswith("Not only the labels differ: weight_bits 4 and –")
    [outcome] = judged(groups(same, seeds(tmp_path / "fp32", FEW, {**STUDENT, "epochs": 30})))
    assert outcome.differing == ("lr 0.1 and 0.5", "weight_bits – and 4")


def test_what_is_absent_from_a_recipe_counts_as_its_default(tmp_path: Path) -> None:
    hard = seeds(tmp_path / "hard", MANY, {"labels_fraction": 0.1, "freeze": ["backbone"]})
    [outcome] = judged(groups(hard, seeds(tmp_path / "kd", FEW, {**STUDENT, "label_seed": 0})))
    assert outcome.differing == ("freeze – and backbone", "labels_fraction – and 0.1")


def test_the_keys_that_may_be_absent_are_those_of_the_options() -> None:
    fields = {
        key: field.default
        for kind in vars(schema).values()
        if isinstance(kind, type) and issubclass(kind, schema.TrainRecipe)
        for key, field in kind.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("unwritten")
    }
    # How many seeds there are says nothing of one of them.
    assert {key: value for key, value in fields.items() if key != "seeds"} == UNWRITTEN


def test_seeds_in_common_are_paired(tmp_path: Path) -> None:
    hard = seeds(tmp_path / "hard", [60, 70, 80, 90])
    [outcome] = judged(groups(hard, seeds(tmp_path / "kd", [50, 60, 70], STUDENT)))
    assert outcome.verdict.paired
    assert outcome.verdict.difference == -10
    others = [
        run(tmp_path / f"other-{seed}", {**STUDENT, "seed": seed}, test_errors=50)
        for seed in (7, 8, 9)
    ]
    [outcome] = judged(groups(hard, others))
    assert not outcome.verdict.paired
    assert outcome.verdict.difference == -25


def test_without_enough_seeds_nothing_can_be_told(tmp_path: Path) -> None:
    found = groups([run(tmp_path / "hard")], [run(tmp_path / "kd", STUDENT, test_errors=1)])
    [outcome] = judged(found)
    assert outcome.kind == "cannot be told"
    assert "one seed is too few" in outcome.sentence


@pytest.mark.parametrize(
    ("recipe", "figures"),
    [
        ({"model": "mlp_24x1"}, {}),
        ({"model_args": {"width": 2}}, {}),
        ({"recorded": {**TESTED, "test": {"fingerprint": "other"}}}, {}),
        ({"recorded": {}}, {}),
        ({}, {"test_samples": 10}),
        # Beside these, hard labels are not all that is learnt.
        ({"objective": "label-smoothing"}, {}),
        ({"label_smoothing": 0.1}, {}),
        ({"objective": [{"name": "ce", "epsilon": 0.1}]}, {}),
        ({"objective": [{"name": "ce"}, {"name": "tfkd-reg"}]}, {}),
    ],
)
def test_what_is_no_baseline(
    tmp_path: Path, recipe: dict[str, Any], figures: dict[str, Any]
) -> None:
    taught, hard = {**STUDENT, "recorded": TESTED}, {"recorded": TESTED}
    found = groups(
        [run(tmp_path / "kd", taught)], [run(tmp_path / "hard", hard | recipe, **figures)]
    )
    assert all(outcome.baseline is not found[1] for outcome in judged(found))
    assert judged(groups(found[0].runs, [run(tmp_path / "true", hard)])), "with it, there is one"


def test_a_method_without_teachers_is_judged_too(tmp_path: Path) -> None:
    found = groups(
        seeds(tmp_path / "hard", MANY, {"objective": [{"name": "ce", "weight": 1.0}]}),
        seeds(tmp_path / "smooth", FEW, {"label_smoothing": 0.1}),
    )
    assert [is_baseline(group) for group in found] == [True, False]
    [outcome] = judged(found)
    assert outcome.group is found[1]
    assert outcome.differing == ()


def test_runs_on_other_images_are_neither_seeds_nor_repeats_nor_compared(tmp_path: Path) -> None:
    """As after photographs were added to the folder: the recipe is the same, the images are not."""
    hard = seeds(tmp_path / "hard", MANY)
    noted = {"dataset": {"fingerprint": "more"}, "test": {"fingerprint": "others"}}
    other = run(tmp_path / "again", {**hard[0].recipe, "recorded": noted}, test_errors=5)
    found = groups(hard, [other])
    assert [len(group.runs) for group in found] == [3, 1]
    assert not any(group.repeats for group in found)
    moved = {**STUDENT, "recorded": {"dataset": {"fingerprint": "data"}, **TESTED}}
    student = seeds(tmp_path / "kd", FEW, moved)
    assert not judged(groups(hard, [other], student))
    assert describe_against(groups(student)[0], found[1]).endswith("errors of other test images")


def test_hard_labels_of_sigmoid_targets_are_a_baseline(tmp_path: Path) -> None:
    recipe = {"objective": [{"name": "bce", "epsilon": 0.0, "weight": 1.0}]}
    assert is_baseline(groups(seeds(tmp_path / "hard", MANY, recipe))[0])
