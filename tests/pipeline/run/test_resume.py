"""Runs that version 0.1.0 began, which noted names of objectives only: fp32 on the CPU.

tests/fixtures/make_begun.py made them, with the code of that version: they were stopped in mid-
training, and `*-end.safetensors` are the weights they ended with when the same code went on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill_cli import __version__, runtime
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import DefaultWeights, ObjectiveInfo
from distill_cli.objectives.dist import Dist
from distill_cli.objectives.hint import Hint
from distill_cli.objectives.tfkd_reg import TeacherFreeRegularisation
from distill_cli.pipeline.run import resume as begun
from distill_cli.recipe import earlier
from distill_cli.training import checkpoint
from tests.conftest import Outcome, on_host
from tests.recipe.test_earlier import BEGUN, THEN

Distill = Callable[..., Outcome]
Weights = dict[str, torch.Tensor]
VERBS = {"free": ("teacher", "train"), "taught": ("student",)}


@dataclass(frozen=True, kw_only=True)
class OtherDist(Dist):
    info: ClassVar[ObjectiveInfo] = replace(
        Dist.info, default_weights=DefaultWeights(objective=9.0)
    )
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OtherHint(Hint):
    info: ClassVar[ObjectiveInfo] = replace(
        Hint.info, default_weights=DefaultWeights(objective=2.0)
    )
    later: float = 3.0


@dataclass(frozen=True, kw_only=True)
class OtherFree(TeacherFreeRegularisation):
    info: ClassVar[ObjectiveInfo] = replace(
        TeacherFreeRegularisation.info, default_weights=DefaultWeights(ce=0.1, objective=5.0)
    )
    temperature: float = 2.0
    form: Literal["paper", "release"] = "release"


def entered() -> dict[str, Any]:
    """Today's table, with all that the classes above have otherwise."""
    table = {name: dict(values) for name, values in earlier.EARLIER["0.1.0"].items()}
    for name, keys in {
        "dist": ("weight", "temperature"),
        "hint": ("weight",),
        "tfkd-reg": ("weight", "hard_weight", "temperature", "form"),
    }.items():
        table.setdefault(name, {}).update({key: THEN[name][key] for key in keys})
    table["hint"]["later"] = 0.0
    return {**earlier.EARLIER, "0.1.0": table}


@pytest.fixture
def begun_here(here: Path) -> Path:
    """A copy of the runs, in the working folder."""
    shutil.copytree(BEGUN, here, dirs_exist_ok=True)
    return here


