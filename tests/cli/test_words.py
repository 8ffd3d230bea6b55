"""What the command line says of options: given again, from the environment, misspelt, completed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill_cli.cli import student, teacher
from distill_cli.cli.completion import choices_of
from distill_cli.cli.options import COUNTED, holds_list
from distill_cli.recipe import known_names
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.schema import RECIPES, StudentRecipe
from tests.cli.test_import import table, voted, write
from tests.conftest import Made, Outcome
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
ROOT = Path(__file__).parents[2]
TRAIN = ("teacher", "train", "--data", "digits", "--epochs", 1)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[TrainRecipe]:
    """The recipes that `teacher train` and `student` read; nothing is trained."""
    recipes: list[TrainRecipe] = []
    for module in (teacher, student):
        monkeypatch.setattr(module, "run_training", lambda recipe, flags: recipes.append(recipe))
    return recipes


# Options that are given again.


def test_a_list_takes_its_flag_again(distill: Distill, taken: list[StudentRecipe]) -> None:
    outcome = distill(
        *("student", "--teachers", "a", "--teachers", "b,c", "--mode", "ensemble"),
        *("--teacher-weights", "1", "--teacher-weights", "3", "--augment", "shift:1"),
        *("--objective", "kd", "--objective", "dkd"),
        *("--require", "test_top1>=0.1", "--require", "test_nll<9"),
    )
    assert outcome.code == 0, outcome.err
    assert taken[0].teachers == ["a", "b", "c"]
    assert taken[0].teacher_weights == [1, 3]
    assert taken[0].objective == "kd,dkd"
    assert list(map(str, taken[0].require)) == ["test_top1>=0.1", "test_nll<9"]
    assert outcome.err == ""


def test_two_flags_name_two_teachers(made: Made, here: Path, distill: Distill) -> None:
    """The first was dropped in silence."""
    given = ("--teachers", made.teacher, "--teachers", made.other)
    outcome = distill("cache-soft-labels", *given, "--out", "c", "--quiet")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (here / "c").iterdir()) == ["a", "b"]


def test_every_list_of_every_verb_may_be_given_again() -> None:
    keys = {
        name
        for schema in RECIPES.values()
        for name, field in schema.model_fields.items()
        if field.json_schema_extra and holds_list(field.annotation)
    } - {*COUNTED}
    assert keys == {
        *("teachers", "class_map", "augment", "teacher_weights", "objective", "require"),
        *("stages", "omit_class", "only_classes", "teacher_augment", "labelled_augment", "freeze"),
    }


def test_the_last_of_several_values_counts_and_is_told(
    distill: Distill, taken: list[TrainRecipe]
) -> None:
    """As in other tools, so that a wrapper's options can be overridden; but not in silence."""
    outcome = distill(*TRAIN, "--seed", 1, "--lr", 0.1, "--seed=2", "--lr", 0.3, "--lr", 0.2)
    assert (taken[0].seed, taken[0].lr) == (2, 0.2)
    assert sorted(outcome.err.splitlines()) == [
        "note: --lr is given 3 times; the last counts: 0.2",
        "note: --seed is given twice; the last counts: 2",
    ]
    outcome = distill(*TRAIN, "--compile", "--no-compile")
    assert taken[1].compile is False
    distill(*TRAIN, "--seeds", 3, "--seeds", 5)
    assert taken[2].seeds == 5, "a count"
    assert outcome.err == "note: of --compile and --no-compile the last counts: --no-compile\n"
    assert distill(*TRAIN, "--seed", 1, "--seed", 2, "--quiet").err == ""


def test_other_verbs_tell_it_too(made: Made, distill: Distill) -> None:
    outcome = distill("evaluate", made.student, "--split", "test", "--split", "val", "--json")
    assert json.loads(outcome.out)["split"] == "val"
    assert "note: --split is given twice; the last counts: val" in outcome.err


# The same teacher twice.


@pytest.mark.parametrize("verb", ["student", "cache-soft-labels"])
@pytest.mark.parametrize("again", ["t", "./t/", "link", "t/model", "{absolute}"])
def test_a_teacher_is_named_once(
    made: Made, here: Path, distill: Distill, verb: str, again: str
) -> None:
    shutil.copytree(made.teacher, here / "t")
    (here / "link").symlink_to("t")
    again = again.format(absolute=here / "t")
    outcome = distill(verb, "--teachers", "t", "--teachers", again, "--out", "o")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: teachers 't' and '{again}' are one and the same. ")
    assert not (here / "o").exists()


