"""Which framing a recipe means: its own, its version's, its teachers', that of the cache it goes on with."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from distill_cli.errors import ArtifactError
from distill_cli.pipeline.inputs.framing import as_begun, as_shown, framing_of
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.earlier import FRAMING
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.types import EARLIER_FRAMING, Framing
from tests.conftest import Made

KEPT = Path(__file__).parents[2] / "fixtures" / "kept-0.3.0"


def defaults_of(version: str) -> dict[str, Any]:
    return {"recorded": {"defaults": version}}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, FRAMING),
        (defaults_of("0.4.0"), FRAMING),
        (defaults_of("0.3.0"), EARLIER_FRAMING),
        ({"recorded": {"versions": {"distill-cli": "0.1.0"}}}, EARLIER_FRAMING),
        ({"resize": "round"}, Framing(resize="round", orientation="exif", background="white")),
        ({**defaults_of("0.2.0"), "background": "black"}, Framing(background="black")),
    ],
)
def test_a_recipe_means_what_its_version_did(said: dict[str, Any], meant: Framing) -> None:
    assert framing_of(TeacherRecipe.model_validate(said)) == meant


def shown(recipe: StudentRecipe, *teachers: Path) -> Framing:
    names = [str(teacher) for teacher in teachers]
    return framing_of(as_shown(recipe, names, lambda name: kept_recipe(Path(name))))


def test_teachers_decide_where_the_recipe_does_not(made: Made, tmp_path: Path) -> None:
    recipe, old, old_labels = StudentRecipe(), KEPT / "teacher", KEPT / "labels"
    assert shown(recipe) == FRAMING
    assert shown(recipe, made.teacher) == FRAMING
    assert shown(recipe, old) == EARLIER_FRAMING
    assert shown(recipe, old, made.teacher) == FRAMING, "live teachers that differ do not decide"
    assert shown(recipe, made.teacher, old_labels) == EARLIER_FRAMING, "caches do"
    assert shown(StudentRecipe(resize="floor"), old_labels) == Framing(resize="floor")
    assert shown(recipe, Path("timm/resnet18")) == FRAMING
    earlier = StudentRecipe.model_validate(defaults_of("0.3.0"))
    assert shown(earlier, made.teacher) == EARLIER_FRAMING, "the run's recipe means its pixels"
    assert shown(earlier, made.labels / "a") == FRAMING
    # A model folder alone has no recipe; a stranger's config says nothing.
    shutil.copytree(old / "model", tmp_path / "old")
    assert shown(recipe, tmp_path / "old") == EARLIER_FRAMING
    (tmp_path / "old/config.json").write_text(json.dumps({"architecture": "resnet18"}))
    assert shown(recipe, tmp_path / "old") == FRAMING


def test_teachers_that_saw_pictures_in_different_ways_are_not_mixed(
    made: Made, tmp_path: Path
) -> None:
    """Of picture files, in any order of the teachers; whoever names the keys has decided."""
    old, new, labels = KEPT / "teacher", made.teacher, KEPT / "labels"
    photos = StudentRecipe(data=str(tmp_path))
    for teachers in ((old, new), (new, old)):
        with pytest.raises(ArtifactError, match="made with different resize") as refused:
            shown(photos, *teachers)
        assert f"{old}: none" in str(refused.value)
        assert f"{new}: white" in str(refused.value)
        offered = "--set resize=floor --set orientation=exif --set background=white"
        assert offered in str(refused.value.hint)
    with pytest.raises(ArtifactError) as refused:
        shown(photos, new, labels)
    assert "--set background=none" in str(refused.value.hint), "a cache's views are as they are"
    partly = photos.model_copy(update={"resize": "floor", "orientation": "exif"})
    with pytest.raises(ArtifactError) as refused:
        shown(partly, old, new)
    assert "resize" not in str(refused.value)
    every = partly.model_copy(update={"background": "black"})
    assert shown(every, old, new) == replace(FRAMING, background="black")
    assert shown(photos, old, KEPT / "cached") == EARLIER_FRAMING
    assert shown(photos, new, Path("timm/resnet18")) == FRAMING
    assert shown(StudentRecipe(data="digits"), old, new) == FRAMING, "these are no files"


def test_what_teachers_agree_on_is_taken_where_the_rest_is_said(tmp_path: Path) -> None:
    kept = {
        "a": {"resize": "floor", "orientation": "stored", "background": "black"},
        "b": {"resize": "floor", "orientation": "stored", "background": "white"},
    }
    recipe = StudentRecipe(data=str(tmp_path), background="white")
    assert framing_of(as_shown(recipe, ["a", "b"], kept.__getitem__)) == Framing(
        resize="floor", orientation="stored", background="white"
    )


def test_a_dump_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    recipe = CacheRecipe(background="black")
    assert as_begun(recipe, [tmp_path / "new"]) == recipe
    begun = as_begun(recipe, [tmp_path / "new", KEPT / "half"])
    assert framing_of(begun) == Framing(background="black")
    assert asdict(framing_of(as_begun(CacheRecipe(), [KEPT / "half"]))) == asdict(EARLIER_FRAMING)