@pytest.fixture(params=["as they are", "changed"])
def defaults(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Today's defaults, or others that were entered in the table."""
    if request.param == "changed":
        for cls in (OtherDist, OtherHint, OtherFree):
            monkeypatch.setitem(OBJECTIVES, cls.info.name, cls)
        monkeypatch.setattr(earlier, "EARLIER", entered())
    return str(request.param)


def network(run: Path) -> Weights:
    content = torch.load(run / "last/checkpoint.pt", weights_only=True, map_location="cpu")
    weights: Weights = content["parts"]["network"]
    return weights


def distance(one: Weights, other: Weights) -> float:
    """|one − other| / |other| of the tensor that is furthest away."""
    return max(float((one[key] - other[key]).norm() / other[key].norm()) for key in other)


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.parametrize("name", VERBS)
def test_a_run_of_before_goes_on_with_what_its_names_meant_then(
    begun_here: Path, distill: Distill, defaults: str, name: str
) -> None:
    outcome = distill(*VERBS[name], "--resume", "--out", name, "--quiet")
    assert outcome.code == 0, outcome.err
    # Another processor rounds otherwise (5e-5 at most, seen); other defaults end 0.3 away or more.
    assert distance(network(begun_here / name), load_file(f"{name}-end.safetensors")) < 0.01


@pytest.mark.parametrize("name", VERBS)
def test_without_the_table_it_would_have_ended_elsewhere(
    begun_here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for cls in (OtherDist, OtherHint, OtherFree):
        monkeypatch.setitem(OBJECTIVES, cls.info.name, cls)
    # Hints keep their regressor: one of another shape could not be gone on with at all.
    kept = ("normalised", "gradient_scale")
    regressor = {key: earlier.EARLIER["0.1.0"]["hint"][key] for key in kept}
    monkeypatch.setattr(earlier, "EARLIER", {"0.1.0": {"hint": regressor}})
    outcome = distill(*VERBS[name], "--resume", "--out", name, "--quiet")
    assert outcome.code == 0, outcome.err
    assert distance(network(begun_here / name), load_file(f"{name}-end.safetensors")) > 0.1


@pytest.mark.parametrize("defaults", ["changed"], indirect=True)
@pytest.mark.parametrize("name", VERBS)
def test_names_go_on_to_the_bits_of_the_values_that_they_meant(
    begun_here: Path, distill: Distill, defaults: str, name: str
) -> None:
    shutil.copytree(begun_here / name, begun_here / "named")
    kept = yaml.safe_load((begun_here / name / "recipe.yaml").read_text())
    names = kept["objective"].split(",")
    listed = [
        {
            "name": each,
            "weight": 0.9 if (name, each) == ("free", "ce") else THEN[each]["weight"],
            **{k: v for k, v in THEN[each].items() if k not in ("weight", "hard_weight")},
            **earlier.parameters_then("0.1.0", {"name": each}),
        }
        for each in ("ce", *names)
    ]
    explicit = {key: value for key, value in kept.items() if key != "recorded"}
    (begun_here / "explicit.yaml").write_text(yaml.safe_dump({**explicit, "objective": listed}))
    verb = VERBS[name]
    for out, more in (("named", ()), (name, ("--recipe", "explicit.yaml"))):
        outcome = distill(*verb, "--resume", "--out", out, "--quiet", *more)
        assert outcome.code == 0, outcome.err
    assert equal(network(begun_here / "named"), network(begun_here / name))
    said = yaml.safe_load((begun_here / "named/recipe.yaml").read_text())
    assert {entry["name"]: entry["weight"] for entry in said["objective"]} == {
        entry["name"]: entry["weight"] for entry in listed
    }


@pytest.mark.parametrize("defaults", ["changed"], indirect=True)
def test_it_notes_all_values_and_goes_on_again(
    begun_here: Path, distill: Distill, defaults: str
) -> None:
    train = (*VERBS["free"], "--resume", "--out", "free", "--quiet")
    assert distill(*train).code == 0
    said = yaml.safe_load(Path("free/recipe.yaml").read_text())
    [hard, soft] = said["objective"]
    assert hard == {"name": "ce", "weight": 0.9, "schedule": "constant"}
    assert (soft["name"], soft["weight"], soft["schedule"]) == ("tfkd-reg", 0.1, "constant")
    assert (soft["correct_prob"], soft["temperature"], soft["form"]) == (0.99, 20.0, "paper")
    assert said["recorded"]["defaults"] == "0.1.0"
    assert said["recorded"]["asked"] == {"objective": "tfkd-reg"}
    before = network(begun_here / "free")
    # The command that began it, typed again, still means what it meant then.
    assert distill(*train, "--objective", "tfkd-reg").code == 0
    assert equal(network(begun_here / "free"), before)
    refused = distill(*train, "--objective", "tfkd-reg", "--label-smoothing", 0.1)
    assert refused.code == 3
    assert "another recipe" in refused.err


def test_killed_before_its_recipe_is_written_anew_it_goes_on(
    begun_here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = (*VERBS["free"], "--resume", "--out", "free", "--quiet")
    rename = checkpoint.rename

    def killed(run: Path, key: str) -> None:
        rename(run, key)
        raise KeyboardInterrupt

    monkeypatch.setattr(begun.checkpoint, "rename", killed)
    assert distill(*train).code != 0
    assert yaml.safe_load(Path("free/recipe.yaml").read_text())["objective"] == "tfkd-reg"
    monkeypatch.setattr(begun.checkpoint, "rename", rename)
    assert distill(*train).code == 0
    assert distance(network(begun_here / "free"), load_file("free-end.safetensors")) < 0.01


@pytest.mark.parametrize("change", [("--lr", 0.3), ("--set", "objective=[{name: ce}]")])
def test_another_recipe_is_refused_and_harms_nothing(
    begun_here: Path, distill: Distill, change: tuple[object, ...]
) -> None:
    before = {path: path.read_bytes() for path in Path("free").rglob("*") if path.is_file()}
    outcome = distill(*VERBS["free"], "--resume", "--out", "free", "--quiet", *change)
    assert outcome.code == 3
    assert "another recipe" in outcome.err
    assert {path: path.read_bytes() for path in before} == before


@on_host
def test_every_stage_of_a_chain_has_the_defaults_that_it_began_with(
    begun_here: Path, distill: Distill, defaults: str
) -> None:
    again = ("--generations", 2, "--objective", "dist")
    outcome = distill("student", "--resume", "--out", "chain", "--quiet", *again)
    assert outcome.code == 0, outcome.err
    for run in ("chain/stages/generation-1", "chain"):
        said = yaml.safe_load(Path(run, "recipe.yaml").read_text())
        [hard, soft] = said["objective"]
        assert (hard["name"], hard["weight"]) == ("ce", 1.0)
        assert (soft["name"], soft["weight"], soft["temperature"]) == ("dist", 1.0, 4.0)
    assert distance(network(begun_here / "chain"), load_file("chain-end.safetensors")) < 0.01
    all_of_it = yaml.safe_load(Path("chain/stages.yaml").read_text())
    assert all_of_it["objective"] == "dist"
    assert all_of_it["recorded"]["defaults"] == "0.1.0"


def test_it_teaches_is_evaluated_and_shown(begun_here: Path, distill: Distill) -> None:
    assert distill("evaluate", "teacher", "--json").code == 0
    assert distill("predict", "teacher", "--help").code == 0
    assert distill("report", "teacher").code == 0
    assert "ce weight=1 schedule=constant" in Path("teacher/report.html").read_text()
    taught = ("student", "--teachers", "teacher", "--model", "mlp_8x1", "--epochs", 1)
    assert distill(*taught, "--out", "new", "--quiet").code == 0


def test_runs_of_other_defaults_are_never_one_group(
    begun_here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distill(*VERBS["free"], "--resume", "--out", "free", "--quiet").code == 0
    shutil.copytree("free", "first")
    # As it was before it noted more than a name.
    shutil.copy(BEGUN / "free/recipe.yaml", "first/recipe.yaml")
    same = ("--recipe", "free/recipe.yaml", "--quiet")
    assert distill(*VERBS["free"], *same, "--seed", 1, "--out", "second").code == 0
    monkeypatch.setitem(OBJECTIVES, "tfkd-reg", OtherFree)
    monkeypatch.setattr(earlier, "EARLIER", entered())
    now = (*same, "--objective", "tfkd-reg", "--seed", 2, "--out", "third")
    assert distill(*VERBS["free"], *now).code == 0
    outcome = distill("compare", "first", "second", "third", "--json")
    old, new = json.loads(outcome.out)
    assert (old["runs"], new["runs"]) == (["first", "second"], ["third"])
    assert old["label"] != new["label"]
    assert "tfkd-reg.temperature=20" in old["label"]
    assert "tfkd-reg.temperature=2 " in new["label"]


def test_the_version_that_is_noted_is_that_of_the_code() -> None:
    assert runtime.versions()["distill-cli"] == __version__


def test_images_are_normalised_as_they_were(begun_here: Path, distill: Distill) -> None:
    config = begun_here / "free/model/config.json"
    kept = json.loads(config.read_text())
    kept["distill"]["mean"] = [0.25]
    config.write_text(json.dumps(kept))
    outcome = distill(*VERBS["free"], "--resume", "--out", "free", "--quiet")
    assert outcome.code == 0, outcome.err
    assert json.loads(config.read_text())["distill"]["mean"] == [0.25]
    assert distance(network(begun_here / "free"), load_file("free-end.safetensors")) > 0.01


def test_a_run_of_another_formula_is_not_gone_on_with(
    begun_here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "OTHER_FORMULAS", {"0.1.0": {"tfkd-reg": {"form": "paper"}}})
    before = network(begun_here / "free")
    refused = distill(*VERBS["free"], "--resume", "--out", "free", "--quiet")
    assert refused.code == 3
    assert "version 0.1.0" in refused.err
    assert "tfkd-reg, form: paper" in refused.err
    assert equal(network(begun_here / "free"), before)


def test_what_is_begun_anew_from_its_recipe_is_of_the_formula_of_today(
    begun_here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, and is never grouped with the run whose recipe it has."""
    assert distill(*VERBS["free"], "--resume", "--out", "free", "--quiet").code == 0
    shutil.copy(BEGUN / "free/recipe.yaml", "free/recipe.yaml")
    again = ("--recipe", "free/recipe.yaml", "--seed", 1, "--out", "anew", "--quiet")
    assert distill(*VERBS["free"], *again).code == 0
    one_group = json.loads(distill("compare", "free", "anew", "--json").out)
    assert [group["runs"] for group in one_group] == [["free", "anew"]]
    monkeypatch.setattr(earlier, "OTHER_FORMULAS", {"0.1.0": {"tfkd-reg": {"form": "paper"}}})
    old, new = json.loads(distill("compare", "free", "anew", "--json").out)
    assert (old["runs"], new["runs"]) == (["free"], ["anew"])
    assert "tfkd-reg.formula=0.1.0" in old["label"]
    resumed = distill(*VERBS["free"], *again, "--resume")
    assert resumed.code == 0, resumed.err