def test_reliability_of_a_teacher_twice(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.teacher, here / "t")
    outcome = distill("cache-soft-labels", "--teachers", "t,./t/", "--out", "o")
    reliability(
        "Usage and recipes",
        "a teacher that is named twice",
        "distill cache-soft-labels --teachers t,./t/ --out o",
        outcome,
    )


def test_a_run_of_before_goes_on_with_its_teacher_twice(
    made: Made, here: Path, distill: Distill
) -> None:
    """A recipe that a run has recorded was allowed to name one twice, and weighs it so."""
    recipe = yaml.safe_load((made.student / "recipe.yaml").read_text())
    recipe["teachers"] = [str(made.teacher)] * 2
    recipe["mode"], recipe["out"] = "ensemble", None
    (here / "r.yaml").write_text(yaml.safe_dump(recipe))
    outcome = distill("student", "-r", "r.yaml", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err


# The environment.


def test_variables_that_set_values_are_told(
    distill: Distill, taken: list[TrainRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"EPOCHS": "3", "LR": "0.2", "SEED": "4", "VIEWS": "7", "BATCH_SIZE": "32"}
    for name, value in variables.items():
        monkeypatch.setenv(f"DISTILL_{name}", value)
    outcome = distill(*TRAIN, "--set", "seed=9")
    assert (taken[0].epochs, taken[0].seed, taken[0].lr) == (1, 9, 0.2)
    (line,) = outcome.err.splitlines()
    assert line.startswith("from the environment: ")
    told = set(line.removeprefix("from the environment: ").split(", "))
    assert told == {"DISTILL_LR=0.2", "DISTILL_BATCH_SIZE=32"}, "no others have an effect here"
    assert distill(*TRAIN, "--quiet").err == ""


@pytest.mark.parametrize(
    ("variable", "value"),
    [("EPOCHS", "many"), ("MODE", "average"), ("DEVICE", "gpu"), ("ALPHA", "1.5"), ("SEED", "")],
)
def test_an_error_of_a_variables_value_names_the_variable(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"DISTILL_{variable}", value)
    outcome = distill("student", "--teachers", "a")
    assert outcome.code == 2
    assert f"DISTILL_{variable}" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_reliability_of_a_variable(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, reliability: Reliability
) -> None:
    monkeypatch.setenv("DISTILL_EPOCHS", "many")
    reliability(
        "Usage and recipes",
        "a wrong value in the environment",
        "DISTILL_EPOCHS=many distill teacher train --data digits",
        distill("teacher", "train", "--data", "digits"),
    )


# Words of messages.


@pytest.mark.parametrize(
    "args",
    [("teacher", "trian"), ("cache", "inof"), ("recipes", "shwo"), ("studnt",), ("methods", "sho")],
)
def test_one_mark_ends_a_question(distill: Distill, args: tuple[str, ...]) -> None:
    outcome = distill(*args)
    assert outcome.code == 2
    assert "Did you mean" in outcome.err
    assert re.search(r"[?!][.,]|\.\.(?!\.)", outcome.err) is None, outcome.err


def test_a_wrong_option_of_the_root_is_one_line(distill: Distill) -> None:
    outcome = distill("--vresion")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("error: no such option: --vresion")


def wrong_values() -> list[tuple[str, Any]]:
    """Values of many wrong kinds for every key of every verb."""
    keys = sorted({name for schema in RECIPES.values() for name in schema.model_fields})
    wrong: list[Any] = ["no such value", "", -7.5, 1e400, [[1]], {"a": 1}, True, "\udcff"]
    return [(key, value) for key in keys for value in wrong]


def test_pydantic_speaks_to_nobody() -> None:
    from distill_cli.errors import UsageError
    from distill_cli.recipe.load import validate

    heard = 0
    for key, value in wrong_values():
        for schema in RECIPES.values():
            if key not in schema.model_fields:
                continue
            try:
                validate(schema, {"command": schema.COMMAND, key: value})
            except UsageError as error:
                heard += 1
                text = str(error)
                assert text.startswith(f"{key}"), text
                foreign = r"[Ii]nput should|pattern|unable to|\^|Value error|instance of|\.(bool|int|str)\b"
                assert re.search(foreign, text.replace(repr(value), "")) is None, text
    assert heard > 500


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("resnet81", "Did you mean 'resnet18'?"),
        ("vit", "Valid: vit_"),
        ("mobilnet", "Did you mean 'mobilenet"),
        ("cifar_resnet21", "Did you mean 'cifar_resnet20'?"),
    ],
)
def test_models_that_are_near(here: Path, distill: Distill, typed: str, part: str) -> None:
    outcome = distill("teacher", "train", "--data", "digits", "--model", typed)
    assert outcome.code == 2
    assert part in outcome.err
    assert len(outcome.err) < 400


