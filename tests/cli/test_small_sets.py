"""Few images: the batch that goes by them, and what to try where a network has learnt nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from distill_cli.models import load_model, save_model
from distill_cli.pipeline.inputs.remedies import listed, remedies
from distill_cli.pipeline.inputs.student import Architecture, advised
from distill_cli.recipe.schema import TeacherRecipe
from tests.conftest import Made, Outcome, on_host
from tests.data.pictures import LEFT, TOP, picture
from tests.models.test_build import offer
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--data", "digits", "--model", "mlp_4x1", "--epochs", 1)
DIGITS = "batch 64 for 1,295 images: 20 steps an epoch; --batch-size says otherwise"


def recipe_of(run: Path) -> dict[str, object]:
    return yaml.safe_load((run / "recipe.yaml").read_text())


def said(outcome: Outcome) -> str:
    return " ".join(outcome.err.split())


def error(outcome: Outcome) -> str:
    return next(line for line in outcome.err.splitlines() if line.startswith("error: "))


def photographs(folder: Path, count: int, *, side: int = 8) -> Path:
    """`count` pictures of two classes to train on, and a few to test on."""
    for split, rows in (("train", count // 2), ("test", 4)):
        for name in (LEFT, TOP):
            for number in range(rows):
                path = folder / split / name / f"{number:03}.png"
                picture(path, [name], seed=1000 * len(split) + number, side=side)
    return folder


def test_the_batch_goes_by_the_number_of_images(here: Path, distill: Distill) -> None:
    """Three hundred photographs were two steps an epoch."""
    photographs(here / "data", 100)
    shown = distill("teacher", "train", "--data", "data", *TRAIN[4:], "--out", "few")
    assert shown.code == 0, shown.err
    assert "batch 8 for 90 images: 11 steps an epoch" in said(shown)
    shown = distill(*TRAIN, "--out", "d")
    assert DIGITS in said(shown)
    kept = {name: recipe_of(here / name) for name in ("few", "d")}
    assert {name: (kept[name]["batch_size"], kept[name]["lr"]) for name in kept} == {
        "few": (8, pytest.approx(0.1 * 8 / 256)),
        "d": (64, pytest.approx(0.1 * 64 / 256)),
    }
    # A student, too; whoever says nothing else goes by its own images.
    shown = distill("student", "--teachers", "d", *TRAIN[4:], "--force", "--out", "s")
    assert shown.code == 0, shown.err
    assert DIGITS in said(shown)
    assert recipe_of(here / "s")["batch_size"] == 64


@pytest.mark.parametrize("by", ["flag", "set", "recipe", "environment"])
def test_a_batch_that_is_asked_for_is_taken(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    (here / "r.yaml").write_text("batch_size: 128\n")
    given = {"flag": ("-b", 128), "set": ("--set", "batch_size=128"), "recipe": ("-r", "r.yaml")}
    if by == "environment":
        monkeypatch.setenv("DISTILL_BATCH_SIZE", "128")
    outcome = distill(*TRAIN, *given.get(by, ()), "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["batch_size"] == 128
    assert "steps an epoch;" not in said(outcome)


@pytest.mark.slow
@on_host
def test_a_run_goes_on_with_the_batch_that_it_began_with(here: Path, distill: Distill) -> None:
    (here / "r.yaml").write_text("data: digits\nmodel: mlp_4x1\nepochs: 1\n")
    begin = ("teacher", "train", "-r", "r.yaml", "--quiet", "--out", "t")
    assert distill(*begin).code == 0
    for again in (("teacher", "train", "--out", "t", "--quiet"), begin):
        outcome = distill(*again, "--resume")
        assert outcome.code == 0, outcome.err
        assert recipe_of(here / "t")["batch_size"] == 64
    refused = distill(*begin, "--resume", "-b", 128)
    assert refused.code == 3
    assert "batch_size" in error(refused)


@pytest.mark.slow
@pytest.mark.parametrize("several", [("--generations", 2), ("--seeds", 2)], ids=["stages", "seeds"])
def test_several_runs_of_an_earlier_version_go_on_by_their_recipe(
    made: Made, here: Path, distill: Distill, several: tuple[object, ...]
) -> None:
    """Their batch was 128 where the recipe that is given again says nothing."""
    (here / "r.yaml").write_text(f"teachers: {made.teacher}\nmodel: mlp_4x1\nepochs: 1\n")
    begin = ("student", "-r", "r.yaml", *several, "--force", "--quiet", "--out", "s")
    assert distill(*begin, "-b", 128).code == 0
    # As 0.4.0 left them: every value written, the batch among them.
    for path in here.rglob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        if "recorded" in values:
            values["recorded"]["defaults"] = "0.4.0"
            path.write_text(yaml.safe_dump(values))
    outcome = distill(*begin, "--resume")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("verb", [("teacher", "train"), ("student",), ("cache-soft-labels",)])
def test_the_size_of_views_is_in_the_short_help(distill: Distill, verb: tuple[str, ...]) -> None:
    assert "--size" in distill(*verb, "--help").out


@pytest.fixture
def ignorant(made: Made, here: Path) -> Path:
    """A teacher that names the first class always."""
    shutil.copytree(made.teacher, here / "t")
    network = load_model(here / "t")
    for parameter in network.net.parameters():
        parameter.data.zero_()
    save_model(network, here / "t/model")
    return here / "t"


@pytest.mark.slow
def test_before_force(
    ignorant: Path, here: Path, distill: Distill, reliability: Reliability
) -> None:
    """The refusal named --force alone, which nobody should try first."""
    kept = recipe_of(ignorant)
    kept |= {"epochs": 2, "batch_size": 128}
    (ignorant / "recipe.yaml").write_text(yaml.safe_dump(kept))
    student = ("student", "--model", "mlp_4x1", "--epochs", 1, "--quiet", "--out", "s")
    dump = ("cache-soft-labels", "--teachers", "t", "--augment", "none", "--quiet", "--out", "c")
    tries = (
        "Train it anew, with more --epochs (it had 2 epochs of 10 steps), --batch-size 64 (it had 128) "
        "or another --lr; --force goes on nevertheless"
    )
    hints = ("hint-init", *student[1:])
    for command in ((*student, "--teachers", "t"), (*hints, "--teachers", "t"), dump):
        refused = distill(*command)
        assert (refused.code, error(refused).endswith(tries)) == (3, True), refused.err
    reliability(
        *("Models and checkpoints", "a teacher that is no better than chance"),
        *("distill cache-soft-labels --teachers t", refused),
    )
    assert distill(*dump, "--force").code == 0
    refused = distill(*student, "--teachers", "c")
    assert refused.code == 3
    again = "Train its teacher anew, with more --epochs, and dump it again; --force goes on nevertheless"
    assert error(refused).endswith(again)
    reliability(
        "Caches",
        "a cache of a teacher that is no better than chance",
        "distill student --teachers c",
        refused,
    )


@pytest.mark.slow
def test_a_copy_that_knows_nothing_can_be_learnt_from(here: Path, distill: Distill) -> None:
    """tfkd-self trains a copy first; `teacher train` had not the --force that its refusal named."""
    train = (*TRAIN, "--objective", "tfkd-self", "--lr", 1e-9, "--quiet", "--out", "t")
    refused = distill(*train)
    assert refused.code == 3, refused.err
    assert "more --epochs (it had 1 epoch of 20 steps)" in error(refused)
    assert error(refused).endswith("--force goes on nevertheless")
    outcome = distill(*train, "--resume", "--force")
    assert outcome.code == 0, outcome.err
    warned = json.loads((here / "t/result.json").read_text())["warnings"][-1]
    assert "Try more --epochs (it had 1 epoch of 20 steps), --set clip_grad=1 or another" in warned


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's weights of test_resnet, on this machine."""
    torch.manual_seed(3)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    offer(monkeypatch, tmp_path / "weights.safetensors")


