"""What is typed on a first day: bare groups, -h, runs that are gone, files that are not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from distill_cli.cli.app import VERBS
from distill_cli.files import remove
from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]
GROUPS = ("teacher", "recipes", "cache", "models")


@pytest.mark.parametrize("args", [(), *((group,) for group in GROUPS)])
def test_a_bare_group_shows_its_help_alone(distill: Distill, args: tuple[str, ...]) -> None:
    """It ended with a traceback of ours behind the help."""
    outcome = distill(*args)
    assert outcome.code == 2
    assert "Usage: " in outcome.out + outcome.err
    assert "error" not in outcome.err.lower()


@pytest.mark.parametrize(
    "args", [(), *((verb,) for verb in VERBS), ("teacher", "train"), ("cache", "import")]
)
def test_h_is_help(distill: Distill, args: tuple[str, ...]) -> None:
    short, long = distill(*args, "-h"), distill(*args, "--help")
    assert short.code == 0, short.err
    assert short == long
    assert "Usage: " in short.out


def test_help_is_an_option(distill: Distill) -> None:
    outcome = distill("help")
    assert outcome.code == 2
    assert "`distill --help`" in outcome.err


@pytest.mark.parametrize("lost", ["model", "model/config.json", "model/model.safetensors"])
def test_a_run_whose_model_is_gone(made: Made, here: Path, distill: Distill, lost: str) -> None:
    """Each verb pointed to another, and none led on."""
    shutil.copytree(made.teacher, "r2")
    remove(here / "r2" / lost)
    picture = Image.new("L", (8, 8))
    picture.save("x.png")
    for args in (
        ("evaluate", "r2"),
        ("predict", "r2", "x.png"),
        ("teacher", "train", "--resume", "--out", "r2"),
        ("student", "--teachers", "r2", "--model", "mlp_8x1"),
        ("student", "--teachers", made.teacher, "--init", "r2"),
        ("cache-soft-labels", "--teachers", "r2"),
        ("models", "taps", "r2"),
    ):
        outcome = distill(*args)
        assert outcome.code == 3, (args, outcome.err)
        assert "r2 is done, but its model is gone: --overwrite trains it anew" in outcome.err, args


def test_what_never_was_a_run_is_not_to_be_finished(here: Path, distill: Distill) -> None:
    (here / "empty").mkdir()
    outcome = distill("evaluate", "empty")
    assert outcome.code == 3
    assert "Give a run or model folder" in outcome.err


def test_no_run_to_go_on_with(made: Made, here: Path, distill: Distill) -> None:
    """They asked which images."""
    shutil.copytree(made.teacher, "bare")
    (here / "bare" / "recipe.yaml").unlink()
    for verb in (("teacher", "train"), ("student",), ("hint-init",), ("student", "--seeds", 2)):
        outcome = distill(*verb, "--resume", "--out", "none")
        assert outcome.code == 2
        assert "there is no run in none to go on with. Give the --out folder of" in outcome.err
        needed = "--data" if verb[0] == "teacher" else "--teachers"
        assert f"or {needed} and all else" in outcome.err
        assert not (here / "none").exists()
    outcome = distill("teacher", "train", "--resume", "--out", "bare")
    assert outcome.code == 2
    assert "there is no run in bare to go on with. bare/recipe.yaml is missing" in outcome.err
    outcome = distill("teacher", "train", "--resume")
    assert outcome.code == 2
    assert "which run is to go on? Give --out RUN" in outcome.err


def test_complete_options_begin_a_run(here: Path, distill: Distill) -> None:
    given = ("--data", "digits", "--model", "mlp_8x1", "--epochs", 1)
    outcome = distill("teacher", "train", "--resume", "--out", "new", *given, "--quiet")
    assert outcome.code == 0, outcome.err
    assert (here / "new" / "result.json").exists()
