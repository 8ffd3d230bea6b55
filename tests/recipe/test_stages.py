"""Students after each other: what the runs are, and that a chain goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill_cli import stopping
from distill_cli.errors import UsageError
from distill_cli.recipe.load import load
from distill_cli.recipe.schema import HintRecipe, StudentRecipe, TeacherRecipe
from distill_cli.recipe.stages import Stage, fitnets, is_several, stages_of
from tests.conftest import Made, Outcome
from tests.saved import same

Distill = Callable[..., Outcome]
OUT = Path("runs/x")
# Small batches: one epoch is enough to be a teacher, whatever the rounding.
TINY = ("--model", "mlp_8x1", "--epochs", 1, "-b", 16, "--lr", 0.1, "--quiet")


def recipe(**flags: Any) -> StudentRecipe:
    return load(StudentRecipe, flags={"teachers": "a,b", **flags}, environment={})


def stages(**flags: Any) -> list[Stage]:
    return stages_of(recipe(**flags), OUT)


def test_one_run_is_not_several() -> None:
    assert not is_several(recipe())
    assert not is_several(recipe(generations=1))
    assert is_several(recipe(generations=2))
    assert is_several(recipe(hints=True))
    assert is_several(recipe(stages=[{"name": "a"}]))


def test_generations() -> None:
    made = stages(
        generations=3,
        mode="random",
        random_per="sample",
        teacher_weights="1,2",
        class_map="by-name",
        teacher_precision="fp64",
        seed=5,
        lr=0.3,
        require=["test_top1>=0.9"],
    )
    assert [stage.name for stage in made] == ["generation-1", "generation-2", "generation-3"]
    folders = [OUT / "stages/generation-1", OUT / "stages/generation-2", OUT]
    assert [stage.out for stage in made] == folders
    teachers = [["a", "b"], [str(folders[0])], [str(folders[1])]]
    assert [stage.recipe.teachers for stage in made] == teachers
    assert [stage.recipe.seed for stage in made] == [5, 6, 7]
    assert [stage.recipe.mode for stage in made] == ["random", None, None]
    assert [stage.recipe.random_per for stage in made] == ["sample", None, None]
    assert [stage.recipe.teacher_weights for stage in made] == [[1, 2], None, None]
    assert [stage.recipe.class_map for stage in made] == [["by-name"], None, None]
    assert [len(stage.recipe.require) for stage in made] == [0, 0, 1]
    assert {stage.recipe.lr for stage in made} == {0.3}
    assert not any(is_several(stage.recipe) for stage in made)


def test_later_generations_have_the_views_of_the_one_before() -> None:
    """Which those are, the run says: a cache may have brought its own."""
    made = stages(generations=3, seed=5)
    assert [stage.recipe.view_seed for stage in made] == [None] * 3
    assert [stage.like for stage in made] == [None, str(made[0].out), str(made[1].out)]
    assert [s.recipe.view_seed for s in stages(generations=2, view_seed=2)] == [2, 2]


def test_hints() -> None:
    first, second = stages(
        teachers="a", hints=True, epochs=10, hint_layer="layer2", dropout=0.1, require=["params<9"]
    )
    assert isinstance(first.recipe, HintRecipe)
    assert isinstance(second.recipe, StudentRecipe)
    assert (first.out, second.out) == (OUT / "stages/hints", OUT)
    assert first.recipe.epochs == 3
    assert second.recipe.epochs == 10
    assert first.recipe.hint_layer == "layer2"
    assert second.recipe.hint_layer is None
    assert second.recipe.init == str(first.out)
    assert second.recipe.objective == fitnets()
    assert second.recipe.dropout == first.recipe.dropout == 0.1
    assert second.recipe.require
    assert not is_several(second.recipe)
    assert stages(teachers="a", hints=True, epochs=10, hint_epochs=7)[0].recipe.epochs == 7
    assert stages(teachers="a", hints=True, epochs=2)[0].recipe.epochs == 1


def test_what_is_said_of_the_loss_changes_that_of_the_paper() -> None:
    tempered = stages(teachers="a", hints=True, temperature=2)[1].recipe
    assert tempered.objective == fitnets(2)
    assert tempered.temperature is None
    [hard, soft] = stages(teachers="a", hints=True, label_smoothing=0.1)[1].recipe.objective
    assert hard == {"name": "label-smoothing", "epsilon": 0.1}
    assert soft == fitnets()[1]
    # λ falls from 4 to 1, and T² stands before our divergence.
    assert [soft[key] * 3**2 for key in ("weight", "weight_end")] == pytest.approx([4, 1])
    weighed = stages(teachers="a", hints=True, alpha=0.5)[1].recipe
    assert (weighed.objective, weighed.alpha) == ("kd", 0.5)
    assert stages(teachers="a", hints=True, objective="dkd")[1].recipe.objective == "dkd"


def test_pretrained_hints_are_not_loaded_again() -> None:
    first, second = stages(teachers="a", hints=True, pretrained=True, model="resnet18")
    assert first.recipe.pretrained
    assert not second.recipe.pretrained


def test_listed() -> None:
    made = stages(
        lr=0.3,
        epochs=9,
        stages=[
            {"name": "warm", "command": "hint-init", "epochs": 2, "hint-layer": "x"},
            {"name": "t", "command": "teacher train", "data": "digits", "init": "stage:warm"},
            {"name": "last", "teachers": "stage:t,c", "init": "stage:warm", "lr": 0.1},
        ],
    )
    assert [stage.out for stage in made] == [OUT / "stages/warm", OUT / "stages/t", OUT]
    warm, teacher, last = (stage.recipe for stage in made)
    assert isinstance(warm, HintRecipe)
    assert isinstance(teacher, TeacherRecipe)
    assert isinstance(last, StudentRecipe)
    assert (warm.epochs, warm.lr, warm.hint_layer) == (2, 0.3, "x")
    assert warm.teachers == ["a", "b"]
    assert teacher.init == last.init == str(made[0].out)
    assert last.teachers == [str(made[1].out), "c"]
    assert (last.epochs, last.lr) == (9, 0.1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"stages": [{"name": "a", "init": "stage:b"}, {"name": "b"}]}, "no earlier stage 'b'"),
        ({"stages": [{"name": "a", "teachers": "stage:a"}]}, "no earlier stage 'a'"),
        ({"stages": [{"name": "one"}, {"name": "b", "init": "stage:on"}]}, "'one'"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "two stages are called 'a'"),
        ({"stages": [{"epochs": 2}]}, "stage 1 needs a name"),
        ({"stages": [{"name": "../x"}]}, "stage 1 needs a name"),
        ({"stages": [{"name": ".."}]}, "stage 1 needs a name"),
        ({"stages": [{"name": "a", "epocs": 2}]}, "'epochs'"),
        ({"stages": [{"name": "a", "epochs": 0}]}, "epochs"),
        ({"stages": [{"name": "a", "out": "x"}]}, "no key 'out'"),
        ({"stages": [{"name": "a", "hints": True}]}, "no key 'hints'"),
        ({"stages": [{"name": "a", "stages": []}]}, "no key 'stages'"),
        ({"stages": [{"name": "a", "command": "cache import"}]}, "command 'cache import'"),
        ({"stages": [{"name": "a", "command": "hint-init", "alpha": 1}]}, "no key 'alpha'"),
        ({"hints": True, "generations": 2}, "cannot be combined"),
        ({"hints": True, "stages": [{"name": "a"}]}, "cannot be combined"),
        ({"generations": 2, "stages": [{"name": "a"}]}, "cannot be combined"),
        ({"generations": 2, "hint_epochs": 2}, "hint_epochs is of --hints"),
        ({"generations": 2, "hint_layer": "x"}, "hint_layer is of --hints"),
    ],
)
def test_refusals(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        stages(**flags)
    assert said in str(raised.value)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_generations_are_the_runs_that_one_would_make(
    made: Made, here: Path, distill: Distill
) -> None:
    args = ("student", *TINY, "--seed", 3)
    outcome = distill(*args, "--teachers", made.teacher, "--generations", 2, "--out", "s")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "s"
    assert distill(*args, "--teachers", made.teacher, "--out", "one").code == 0
    second = ("--seed", 4, "--set", "view_seed=3")
    assert distill("student", *TINY, *second, "--teachers", "one", "--out", "two").code == 0
    assert same(here / "one", here / "s/stages/generation-1")
    assert same(here / "two", here / "s")
    kept = yaml.safe_load((here / "s/recipe.yaml").read_text())
    assert kept["teachers"] == ["s/stages/generation-1"]
    assert kept["generations"] is None
    # Earlier stages are runs like any other.
    compared = distill("compare", "s", "s/stages/generation-1", made.teacher)
    assert compared.code == 0, compared.err


CHAIN = """
stages:
  - {name: first, epochs: 2}
  - {name: second, teachers: "stage:first", init: "stage:first", seed: 1, epochs: 2}
