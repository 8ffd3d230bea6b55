"""`distill methods`: every method says what it is, and its examples are command lines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill_cli.errors import UsageError
from distill_cli.objectives import OBJECTIVES
from distill_cli.pipeline.inputs.noise_matrix import write_noise
from distill_cli.pipeline.objective.build import ON_SIGMOID, composition
from distill_cli.pipeline.objective.describe import GIVEN, describe, page
from distill_cli.recipe.load import load
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe
from distill_cli.recipe.stages import is_several, stages_of
from distill_cli.types import Targets
from tests.conftest import Outcome, invoke

Distill = Callable[..., Outcome]


def test_it_lists_them_all(distill: Distill) -> None:
    listed = json.loads(distill("methods", "--json").out)
    assert [one["name"] for one in listed] == list(OBJECTIVES)
    keys = {"name", "summary", "paper", "needs", "parameters", "targets", "combine_with", "order"}
    assert all(set(one) == keys for one in listed)
    said = distill("methods").out
    assert all(name in said for name in OBJECTIVES)
    assert "distill methods show" in said


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A teacher for each kind of targets."""
    root = tmp_path_factory.mktemp("teachers")
    for targets in ("softmax", "sigmoid"):
        outcome = invoke(
            *("teacher", "train", "--data", "digits", "--model", "mlp_32x1", "--epochs", 3),
            *("--batch-size", 16, "--lr", 0.1, "--targets", targets, "--out", root / targets),
        )
        assert outcome.code == 0, outcome.err
    (root / "groups.yaml").write_text("round: ['0', '6', '8', '9']\nstraight: ['1', '4', '7']\n")
    known = torch.full((10, 10), 0.1 / 9, dtype=torch.float64).fill_diagonal_(0.9)
    write_noise(root / "noise.csv", known, [str(digit) for digit in range(10)])
    (root / "hierarchy.yaml").write_text(
        "round: ['0', '6', '8', '9']\nothers: ['1', '2', '3', '4', '5', '7']\n"
    )
    return {
        "softmax": root / "softmax",
        "sigmoid": root / "sigmoid",
        "groups": root / "groups.yaml",
        "hierarchy": root / "hierarchy.yaml",
        "noise": root / "noise.csv",
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_script_runs_them_all_from_the_json_alone(
    name: str, teachers: dict[str, Path], here: Path, distill: Distill
) -> None:
    [method] = [one for one in json.loads(distill("methods", "--json").out) if one["name"] == name]
    targets = "softmax" if "softmax" in method["targets"] else method["targets"][0]
    verb: tuple[object, ...] = ("teacher", "train", "--data", "digits")
    if "teacher" in method["needs"]:
        verb = ("student", "--teachers", teachers[targets])
    flags: list[object] = ["--targets", targets]
    for need, flag in GIVEN.items():
        if need in method["needs"]:
            option, _, value = flag.partition(" ")
            flags += [option, teachers.get(need, value)]
    if method["order"] is not None:
        flags += ["--order", method["order"]]
    objective = ",".join([name, *method["combine_with"][:1]])
    outcome = distill(
        *(*verb, "--objective", objective, *flags, "--model", "mlp_8x1", "--epochs", 1),
        *("--augment", "none", "--batch-size", 256, "--out", here / "r", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    kept = yaml.safe_load((here / "r" / "recipe.yaml").read_text())
    assert kept["order"] == (method["order"] or "shuffled")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_said_of_targets_and_companions_is_what_is_refused(name: str) -> None:
    """Each objective composes as `methods --json` says, and not otherwise."""
    [method] = [one for one in describe() if one["name"] == name]
    kind: Any = StudentRecipe if "teacher" in method["needs"] else TeacherRecipe

    def accepted(targets: Targets, *names: str) -> bool:
        groups = {"groups": "words"} if any("groups" in needs[each] for each in names) else {}
        if any("noise" in needs[each] for each in names):
            groups["noise_matrix"] = "noise.csv"
        taught = StudentRecipe if any("teacher" in needs[each] for each in names) else kind
        try:
            composition(taught(objective=",".join(names), **groups), targets)
        except UsageError:
            return False
        return True

    needs = {one["name"]: one["needs"] for one in describe()}
    for targets in ("softmax", "sigmoid"):
        stands_for = targets == "sigmoid" and name in ON_SIGMOID
        alone = not method["combine_with"]
        assert accepted(targets, name) == ((alone and targets in method["targets"]) or stands_for)
    if not alone:
        with_it = [other for other in OBJECTIVES if accepted("softmax", name, other)]
        assert with_it == method["combine_with"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_at_length(name: str, distill: Distill) -> None:
    found = json.loads(distill("methods", "show", name, "--json").out)
    assert found["equation"]
    for key, parameter in found["parameters"].items():
        assert parameter["help"], f"{name}.{key} is not explained in its docstring"
    said = distill("methods", "show", name)
    assert said.code == 0
    assert found["try"][0] in said.out
    assert found["facts"]["targets"] == " and ".join(found["targets"])
    assert all(other in found["facts"]["beside"] for other in found["combine_with"])
    assert (found["order"] or "") in found["facts"].get("order", "")
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
            flags[flag.removeprefix("--").replace("-", "_")] = value
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
        "run: python -m distill_cli.pipeline.objective.describe > docs/methods.md"
    )
