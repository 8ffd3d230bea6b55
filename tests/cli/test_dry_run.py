"""`--dry-run`: it refuses what the run refuses, in the same words, and leaves no trace."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from distill_cli.data import reading
from distill_cli.data.loader import Loader
from distill_cli.pipeline.inputs import teacher_checks as guards
from distill_cli.pipeline.run.dry_run import rehearse
from distill_cli.pipeline.run.speed import Speed, seconds_of
from distill_cli.recipe.label_options import LabelOptions
from distill_cli.recipe.load import load
from distill_cli.recipe.network_options import NetworkOptions
from distill_cli.recipe.objective_options import ObjectiveValues
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe
from distill_cli.training.events import Silent
from tests.conftest import Made, Outcome, invoke, tree
from tests.data.pictures import halves

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--data", "digits", "--epochs", 1)
ALONE = ("student", "--epochs", 1)
STUDENT = ("student", "--teachers", "{a}", "--epochs", 1)
DUMP = ("cache-soft-labels", "--teachers", "{a}", "--augment", "shift:1")


def pictures(root: Path, classes: str = "xy", side: int = 8, count: int = 12) -> Path:
    """Class folders of noise."""
    generator = np.random.default_rng(0)
    for split, images in (("train", count), ("test", 2)):
        for name in classes:
            for number in range(images):
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return root


@dataclass(frozen=True)
class Shelf:
    """What the commands below speak of by name; never written again."""

    root: Path
    names: dict[str, str]

    def args(self, args: tuple[object, ...]) -> list[str]:
        return [str(arg).format(**self.names) for arg in args]


@pytest.fixture(scope="module")
def shelf(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    root = tmp_path_factory.mktemp("shelf")
    names = {"a": made.teacher, "b": made.other, "cache": made.labels / "a", "caches": made.labels}
    names |= {name: root / name for name in ("images", "large", "halves", "sigmoid", "topk", "bad")}
    pictures(root / "images")
    pictures(root / "large", side=140)
    names["halves"] = halves(root / "halves", 60)
    quiet = ("--epochs", 1, "--quiet")
    for args in (
        ("teacher", "train", "--data", names["halves"], "--out", names["sigmoid"], *quiet),
        (
            *("cache-soft-labels", "--teachers", made.teacher, "--codec", "topk:3", "--quiet"),
            *("--augment", "shift:1", "--out", names["topk"]),
        ),
    ):
        outcome = invoke(*args)
        assert outcome.code == 0, outcome.err
    shutil.copytree(made.teacher, names["bad"])
    weights = Path(names["bad"]) / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    shutil.copytree(made.teacher, root / "other")
    tensors = load_file(root / "other/model/model.safetensors")
    tensors["fc.bias"] = tensors["fc.bias"][:9].clone()
    save_file(tensors, root / "other/model/model.safetensors")
    names["other"] = root / "other"
    (root / "map.yaml").write_text("'0': 17\n")
    (root / "groups.yaml").write_text("g: ['0', 'eleven']\n")
    (root / "votes.csv").write_text("sample,0,1\nindex:0,1,0\n")
    (root / "stages.yaml").write_text(
        "command: student\nstages:\n- {name: one, epochs: 1}\n"
        "- {name: two, teachers: 'stage:one', objective: hint, guided_layer: nowhere}\n"
    )
    for name in ("map", "groups", "votes", "stages"):
        [names[name]] = root.glob(f"{name}.*")
    return Shelf(root, {name: str(path) for name, path in names.items()})


def twice(*values: object) -> Any:
    """A case of a place that another case stands for."""
    return pytest.param(*values, marks=pytest.mark.slow)


# What the run refuses before its first step, by the place where it is found out.
REFUSED: list[Any] = [
    # The objective, whatever the data are.
    ((*TRAIN, "--objective", "nonsense"), 2),
    ((*TRAIN, "--objective", "kd"), 2),
    ((*TRAIN, "--objective", "ce,label-smoothing"), 2),
    ((*TRAIN, "--objective", "selective"), 2),
    ((*TRAIN, "--objective", "grouped-smoothing"), 2),
    ((*TRAIN, "--groups", "words"), 2),
    ((*TRAIN, "--set", "objective=[]"), 2),
    ((*TRAIN, "--set", "objective=[{{name: label-smoothing, epsilon: 7}}]"), 2),
    ((*TRAIN, "--set", "objective=[{{name: label-mix, model: nowhere}}]"), 2),
    ((*STUDENT, "--objective", "kd,kd"), 2),
    ((*STUDENT, "--objective", "ce"), 2),
    ((*STUDENT, "--objective", "dist", "--accumulate", 2), 2),
    ((*STUDENT, "--objective", "hint", "--compile"), 2),
    ((*STUDENT, "--objective", "sigmoid-kd", "--targets", "softmax"), 2),
    ((*STUDENT, "--objective", "ce,kd", "--alpha", 0.5), 2),
    ((*STUDENT, "--hint-layer", "fc"), 2),
    ((*STUDENT, "--objective", "kd,hint", "-b", 1), 2),
    ((*STUDENT, "--hint-epochs", 2), 2),
    # Names, folders and the machine.
    ((*TRAIN, "--augment", "flop"), 2),
    ((*TRAIN, "--opt", "sgdd"), 2),
    ((*TRAIN, "--model", "resnet5000"), 2),
    ((*TRAIN, "--device", "cuda:77"), 2),
    ((*TRAIN, "--out", "{a}"), 2),
    ((*TRAIN, "--out", "{cache}"), 2),
    ((*TRAIN, "--out", "{a}", "--resume", "--overwrite"), 2),
    ((*TRAIN, "--out", "{a}", "--overwrite", "--init", "{a}"), 2),
    ((*TRAIN, "--init", "nowhere"), 2),
    ((*TRAIN, "--init", "{a}", "--pretrained"), 2),
    ((*STUDENT[:2], "nowhere"), 2),
    # The data: their listing, classes and split.
    (("teacher", "train", "--data", "digitz"), 2),
    twice(("teacher", "train", "--data", "{images}/train/x/0.png"), 2),
    (("teacher", "train", "--data", "{images}/train/x"), 3),
    (("teacher", "train", "--data", "{halves}", "--targets", "softmax"), 2),
    twice(("teacher", "train", "--data", "{halves}", "--order", "balanced"), 3),
    twice(("teacher", "train", "--data", "{halves}", "--objective", "d2l"), 2),
    # The network, its views and its arithmetic on these data.
    ((*TRAIN, "--augment", "crop:9"), 2),
    twice((*TRAIN, "--augment", "mixup,shift:1"), 2),
    twice((*TRAIN, "--augment", "v2/RandomCrop:size=3"), 2),
    ((*TRAIN, "--model", "mlp_8x1", "--set", "model_args.depht=3"), 2),
    twice((*TRAIN, "--model", "mlp_8x1", "--pretrained"), 2),
    twice((*TRAIN, "--model", "torchvision/resnet18", "--pretrained"), 2),
    ((*TRAIN, "--init", "{a}", "--model", "mlp_8x1"), 3),
    twice((*TRAIN, "--init", "{a}", "--split-seed", 5), 3),
    twice((*TRAIN, "--init", "{bad}"), 3),
    ((*TRAIN, "--min-lr", 7), 2),
    twice((*TRAIN, "--set", "sched_args.nope=1"), 2),
    twice((*TRAIN, "--accumulate", 200), 2),
    twice((*TRAIN, "--set", "clip_mode=value"), 2),
    twice((*TRAIN, "--order", "balanced", "-b", 2), 2),
    ((*TRAIN, "--objective", "grouped-smoothing", "--groups", "{groups}"), 3),
    twice((*TRAIN, "--objective", "grouped-smoothing", "--groups", "words"), 3),
    ((*TRAIN, "--set", "objective=[{{name: label-mix, model: '{sigmoid}'}}]"), 3),
    # Teachers: their folders, classes, and what they can say.
    twice((*STUDENT[:2], "{images}"), 2),
    ((*STUDENT[:2], "{bad}"), 3),
    twice((*STUDENT[:2], "{other}"), 3),
    twice((*STUDENT, "--data", "{images}"), 3),
    ((*STUDENT, "--split-seed", 7), 3),
    ((*STUDENT, "--class-map", "{map}"), 3),
    twice((*STUDENT, "--class-map", "by-name,by-name"), 2),
    ((*STUDENT, "--targets", "sigmoid"), 3),
    twice((*STUDENT, "--mode", "single", "--teachers", "{a},{b}"), 2),
    twice((*STUDENT, "--teachers", "{a},{b}", "--teacher-weights", "1"), 2),
    ((*STUDENT, "--teachers", "{a},{b}", "--teacher-weights", "0,0"), 2),
    twice((*STUDENT, "--teachers", "{a},{b}", "--objective", "hint"), 2),
    twice((*STUDENT, "--teachers", "{a},{b}", "--objective", "logit-standardisation"), 2),
    twice((*STUDENT, "--random-per", "sample"), 2),
    ((*STUDENT, "--objective", "hint", "--hint-layer", "nowhere"), 2),
    ((*STUDENT, "--teachers", "{cache}", "--objective", "attention"), 3),
    twice((*STUDENT, "--teachers", "{topk}", "--objective", "logit-standardisation"), 3),
    ((*STUDENT, "--teachers", "{cache}", "--augment", "shift:2"), 3),
    twice((*STUDENT, "--teachers", "{cache}", "--data", "{images}"), 3),
    twice((*STUDENT, "--teachers", "{cache}", "--split-seed", 4), 3),
    twice((*STUDENT, "--teachers", "{cache},{topk}", "--class-map", "{map},{map}"), 2),
    twice(("hint-init", "--teachers", "{a},{b}"), 2),
    (("hint-init", "--teachers", "{a}", "--guided-layer", "nowhere"), 2),
    # Several stages.
    ((*STUDENT, "--teachers", "{a},{b}", "--hints"), 2),
    ((*STUDENT, "--hints", "--generations", 2), 2),
    ((*STUDENT, "--generations", 2, "--min-lr", 7), 2),
    twice((*TRAIN, "--objective", "tfkd-self", "--min-lr", 7), 2),
    # Soft labels.
    (("cache-soft-labels", "--teachers", "{cache}"), 2),
    ((*DUMP, "--part", "1/99"), 2),
    ((*DUMP, "--part", "1/2", "--publish"), 2),
    ((*DUMP, "--part", "1/2", "--overwrite"), 2),
    twice((*DUMP, "--data", "{images}"), 3),
    ((*DUMP, "--out", "{cache}", "--codec", "fp16"), 3),
    ((*DUMP, "--out", "{a}"), 2),
    twice((*DUMP[:2], "{bad}"), 3),
    twice(("cache-soft-labels", "--teachers", "{sigmoid}", "--codec", "topk:1", "--force"), 2),
    (("cache", "import", "{votes}", "--data", "digits"), 3),
    (("cache", "import", "{votes}", "--data", "digits", "--augment", "mixup"), 2),
]


@pytest.mark.parametrize(("args", "code"), REFUSED, ids=lambda value: str(value)[:90])
def test_it_refuses_what_the_run_refuses(
    args: tuple[object, ...], code: int, shelf: Shelf, here: Path, distill: Distill
) -> None:
    words = shelf.args(args)
    before = tree(here, shelf.root)
    dry = distill(*words, "--dry-run", "--json", "--quiet")
    assert dry.code == code, dry.err + dry.out
    assert dry.out == ""
    assert tree(here, shelf.root) == before
    run = distill(*words, "--quiet")
    assert (run.code, run.err) == (dry.code, dry.err)


# What the run accepts.
ACCEPTED: list[Any] = [
    (*TRAIN,),
    (*TRAIN, "--objective", "d2l", "--augment", "cutmix", "--accumulate", 2, "--ema", 0.9),
    twice((*TRAIN, "--objective", "dropmax", "--init", "{a}", "--model", "mlp_32x1")),
    twice((*TRAIN, "--set", "objective=[{{name: label-mix, model: '{a}'}}]")),
    twice((*TRAIN, "--order", "balanced", "--model", "cifar_resnet8", "-b", 64)),
    twice(("teacher", "train", "--data", "{images}", "--epochs", 1, "--augment", "randaugment")),
    ("teacher", "train", "--data", "{halves}", "--epochs", 1),
    (
        "teacher",
        "train",
        "--data",
        "{large}",
        "--epochs",
        1,
        "--model",
        "mlp_4x1",
        "--set",
        "workers=0",
    ),
    (*STUDENT,),
    twice((*ALONE, "--objective", "category-structure", "--teachers", "{b}", "--model", "mlp_8x2")),
    twice((*ALONE, "--teachers", "{a},{b}", "--mode", "relabel")),
    (*ALONE, "--teachers", "{caches}", "--mode", "random", "--random-per", "sample"),
    twice((*ALONE, "--teachers", "{topk}", "--init", "{b}", "--model", "mlp_24x2")),
    (*STUDENT, "--hints", "--model", "mlp_8x2"),
    twice((*STUDENT, "--generations", 2)),
    twice((*TRAIN, "--objective", "tfkd-self")),
    twice(("hint-init", "--teachers", "{b}", "--epochs", 1, "--model", "mlp_8x2")),
    (*DUMP, "--views", 2),
]


@pytest.mark.parametrize("args", ACCEPTED, ids=lambda value: " ".join(map(str, value))[:90])
def test_what_it_accepts_the_run_accepts(
    args: tuple[object, ...], shelf: Shelf, here: Path, distill: Distill
) -> None:
    words = [*shelf.args(args), "--out", "out"]
    cache = Path(os.environ["DISTILL_CACHE"])
    before = tree(here, shelf.root, cache)
    dry = distill(*words, "--dry-run")
    assert dry.code == 0, dry.err
    assert tree(here, shelf.root, cache) == before, "nothing is written"
    run = distill(*words, "--quiet")
    assert run.code == 0, run.err
    if words[0] == "cache-soft-labels":
        return
    kept = yaml.safe_load((here / "out/recipe.yaml").read_text())
    assert f"{kept['model']}, " in dry.err
    assert f"lr {kept['lr']:.4g}, weight decay {kept['weight_decay']:g}" in dry.err
    result = json.loads((here / "out/result.json").read_text())
    assert f"{result['params']:,} parameters" in dry.err
    assert "about" in dry.err
    assert "Left to the run" in dry.err


def test_resolved_values_are_those_of_the_run(made: Made, here: Path, distill: Distill) -> None:
    flags = {"teachers": str(made.labels), "epochs": 2, "out": "out", "batch_size": 100}
    [one] = rehearse(load(StudentRecipe, flags=flags, environment={}), sink=Silent())
    assert (one.steps, one.stage) == (1295 // 100, None)
    words = [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", value)]
    assert distill("student", *words, "--quiet").code == 0
    kept = yaml.safe_load((here / "out/recipe.yaml").read_text())
    said = json.loads(json.dumps(one.recipe.model_dump(mode="json")))
    assert said.keys() == kept.keys()
    assert {key for key in kept if said[key] != kept[key]} == set()


def test_stdout_keeps_its_keys_and_stderr_says_the_rest(here: Path, distill: Distill) -> None:
    outcome = distill(*TRAIN, "--dry-run", "--json")
    options = (LabelOptions, NetworkOptions, ObjectiveValues)
    unwritten = {"seeds"}.union(*(kind.model_fields for kind in options))
    assert json.loads(outcome.out).keys() == TeacherRecipe.model_fields.keys() - unwritten
    assert "mlp_64x1, 4,810 parameters, sgd, lr 0.025, weight decay 0.0005, batch 64" in outcome.err
    assert "augment shift:1" in outcome.err
    assert "1 epoch of 20 steps, 20 in all: about " in outcome.err
    assert distill(*TRAIN, "--dry-run", "--quiet").err == ""


@pytest.mark.parametrize("side", [8, 140])
def test_it_decodes_no_image_runs_no_gate_and_reads_no_weights(
    side: int, made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels, weights and a teacher's knowledge that the run refuses are not looked at."""
    data = pictures(here / "data", side=side)
    train = ("teacher", "train", "--data", "data", "--model", "mlp_4x1", "--epochs", 1, "-j", 0)
    assert distill(*train, "--out", "t", "--quiet").code == 0
    tensors = load_file(here / "t/model/model.safetensors")
    save_file(
        {name: torch.full_like(each, torch.nan) for name, each in tensors.items()},
        here / "t/model/model.safetensors",
    )
    for path in data.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("not in a dry run")

    monkeypatch.setenv("DISTILL_CACHE", str(here / "cache"))
    with monkeypatch.context() as patched:
        patched.setattr(reading, "decode", never)
        patched.setattr(guards, "judge", never)
        patched.setattr(guards, "logits_of", never)
        before = tree(here)
        for command in (
            (*train, "--out", "u"),
            ("student", "--teachers", "t", "--data", "data", "--model", "mlp_4x1", "-j", 0),
            ("cache-soft-labels", "--teachers", "t", "--data", "data", "-j", 0),
        ):
            outcome = distill(*command, "--dry-run")
            assert outcome.code == 0, outcome.err
            assert tree(here) == before
    assert distill(*train, "--out", "u", "--quiet").code == 3


