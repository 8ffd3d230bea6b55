"""Several labels an image, and one class by a sigmoid each, through the command line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from distill_cli import runtime
from distill_cli.data.dataset import open_dataset
from distill_cli.data.loader import Loader
from distill_cli.data.views import Views
from distill_cli.models import load_model
from distill_cli.objectives.sigmoid_kd import SigmoidDistillation
from distill_cli.pipeline.inputs.teachers import open_teachers
from distill_cli.types import Progress, StudentSignals
from tests.conftest import Made, Outcome, invoke
from tests.data.pictures import LEFT, TOP, halves, listing, picture
from tests.objectives.steps import step_of

Distill = Callable[..., Outcome]
TRAINING = ("--quiet", "--augment", "shift:1", "--epochs", 8, "-b", 16, "--lr", 0.1)


@dataclass(frozen=True)
class Halves:
    """Small finished artefacts on images of bright halves; never written again."""

    data: Path
    teacher: Path
    labels: Path
    student: Path


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Halves:
    root = tmp_path_factory.mktemp("halves")
    data = halves(root / "data", 200)
    for args in (
        *[("teacher", "train", "--data", data, "--model", "mlp_16x1", "--out", root / "a")],
        *[("student", "--teachers", root / "a", "--model", "mlp_8x1", "--out", root / "s")],
    ):
        outcome = invoke(*args, *TRAINING)
        assert outcome.code == 0, outcome.err
    outcome = invoke(
        *("cache-soft-labels", "--teachers", root / "a", "--views", 2, "--augment", "shift:1"),
        *("--out", root / "labels", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    return Halves(data, root / "a", root / "labels", root / "s")


def result(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())


def test_a_teacher_learns_several_labels(bright: Halves) -> None:
    found = result(bright.teacher)
    assert found["test_map"] > 0.99
    assert found["test_f1"] > 0.95
    assert found["test_macro_f1"] > 0.95
    assert found["test_errors"] == round((1 - found["test_top1"]) * found["test_samples"])
    recipe = yaml.safe_load((bright.teacher / "recipe.yaml").read_text())
    assert recipe["targets"] == "sigmoid"
    assert recipe["objective"] == [
        {"name": "bce", "weight": 1.0, "schedule": "constant", "epsilon": 0.0}
    ]
    assert recipe["recorded"]["asked"] == {"objective": "ce"}
    rows = list(csv.DictReader((bright.teacher / "summary.csv").open()))
    assert {"val_map", "val_f1", "train_bce"} <= rows[0].keys()
    best = max(rows, key=lambda row: (float(row["val_map"]), -float(row["val_nll"])))
    assert int(best["epoch"]) == found["best_epoch"]
    config = json.loads((bright.teacher / "model" / "config.json").read_text())
    assert config["distill"]["targets"] == "sigmoid"
    assert load_model(bright.teacher).targets == "sigmoid"


def test_a_student_learns_from_it(bright: Halves) -> None:
    found = result(bright.student)
    assert found["test_map"] > 0.95
    assert found["teacher_agreement"] > 0.9
    assert 0 <= found["teacher_kl"] < 1
    rows = list(csv.DictReader((bright.student / "summary.csv").open()))
    assert {"train_sigmoid_kd", "train_bce"} <= rows[0].keys()


def test_a_student_of_a_cache_learns_the_same(
    distill: Distill, bright: Halves, tmp_path: Path
) -> None:
    for name, teacher in (("live", bright.teacher), ("cached", bright.labels)):
        outcome = distill(
            *("student", "--teachers", teacher, "--data", bright.data, "--model", "mlp_8x1"),
            *("--augment", "shift:1", "--epochs", 2, "-b", 16, "--out", tmp_path / name),
            *("--require", "test_map>=0"),
        )
        assert outcome.code == 0, outcome.err
        assert "mAP" in outcome.err
    live, cached = result(tmp_path / "live"), result(tmp_path / "cached")
    assert cached["teacher_kl"] == pytest.approx(live["teacher_kl"], abs=1e-3)


def test_a_cache_says_what_the_teacher_says(bright: Halves) -> None:
    here, data = runtime.decide("cpu"), open_dataset(str(bright.data))
    [live] = open_teachers([str(bright.teacher)], data, here, "fp32")
    [cached] = open_teachers([str(bright.labels)], data, here, "fp32")
    loader = Loader(
        views=Views(data.train, cached.reader.plan.view_spec, here.device),
        target_N=data.train.label_N,
        rows=data.fit_rows,
        batch_size=17,
        seed=0,
        stored_views=2,
        target_NK=data.train.label_NK,
    )
    learn, progress = SigmoidDistillation(), Progress(epoch=0, step=0, total_steps=1)
    for batch in loader.epoch(1):
        assert batch.target_BK is not None
        assert batch.labelled == 17
        student = StudentSignals(logits=torch.randn(17, 2))
        losses = [
            learn(step_of(student, each.signals(batch), batch, progress))["sigmoid_kd"].loss_B
            for each in (live, cached)
        ]
        assert torch.allclose(*losses, rtol=0, atol=1e-5)


def test_evaluate(distill: Distill, bright: Halves) -> None:
    outcome = distill("evaluate", bright.student, "--teacher", bright.labels, "--json")
    found, kept = json.loads(outcome.out), result(bright.student)
    for key, name in (("top1", "test_top1"), ("map", "test_map"), ("macro_f1", "test_macro_f1")):
        assert found[key] == pytest.approx(kept[name])
    assert found["teacher_kl"] == pytest.approx(kept["teacher_kl"], abs=1e-4)
    assert "mAP" in distill("evaluate", bright.student, "--split", "val").out


def test_predict_says_each_label_by_itself(
    distill: Distill, bright: Halves, tmp_path: Path
) -> None:
    for name, labels in (("both", [LEFT, TOP]), ("none", [])):
        picture(tmp_path / f"{name}.png", labels, seed=999)
    outcome = distill("predict", bright.teacher, tmp_path, "--json")
    both, none = [json.loads(line) for line in outcome.out.splitlines()]
    assert sorted(both["labels"]) == [LEFT, TOP]
    assert sum(both["probabilities"].values()) > 1.5
    assert none["labels"] == []
    assert sum(none["probabilities"].values()) < 0.5
    for said in (both, none):
        assert all(0 <= share <= 1 for share in said["probabilities"].values())
    softened = json.loads(
        distill("predict", bright.teacher, tmp_path / "none.png", "-T", 9, "--json").out
    )
    assert (softened["temperature"], softened["fitted_temperature"]) == (9, None)
    assert none["temperature"] == 1
    for name, share in none["probabilities"].items():
        ninth = math.log(share / (1 - share)) / 9
        assert softened["probabilities"][name] == pytest.approx(1 / (1 + math.exp(-ninth)))
    assert distill("predict", bright.teacher, tmp_path / "both.png").code == 0


@pytest.mark.slow
def test_one_class_by_sigmoids(distill: Distill, made: Made, tmp_path: Path) -> None:
    run, data = tmp_path / "a", ("--data", "digits", "--model", "mlp_16x1")
    outcome = distill(
        *("teacher", "train", *data, "--targets", "sigmoid", "--label-smoothing", 0.05),
        *("--epochs", 4, "-b", 32, "--augment", "shift:1", "--quiet", "--out", run),
    )
    assert outcome.code == 0, outcome.err
    found = result(run)
    assert found["test_top1"] > 0.6
    assert found["test_map"] > 0.6
    rows = list(csv.DictReader((run / "summary.csv").open()))
    best = max(rows, key=lambda row: (float(row["val_top1"]), -float(row["val_nll"])))
    assert int(best["epoch"]) == found["best_epoch"]
    assert all(0 < float(row["train_top1"]) < 1 for row in rows)
    student = ("student", *data, "--epochs", 1, "--quiet", "--out", tmp_path / "s")
    outcome = distill(*student, "--teachers", run)
    assert outcome.code == 3
    assert "has sigmoid targets, the student has softmax targets" in outcome.err
    labels = ("cache-soft-labels", "--teachers", run, "--out", tmp_path / "labels", "--quiet")
    assert distill(*labels, "--augment", "none").code == 0
    outcome = distill(*student, "--teachers", tmp_path / "labels")
    assert outcome.code == 3
    assert "has sigmoid targets, the student has softmax targets" in outcome.err
    outcome = distill("evaluate", made.student, "--teacher", run)
    assert outcome.code == 3
    assert "--force" not in outcome.err
    outcome = distill(*student, "--teachers", made.teacher, "--targets", "sigmoid")
    assert outcome.code == 3
    assert "has softmax targets, the student has sigmoid targets" in outcome.err
    outcome = distill(*student, "--teachers", run, "--targets", "sigmoid")
    assert outcome.code == 0, outcome.err
    forced = ("--targets", "sigmoid", "--force", "--overwrite")
    assert distill(*student, "--teachers", made.teacher, *forced).code == 0


def test_what_is_refused(distill: Distill, bright: Halves, made: Made, tmp_path: Path) -> None:
    train = ("teacher", "train", "--data", bright.data, "--out", tmp_path / "x", "--quiet")
    outcome = distill(*train, "--targets", "softmax")
    assert outcome.code == 2
    assert "several labels may apply" in outcome.err
    student = ("student", "--teachers", bright.teacher, "--out", tmp_path / "x", "--quiet")
    outcome = distill(*student, "--objective", "dkd")
    assert outcome.code == 2
    assert "objective 'dkd' is for softmax targets, these are sigmoid" in outcome.err
    outcome = distill("teacher", "train", "--data", "digits", "--objective", "bce")
    assert outcome.code == 2
    assert "objective 'bce' is for sigmoid targets" in outcome.err
    lines = [line for line in bright.data.read_text().splitlines()[1:] if line[-1] != ","]
    lines = [line for line in lines if ";" not in line]
    one = listing(bright.data.parent / "one.csv", ["file,labels", *lines])
    network = ("--model", "mlp_8x1", "--epochs", 1, "--out", tmp_path / "one", "--quiet")
    assert distill("teacher", "train", "--data", one, *network).code == 0
    assert result(tmp_path / "one")["test_map"] is None
    outcome = distill("evaluate", tmp_path / "one", "--data", bright.data)
    assert outcome.code == 3
    assert "to these several labels may apply" in outcome.err
    assert not (tmp_path / "x").exists()


def test_a_cache_of_the_likeliest_is_refused(
    distill: Distill, bright: Halves, tmp_path: Path
) -> None:
    outcome = distill(
        *("cache-soft-labels", "--teachers", bright.teacher, "--codec", "topk:1"),
        *("--augment", "none", "--out", tmp_path / "top", "--quiet"),
    )
    assert outcome.code == 2
    assert "fp16 keeps all" in outcome.err
    assert not (tmp_path / "top" / "plan.json").exists()


def test_an_untrained_teacher_is_refused(distill: Distill, bright: Halves, tmp_path: Path) -> None:
    common = ("--model", "mlp_16x1", "--epochs", 1, "--lr", 1e-9, "--quiet")
    untrained = tmp_path / "untrained"
    data = halves(tmp_path / "data", 800)
    outcome = distill("teacher", "train", "--data", data, "--out", untrained, *common)
    assert outcome.code == 0, outcome.err
    # Labels of other images: what the network says of these is of no use for them.
    lines = data.read_text().splitlines()
    labels = [line.split(",")[1] for line in lines[1:]]
    mixed = [f"{line.split(',')[0]},{labels[(7 * n) // 8 % 4]}" for n, line in enumerate(lines[1:])]
    other = listing(data.parent / "other.csv", [lines[0], *mixed])
    outcome = distill(
        *("cache-soft-labels", "--teachers", bright.teacher, "--data", other),
        *("--augment", "none", "--out", tmp_path / "labels"),
    )
    assert outcome.code == 3, outcome.err
    assert "no better than chance" in outcome.err
    assert "mAP" in outcome.err


def test_reports(distill: Distill, bright: Halves, made: Made) -> None:
    outcome = distill("compare", bright.teacher, bright.student)
    assert outcome.code == 0, outcome.err
    assert "mAP" in outcome.out
    assert "mAP" not in distill("compare", made.teacher, made.student).out
    assert "mean average precision" in (bright.teacher / "MODEL_CARD.md").read_text()
    outcome = distill("report", bright.student)
    assert outcome.code == 0, outcome.err
    assert "mAP" in (bright.student / "report.html").read_text()
