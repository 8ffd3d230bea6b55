"""`distill methods`: every method says what it is, and its examples are command lines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_cli.objectives import OBJECTIVES
from distill_cli.pipeline.compositions import composition
from distill_cli.pipeline.described import page
from distill_cli.recipe.load import load
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe
from distill_cli.recipe.stages import is_several, stages_of
from tests.conftest import Outcome

Distill = Callable[..., Outcome]


def test_it_lists_them_all(distill: Distill) -> None:
    listed = json.loads(distill("methods", "--json").out)
    assert [one["name"] for one in listed] == list(OBJECTIVES)
    assert set(listed[0]) == {"name", "summary", "paper", "needs", "parameters"}
    said = distill("methods").out
    assert all(name in said for name in OBJECTIVES)
    assert "distill methods show" in said


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_at_length(name: str, distill: Distill) -> None:
    found = json.loads(distill("methods", "show", name, "--json").out)
    assert found["equation"]
    for key, parameter in found["parameters"].items():
        assert parameter["help"], f"{name}.{key} is not explained in its docstring"
    said = distill("methods", "show", name)
    assert said.code == 0
    assert found["try"][0] in said.out
    for line in found["try"]:
        composition_of(line)


def composition_of(line: str) -> None:
    """The line names a verb and options that there are, and what it asks for makes sense."""
    words = shlex.split(line)
    assert words[0] == "distill"
    kind: Any = StudentRecipe if words[1] == "student" else TeacherRecipe
    words = words[3:] if words[1] == "teacher" else words[2:]
    flags: dict[str, Any] = {}
    assignments = []
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag == "--set":
            assignments.append(value)
        else:
            flags[flag.removeprefix("--")] = value
    recipe = load(kind, assignments=assignments, flags=flags, environment={})
    if is_several(recipe):
        assert stages_of(recipe, Path("out"))
        return
    composition(recipe, recipe.targets or "softmax")


def test_an_unknown_one(distill: Distill) -> None:
    outcome = distill("methods", "show", "label-smothing")
    assert outcome.code == 2
    assert "label-smoothing" in outcome.err


def test_the_page_is_what_the_objectives_say() -> None:
    path = Path(__file__).parents[2] / "docs" / "methods.md"
    assert path.read_text() == page(), (
        "run: python -m distill_cli.pipeline.described > docs/methods.md"
    )