def test_known_names_are_those_there_are() -> None:
    from distill_cli.data.open_splits import ALIASES
    from distill_cli.models import names
    from distill_cli.objectives import OBJECTIVES

    assert set(known_names.objectives()) == set(OBJECTIVES)
    assert set(known_names.models()) == set(names())
    assert set(known_names.DATA) == {"digits", *ALIASES}


def test_no_network_is_refused_that_can_be_built() -> None:
    """Names that timm has given up are built still; words of no source are refused early."""
    from timm.models import is_model

    for name in ("tf_efficientnet_b0_ns", "vit_base_patch16_224_in21k", "resnet18.a1_in1k"):
        assert known_names.is_model(name), name
        assert is_model(name.split(".")[0]), "timm still builds it"
    for name in ("mlp_3x2", "torchvision/resnet18", "distill_dropmax", "cifar_wrn_16_2"):
        assert known_names.is_model(name), name
    for name in ("resnet81", "no/such", "torchvision/resnet81", "", "x y"):
        assert not known_names.is_model(name), name


# Completion.


def completed(*words: str) -> list[str]:
    """What a shell is told, in process: words behind `distill`, the last of them begun."""
    from typer.testing import CliRunner

    from distill_cli.cli.app import app

    variables = {
        "_DISTILL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("distill", *words)),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(app, [], prog_name="distill", env=variables)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("student", "--mode", ""), set(choices_of(StudentRecipe.model_fields["mode"].annotation))),
        (("student", "--objective", "dk"), {"dkd"}),
        (("student", "--objective", "kd,dk"), {"kd,dkd"}),
        (("student", "--precision", "b"), {"bf16"}),
        (("student", "--teachers", ""), set()),
        (
            ("teacher", "train", "--model", "cifar_wrn"),
            {f"cifar_wrn_{n}" for n in ("16_1", "16_2", "40_1", "40_2")},
        ),
        (("teacher", "train", "--model", "resnet18"), {"resnet18", "resnet18d"}),
        (("teacher", "train", "--data", "d"), {"digits"}),
        (("teacher", "train", "--device", "cu"), {"cuda"}),
        (("cache-soft-labels", "--codec", "fp"), {"fp32", "fp16"}),
        (("recipes", "show", "digits/t"), {"digits/teacher", "digits/teacher-b"}),
        (("methods", "show", "tf"), {"tfkd-self", "tfkd-reg"}),
        (("evaluate", "--split", ""), {"test", "val"}),
        (("stud",), {"student"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_values_are_completed(words: tuple[str, ...], values: set[str]) -> None:
    assert set(completed(*words)) >= values
    assert all(value.startswith(words[-1]) for value in completed(*words))
    if len(values) < 2:
        assert set(completed(*words)) == values


def test_completion_of_a_wrong_verb_is_silent() -> None:
    assert "student" in completed("studnet", "--mode", "")


def test_completion_imports_no_torch() -> None:
    code = (
        "import sys, os; os.environ.update(_DISTILL_COMPLETE='complete_bash', COMP_CWORD='3', "
        "COMP_WORDS='distill student --model resnet5')\n"
        "from distill_cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'torchvision', 'numpy'} & set(sys.modules)\n"
        "print(*heavy, 'imported')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "resnet50" in done.stdout.split()
    assert done.stdout.splitlines()[-1] == "imported"


# Several processes.


@pytest.mark.parametrize(
    "args",
    [
        ("cache", "import", "votes.csv", "--data", "digits"),
        ("demo",),
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_one_of_several_processes_is_refused(
    args: tuple[str, ...],
    made: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from distill_cli.data.dataset import open_dataset

    digits = open_dataset("digits")
    write(here / "votes.csv", table(digits, voted(digits)))
    before = sorted(here.iterdir())
    for name, value in {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    outcome = distill(*(arg.format(teacher=made.teacher) for arg in args))
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1
    assert "one process" in outcome.err
    assert "WORLD_SIZE=4" in outcome.err
    assert sorted(here.iterdir()) == before


def test_reliability_of_torchrun(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, reliability: Reliability
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    reliability(
        "Usage and recipes",
        "several processes of one command",
        "torchrun --nproc-per-node 4 -m distill_cli demo",
        distill("demo"),
    )


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "many"}]
)
def test_one_process_trains(
    variables: dict[str, str],
    distill: Distill,
    taken: list[TrainRecipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distill(*TRAIN).code == 0
    assert len(taken) == 1


def test_what_only_reads_is_free(
    made: Made, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    assert distill("compare", made.teacher).code == 0
