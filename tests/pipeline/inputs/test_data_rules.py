"""By which rules data are read: today's, those of a run that is gone on with, or of what is learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill_cli.data.rules import DataRules
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.pipeline.inputs.data_rules import (
    kept_rules,
    read_as_begun,
    recorded_rules,
    rules_kept,
    rules_of,
)
from distill_cli.pipeline.inputs.first_line import are_characters
from distill_cli.pipeline.inputs.teacher_folders import with_data
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe

THEN = DataRules(version="0.3.0", split_by="id")
MADE_THEN = {"versions": {"distill-cli": "0.2.0"}}
NEW = {"data_rules": "0.4.0", "split_by": "content", "channels": 1, "dedupe": False}


def test_a_new_recipe_is_read_by_the_rules_of_today() -> None:
    recipe = TeacherRecipe(data="d")
    assert rules_of(recipe) == DataRules()
    assert recorded_rules(recipe, channels=1) == NEW
    assert rules_kept({"data": "d", **NEW}) == DataRules(channels=1)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0"])
def test_the_recipe_of_an_earlier_run_is_read_as_then_and_stays_as_it_was(version: str) -> None:
    recorded = {"versions": {"distill-cli": version}}
    recipe = TeacherRecipe(data="d", recorded=recorded)
    assert rules_of(recipe) == THEN
    assert recorded_rules(recipe, channels=3) == {}
    assert not set(NEW) & {line.partition(":")[0] for line in to_yaml(recipe).splitlines()}
    assert rules_of(recipe.model_copy(update={"data_rules": "0.4.0"})) == DataRules()
    assert rules_of(TeacherRecipe(recorded={"versions": {"distill-cli": "0.4.0"}})) == DataRules()


def test_a_folder_without_such_keys_is_an_earlier_version_s() -> None:
    assert kept_rules({}) == {}, "a model folder says nothing of its data"
    assert rules_kept({}) == DataRules()
    assert rules_kept({"data": "d"}) == THEN
    with pytest.raises(UsageError, match="data_rules"):
        rules_kept({"data_rules": 7})


@pytest.mark.parametrize(
    ("kept", "start", "asked", "expected"),
    [
        ({"t": NEW}, None, {}, {**NEW, "dedupe": None}),
        ({"t": {"data": "d"}}, None, {}, {"data_rules": "0.3.0"}),
        ({"t": {"data": "d"}}, None, {"data_rules": "0.4.0"}, {"data_rules": "0.4.0"}),
        ({"t": NEW, "u": {"data": "d"}}, None, {}, {"data_rules": "0.3.0", "channels": 1}),
        ({"t": {**NEW, "dedupe": True}}, None, {}, {**NEW, "dedupe": True}),
        # Other data of the same teacher may be of another colour; a run's start has its split.
        ({"t": NEW}, None, {"data": "other"}, {"data_rules": "0.4.0", "split_by": "content"}),
        ({"t": {}, "s": {"data": "d"}}, "s", {}, {"data_rules": "0.3.0"}),
        ({"t": {}}, None, {}, {}),
    ],
)
def test_a_student_reads_data_as_its_teachers_did(
    kept: Mapping[str, Mapping[str, Any]],
    start: str | None,
    asked: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    names = [name for name in kept if name != start]
    recipe = StudentRecipe(teachers=names, **asked)
    found = with_data(recipe, names, lambda name: kept[name], start=start)
    for key in NEW:
        assert (getattr(found, key) or None) == (expected.get(key) or None), key


@pytest.mark.parametrize("names", [["g", "c", "old"], ["c", "old", "g"], ["old", "c", "g"]])
def test_grey_and_colour_teachers_are_not_mixed(names: list[str]) -> None:
    kept = {"g": NEW, "c": {**NEW, "channels": 3}, "old": {"data": "d"}}
    recipe = StudentRecipe(teachers=names)
    with pytest.raises(ArtifactError, match="made with different channels") as refused:
        with_data(recipe, names, kept.__getitem__)
    assert "g: 1" in str(refused.value)
    assert "c: 3" in str(refused.value)
    assert "--channels" in str(refused.value.hint)
    said = recipe.model_copy(update={"channels": 3})
    assert with_data(said, names, kept.__getitem__).channels == 3
    for pair in (["old", "g"], ["g", "old"]):
        assert with_data(recipe, pair, kept.__getitem__).channels == 1, "the order does not matter"


def test_a_run_of_before_that_is_gone_on_with_asks_nobody() -> None:
    recipe = StudentRecipe(data="d", teachers=["t"], recorded=MADE_THEN)
    assert rules_of(with_data(recipe, ["t"], lambda name: NEW)) == THEN


def test_an_unfinished_dump_goes_on_by_its_own_rules(tmp_path: Path) -> None:
    recipe = CacheRecipe(data="d")
    assert read_as_begun(recipe, tmp_path) == recipe
    (tmp_path / "recipe.yaml").write_text("data: d\n")
    assert rules_of(read_as_begun(recipe, tmp_path)) == THEN
    asked = recipe.model_copy(update={"data_rules": "0.4.0", "split_by": "content"})
    assert rules_of(read_as_begun(asked, tmp_path)) == DataRules()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (tuple("0123456789"), True),
        (("a", "B", "é"), True),
        (("10", "-3.5", "7"), True),
        (("a", "cat"), False),
        (("n01440764", "n01443537"), False),
    ],
)
def test_characters_and_numbers(names: tuple[str, ...], expected: bool) -> None:
    assert are_characters(names) == expected