def test_it_downloads_nothing(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    plain = timm.create_model

    def offline(name: str, pretrained: bool = False, **args: object) -> object:
        assert not pretrained, "no weights are fetched"
        return plain(name, pretrained=pretrained, **args)

    monkeypatch.setattr(timm, "create_model", offline)
    args = ("--model", "test_resnet", "--pretrained", "--dry-run")
    outcome = distill(*TRAIN, *args)
    assert outcome.code == 0, outcome.err
    assert "test_resnet, " in outcome.err
    refused = distill("student", "--teachers", "timm/test_resnet", "--data", "digits", "--dry-run")
    assert refused.code == 3
    assert "1,000 classes, the data has 10" in refused.err


@pytest.mark.slow
def test_stages_learn_from_those_before_them(shelf: Shelf, here: Path, distill: Distill) -> None:
    """A later stage is opened on what an earlier one would make."""
    outcome = distill(*shelf.args((*STUDENT, "--hints", "--model", "mlp_8x2", "--dry-run")))
    assert outcome.code == 0, outcome.err
    assert "hints: mlp_8x2" in outcome.err
    assert "student: mlp_8x2" in outcome.err
    assert "in all about" in outcome.err
    args = ("student", "--teachers", "{a}", "--recipe", "{stages}", "--model", "mlp_8x1")
    refused = distill(*shelf.args((*args, "--out", "out", "--dry-run")))
    assert refused.code == 2
    assert "has no layer 'nowhere'" in refused.err
    assert not list(here.iterdir())
    run = distill(*shelf.args((*args, "--out", "out", "--quiet")))
    assert run.err.strip() == refused.err.strip().splitlines()[-1], "after the first stage"


def test_a_run_that_goes_on(made: Made, here: Path, distill: Distill) -> None:
    assert distill(*TRAIN, "--out", "t", "--quiet").code == 0
    before = tree(here)
    for more, code in ((("--seed", 1), 3), ((), 0)):
        args = (*TRAIN, "--out", "t", "--resume", *more)
        dry = distill(*args, "--dry-run", "--quiet")
        assert dry.code == code
        assert tree(here) == before
    assert (
        "was started from another recipe"
        in distill(*TRAIN, "--out", "t", "--resume", "--seed", 1, "--dry-run").err
    )
    assert distill(*TRAIN, "--out", "t", "--overwrite", "--seed", 1, "--dry-run").code == 0
    assert tree(here) == before


@pytest.mark.slow
def test_a_student_that_goes_on(made: Made, here: Path, distill: Distill) -> None:
    """Its teacher's weights are not read: they are taken to be those that it was begun with."""
    args = ("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--epochs", 1)
    assert distill(*args, "--out", "s", "--quiet").code == 0
    again = (*args, "--out", "s", "--resume")
    said = distill(*again, "--dry-run")
    assert said.code == 0
    assert "whether s was begun from the same" in said.err
    dry = distill(*again, "--lr", 0.3, "--dry-run", "--quiet")
    assert (dry.code, dry.out) == (3, "")
    assert distill(*again, "--lr", 0.3, "--quiet").err == dry.err


def test_stages_that_are_done_were_made_from_the_same(
    shelf: Shelf, here: Path, distill: Distill
) -> None:
    args = ("teacher", "train", "--objective", "tfkd-self", "--model", "mlp_4x1", "--epochs", 1)
    data = pictures(here / "data")
    args = (*args, "--data", data, "--out", "t")
    assert distill(*args, "--quiet").code == 0
    for entry in ("result.json", "last"):
        path = here / "t" / entry
        path.unlink() if path.is_file() else shutil.rmtree(path)
    shutil.rmtree(here / "t/model")
    assert distill(*args, "--resume", "--dry-run").code == 0
    pictures(here / "data", count=13)
    dry = distill(*args, "--resume", "--dry-run", "--quiet")
    assert dry.code == 3
    assert distill(*args, "--resume", "--quiet").err == dry.err


def test_few_labels_are_enough_to_judge_an_epoch_by(here: Path, distill: Distill) -> None:
    """The noise that a step is timed on may have none."""
    data = pictures(here / "data", count=2)
    shutil.copytree(data / "test", data / "val")
    for number in range(120):
        shutil.copy(data / "train/x/0.png", data / f"train/{number}.png")
    args = ("teacher", "train", "--data", data, "--model", "mlp_4x1", "--objective", "d2l")
    outcome = distill(*args, "--epochs", 1, "--dry-run")
    assert outcome.code == 0, outcome.err


def test_a_dump_that_is_to_be_replaced(made: Made, here: Path, distill: Distill) -> None:
    shutil.copytree(made.labels / "a", here / "c")
    args = ("cache-soft-labels", "--teachers", made.teacher, "--augment", "shift:1", "--out", "c")
    assert distill(*args, "--codec", "fp16", "--dry-run").code == 3
    outcome = distill(*args, "--codec", "fp16", "--overwrite", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["estimate"]
    assert found["seconds"] == pytest.approx(1438 / found["views_per_second"])


def test_a_recipe_is_rehearsed(here: Path, distill: Distill) -> None:
    outcome = distill("recipes", "run", "digits/teacher", "--dry-run", "--set", "epochs=3")
    assert outcome.code == 0, outcome.err
    assert "3 epochs of " in outcome.err
    assert yaml.safe_load(outcome.out)["epochs"] == 3
    refused = distill("recipes", "run", "digits/teacher", "--dry-run", "--set", "objective=kd")
    assert refused.code == 2
    assert not list(here.iterdir())


def test_the_estimate_is_steps_views_and_held_out_images(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 epochs of 12 steps of 100 images, and 143 held out, at speeds that are made up."""
    from distill_cli.pipeline.run import dry_run as dry

    kept: dict[str, object] = {}

    def noted(plan: object, loader: Loader, speed: Speed) -> float:
        kept.update(plan=plan, loader=loader)
        return seconds_of(plan, loader, speed)  # type: ignore[arg-type]

    speed = Speed(images=8, steps=1, making=0.002, step=0.01, held_out=0.003)
    monkeypatch.setattr(dry, "measure", lambda plan: speed)
    monkeypatch.setattr(dry, "seconds_of", noted)
    for augment, a_view in (("none", 0.012), ("v2/RandomInvert", 0.01)):
        flags = {"data": "digits", "epochs": 4, "batch_size": 100, "augment": augment, "workers": 2}
        [one] = rehearse(load(TeacherRecipe, flags=flags, environment={}), sink=Silent())
        assert one.seconds == pytest.approx(4 * (12 * 100 * a_view + 143 * 0.003))