"""


@pytest.mark.slow
def test_a_chain_that_stopped_goes_on_to_the_same_bits(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "r.yaml").write_text(CHAIN)
    args = ("student", "-r", "r.yaml", "--teachers", made.teacher, "--model", "mlp_8x1")
    # Small batches, so that the first stage's student knows enough to be the second's teacher.
    args = (*args, "--dropout", 0.2, "-b", 16, "--lr", 0.1, "--quiet", "--out")
    outcome = distill(*args, "whole")
    assert outcome.code == 0, outcome.err
    plain, looks = stopping.StopRequest, [0]

    class AfterSteps(plain):
        """Asks to stop in the second run, in its second epoch: of 80 steps, each with a look."""

        @property
        def signal_number(self) -> int | None:
            looks[0] += 1
            return signal.SIGTERM if looks[0] > 2 * 80 + 80 + 20 else None

        @signal_number.setter
        def signal_number(self, value: int | None) -> None:
            pass

    monkeypatch.setattr(stopping, "StopRequest", AfterSteps)
    stopped = distill(*args, "run")
    monkeypatch.setattr(stopping, "StopRequest", plain)
    assert stopped.code == 143, stopped.err
    assert (here / "run/stages/first/result.json").exists()
    state = torch.load(here / "run/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "state"
    ]
    assert state["step"] > 0
    before, first = contents(here / "run"), contents(here / "run/stages/first")
    for changed in (("--lr", 0.5), ("--teachers", made.other), ("--seed", 9)):
        refused = distill("student", "--resume", "--out", "run", "--quiet", *changed)
        assert refused.code == 3, (changed, refused.err)
        assert "another recipe" in refused.err
        assert contents(here / "run") == before, changed
    outcome = distill("student", "--resume", "--out", "run")
    assert outcome.code == 0, outcome.err
    assert "stage 1 of 2, first: done before" in outcome.err
    assert contents(here / "run/stages/first") == first, "it was not run again"
    assert same(here / "whole", here / "run")
    # Resumed once more there is nothing to do.
    assert distill("student", "--resume", "--out", "run", "--quiet").code == 0
    assert same(here / "whole", here / "run")
    # It is not overwritten unasked, and as a whole if asked.
    assert distill(*args, "run").code == 2
    (here / "run/notes.txt").write_text("mine")
    plainly = ("student", "--teachers", made.teacher, "--out", "run", *TINY)
    outcome = distill(*plainly, "--generations", 2, "--overwrite")
    assert outcome.code == 0, outcome.err
    assert sorted(p.name for p in (here / "run/stages").iterdir() if p.is_dir()) == ["generation-1"]
    assert (here / "run/notes.txt").read_text() == "mine"
    assert len((here / "run/summary.csv").read_text().splitlines()) == 2
    # By one run, no stage is left.
    assert distill(*plainly, "--overwrite").code == 0
    assert not (here / "run/stages.yaml").exists()
    assert not (here / "run/stages").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--hints", "--objective", "dkdd"), "'dkd'"),
        (("--hints", "--objective", "ce"), "teacher"),
        (("--generations", 2, "--opt", "sgdd"), "sgd"),
        (("--hints", "--alpha-end", 0.5, "--schedule", "constant"), "contradicts"),
        (("--hints", "--generations", 2), "cannot be combined"),
    ],
)
def test_what_is_wrong_with_a_later_stage_is_said_at_once(
    made: Made, here: Path, distill: Distill, args: tuple[object, ...], said: str
) -> None:
    outcome = distill("student", "--teachers", made.teacher, *TINY, *args, "--out", "s")
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert not list(here.iterdir()), "nothing was written"


def test_a_dry_run_shows_the_recipe(made: Made, here: Path, distill: Distill) -> None:
    args = ("student", "--teachers", made.teacher, "--generations", 3, "--dry-run", "--json")
    assert json.loads(distill(*args).out)["generations"] == 3
    assert not list(here.iterdir())


def test_a_chain_does_not_write_over_what_it_learns_from(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.teacher, here / "x")
    before = sorted(path.name for path in (here / "x").iterdir())
    small = ("--model", "mlp_8x1", "--epochs", 1, "--quiet", "--overwrite")
    for flags in (("--generations", 2), ("--hints",)):
        for inside in ("x", "x/model"):
            outcome = distill("student", "--teachers", inside, "--out", "x", *flags, *small)
            assert outcome.code == 2, outcome.err
            assert "learnt from" in outcome.err or "holds a model" in outcome.err
        assert sorted(path.name for path in (here / "x").iterdir()) == before


def test_a_refused_chain_leaves_the_run_that_it_would_replace(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.student, here / "x")
    before = sorted(path.name for path in (here / "x").iterdir())
    small = ("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    several = ("--generations", 2, "--out", "x")
    assert distill(*small, *several, "--overwrite", "--data", "nosuch").code == 2
    assert distill(*small, *several, "--resume").code == 2
    assert sorted(path.name for path in (here / "x").iterdir()) == before
    (here / "empty").mkdir()
    assert distill(*small, "--generations", 2, "--out", "empty", "--data", "nosuch").code == 2
    assert not list((here / "empty").iterdir())
