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


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (
            ("student", "--teachers", "a", "b"),
            "--teachers takes commas, or is given again: --teachers a,b or --teachers a --teachers b",
        ),
        (("cache-soft-labels", "--teachers=a", "b", "c"), "--teachers a,b or "),
        (("student", "--require", "a>1", "b>2"), "at a time: --require a>1 --require b>2"),
        (("student", "--set", "a=1", "b=2"), "at a time: --set a=1 --set b=2"),
        (("student", "--model", "a", "b"), "got unexpected extra argument"),
        (("student", "train", "--teachers", "a"), "takes no sub-command"),
    ],
)
def test_values_behind_one_flag(distill: Distill, args: tuple[str, ...], hint: str) -> None:
    outcome = distill(*args)
    assert outcome.code == 2
    assert hint in outcome.err


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("command: studnet", "command 'studnet'? Did you mean 'student'?"),
        ("command: [a]", "command '['a']'? Valid: "),
        ("command: student", "is for `distill student`, not teacher train"),
        ("epochs: 2", "the key 'command' is missing. Name one of: teacher train, student, "),
    ],
)
def test_the_command_of_a_recipe(here: Path, distill: Distill, command: str, hint: str) -> None:
    (here / "r.yaml").write_text(f"{command}\n")
    validated = ("recipes", "validate", "r.yaml")
    trained = ("teacher", "train", "--recipe", "r.yaml")
    for args in {
        "command: student": (trained,),
        "epochs: 2": (validated, ("recipes", "run", "r.yaml")),
    }.get(command, (validated, trained)):
        outcome = distill(*args)
        assert outcome.code == 2
        assert hint in outcome.err, args


def test_where_data_were_looked_for(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    train = ("teacher", "train", "--model", "mlp_8x1", "--data")
    for data in ("photos/", "imagenet", "digits/x"):
        for args in ((*train, data), ("evaluate", made.teacher, "--data", data)):
            outcome = distill(*args)
            assert outcome.code == 2
            assert f"--data {data} does not exist. It was looked for" in outcome.err
            assert f"in the current folder ({here})" in outcome.err
            assert "$DISTILL_DATA is not set" in outcome.err
    assert "Did you mean 'cifar10'?" in distill(*train, "cifar1").err
    assert "Give a folder, an archive, a .csv or digits" in distill(*train, here / "none").err
    monkeypatch.setenv("DISTILL_DATA", "/elsewhere")
    assert "and in $DISTILL_DATA (/elsewhere)" in distill(*train, "photos/").err


def test_no_others_are_answered(made: Made, here: Path, distill: Distill) -> None:
    (here / "bad.png").write_bytes(b"no picture")
    outcome = distill("predict", made.teacher, "bad.png")
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1] == "error: 1 of 1 image cannot be read"
    Image.new("L", (8, 8)).save("good.png")
    assert "All others are answered" in distill("predict", made.teacher, "bad.png", "good.png").err


@pytest.mark.parametrize(
    ("out", "hint"),
    [
        (("--out", "c"), "The same command goes on"),
        ((), "The same command with --out and its folder goes on"),
    ],
)
def test_an_interrupted_dump_says_how_it_goes_on(
    made: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    out: tuple[str, ...],
    hint: str,
) -> None:
    from distill_cli.pipeline.labels import dump

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dump, "prepare_dump", interrupted)
    outcome = distill("cache-soft-labels", "--teachers", made.teacher, *out)
    assert outcome.code == 130
    assert outcome.err.endswith(f"stopped at once; what was saved before is intact. {hint}\n")