@pytest.mark.usefixtures("published")
def test_weights_that_are_at_hand_are_advised(here: Path, distill: Distill) -> None:
    photographs(here / "data", 40)
    train = ("teacher", "train", "--data", "data", "--epochs", 1, "-j", 0, "--model")
    advice = (
        "36 images to train on, and timm's weights of test_resnet are on this machine: --pretrained "
        "starts from them"
    )
    outcome = distill(*train, "test_resnet", "--lr", 1e-9)
    assert outcome.code == 0, outcome.err
    assert advice in said(outcome)
    few, model = TeacherRecipe(), Architecture("test_resnet", {})
    assert advised(few, model, 36) == advice
    assert advised(few, model, 2559) is not None
    assert advised(few, model, 2560) is None
    assert advised(TeacherRecipe(pretrained=True), model, 36) is None
    assert advised(TeacherRecipe(init="runs/a"), model, 36) is None
    for other in ("resnet18", "mlp_4x1", "torchvision/resnet18"):
        assert advised(few, Architecture(other, {}), 36) is None


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("recipe", "side", "rows", "tries"),
    [
        (
            {"epochs": 30, "batch_size": 128},
            224,
            259,
            "more --epochs (it had 30 epochs of 2 steps), --batch-size 8 (it had 128), --pretrained "
            "(timm's weights of test_resnet are on this machine) or --size 64 (its views are 224 pixels)",
        ),
        ({"epochs": 90, "batch_size": 8, "pretrained": True}, 224, 259, ""),
        ({"epochs": 90, "batch_size": 8, "init": "runs/a"}, 32, 259, ""),
        (
            {"epochs": 3, "batch_size": 128, "pretrained": True},
            28,
            5000,
            "more --epochs (it had 3 epochs of 39 steps)",
        ),
        (
            {},
            64,
            None,
            "more --epochs or --pretrained (timm's weights of test_resnet are on this machine)",
        ),
    ],
)
def test_what_to_try_fits_the_training(
    recipe: dict[str, object], side: int, rows: int | None, tries: str
) -> None:
    assert listed(remedies(recipe, architecture="test_resnet", side=side, rows=rows)) == tries
