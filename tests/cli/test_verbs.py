"""The verbs around training: evaluate, predict, compare, methods, recipes, cache, doctor, demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from distill_cli.objectives import OBJECTIVES
from tests.cli.test_faults import pictures
from tests.conftest import Made, Outcome
from tests.processes import script

Distill = Callable[..., Outcome]
ROOT = Path(__file__).parents[2]


def test_evaluate_repeats_the_runs_figures(made: Made, distill: Distill) -> None:
    outcome = distill("evaluate", made.student, "--teacher", made.teacher, "--json")
    found = json.loads(outcome.out)
    result = json.loads((made.student / "result.json").read_text())
    assert found["errors"] == result["test_errors"]
    assert found["nll"] == pytest.approx(result["test_nll"], rel=1e-6)
    assert found["teacher_agreement"] == result["teacher_agreement"]
    cached = json.loads(
        distill("evaluate", made.student, "--teacher", made.labels / "a", "--json").out
    )
    assert cached["teacher_kl"] == pytest.approx(found["teacher_kl"], rel=1e-5)
    held_out = json.loads(distill("evaluate", made.student, "--split", "val", "--json").out)
    assert held_out["top1"] == pytest.approx(result["val_top1"])


def test_predict(made: Made, here: Path, distill: Distill) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index in range(12):
        pixels = torch.tensor(digits.images[index] * 255 / 16).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(here / f"{index:02}.png")
    outcome = distill("predict", made.teacher, here, "--json")
    assert outcome.code == 0, outcome.err
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(lines) == 12
    right = sum(int(line["class"]) == digits.target[index] for index, line in enumerate(lines))
    assert right >= 8
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    text = distill("predict", made.teacher, "00.png", "-T", 4).out
    assert "00.png" in text
    assert "%" in text
    soft = json.loads(distill("predict", made.teacher, "00.png", "-T", 4, "--json").out)
    assert max(soft["probabilities"].values()) < max(lines[0]["probabilities"].values())


@pytest.mark.parametrize("fitted", [None, 2.5])
def test_predict_divides_by_what_it_says(
    fitted: float | None, made: Made, here: Path, distill: Distill
) -> None:
    """-T t is the soft label at t, for t = 1 too; without it the fitted temperature counts.

    -T 4 was softmax(z/(4 · 2.5)).
    """
    from distill_cli.models import load_model, save_temperature
    from distill_cli.teachers.live import LiveTeacher
    from distill_cli.teachers.signals import DenseSignals

    shutil.copytree(made.teacher / "model", here / "model")
    save_temperature(load_model(here / "model"), here / "model", fitted or 1.0)
    Image.new("L", (8, 8), 99).save(here / "x.png")
    teacher = LiveTeacher(load_model(made.teacher), torch.device("cpu"))
    soft = DenseSignals(teacher.logits(torch.full((1, 1, 8, 8), 99 / 255)))
    for given, divisor in (((), fitted or 1.0), (("-T", 1), 1.0), (("-T", 4), 4.0)):
        said = json.loads(distill("predict", "model", "x.png", "--json", *given).out)
        assert (said["temperature"], said["fitted_temperature"]) == (divisor, fitted)
        by_name = [said["probabilities"][name] for name in teacher.class_names]
        expected = soft.log_probs(divisor).exp()[0].tolist()
        assert by_name == pytest.approx(expected, abs=1e-5)


def test_compare(made: Made, distill: Distill) -> None:
    outcome = distill("compare", made.teacher, made.student)
    assert outcome.code == 0, outcome.err
    assert "mlp_32x1" in outcome.out
    assert "smaller" in outcome.out + outcome.err
    assert json.loads(distill("compare", made.teacher, made.student, "--json").out)


def test_what_is_counted_is_said_in_the_singular(made: Made, here: Path, distill: Distill) -> None:
    dumped = distill("cache-soft-labels", "--teachers", made.teacher, "--views", 1, "--out", "c")
    assert "c: 1 view of 1,438 samples" in dumped.err
    assert "  1 view (shift:1) of 1,438 samples" in distill("cache", "info", "c").out
    replayed = distill("cache", "verify", "c", "--sample", 1)
    assert "1 view replayed" in replayed.err
    refused = distill("student", "--teachers", "c", "--class-map", "a,b")
    assert "2 class maps for 1 teacher" in refused.err


def test_report(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill("report", made.student, "--out", "page.html")
    assert outcome.code == 0, outcome.err
    page = (here / "page.html").read_text()
    assert "<svg" in page
    assert "mlp_8x1" in page


def test_methods(distill: Distill) -> None:
    listed = json.loads(distill("methods", "--json").out)
    assert [method["name"] for method in listed] == list(OBJECTIVES)
    assert {"ce", "kd", "dkd", "dist", "logit-standardisation", "hint", "rkd"} <= set(OBJECTIVES)
    for method in listed:
        assert {"name", "summary", "paper", "needs", "parameters"} <= set(method)
    table = distill("methods").out.splitlines()
    assert [line.split()[0] for line in table[1 : 1 + len(OBJECTIVES)]] == list(OBJECTIVES)
    assert "1503.02531" in distill("methods", "show", "kd").out


def test_recipes(here: Path, distill: Distill) -> None:
    listed = json.loads(distill("recipes", "list", "--json").out)
    assert {"digits/teacher", "mnist/student", "cifar10/cache"} <= {row["name"] for row in listed}
    for row in listed:
        assert row["about"], row
        assert distill("recipes", "validate", row["name"]).code == 0, row
    assert distill("recipes", "copy", "digits/teacher", "mine.yaml").code == 0
    assert distill("recipes", "copy", "digits/teacher", "mine.yaml").code == 2
    outcome = distill(
        *("recipes", "run", "mine.yaml", "--set", "epochs=1", "--set", "model=mlp_8x1"),
        *("--set", "out=run", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    assert (here / "run" / "result.json").exists()


def test_cache_info(made: Made, distill: Distill) -> None:
    [first, second] = json.loads(distill("cache", "info", made.labels, "--json").out)["caches"]
    assert first["views"] == 2
    assert first["codec"] == "fp32"
    assert first["teacher"] == "distill_mlp"
    assert 0.5 < second["teacher_accuracy"] <= 1
    assert first["finished"]
    assert sum(first["calibration"]["views"]) == 2 * first["samples"]
    shown = distill("cache", "info", made.labels / "a").out
    assert "bytes a view" in shown
    assert "█" in shown


def test_a_dump_is_repeatable_and_a_rerun_does_nothing(
    made: Made, here: Path, distill: Distill
) -> None:
    args = ("cache-soft-labels", "--teachers", made.teacher, "--views", 2, "--augment", "shift:1")
    args = (*args, "--shard-length", 600, "--out", "c")
    assert distill(*args, "--quiet").code == 0
    for path in (made.labels / "a").rglob("*.safetensors"):
        again = here / "c" / path.relative_to(made.labels / "a")
        assert again.read_bytes() == path.read_bytes()
    before = {p: p.stat().st_mtime_ns for p in (here / "c").rglob("*.safetensors")}
    outcome = distill(*args)
    assert "nothing was left to do" in outcome.err
    assert before == {p: p.stat().st_mtime_ns for p in (here / "c").rglob("*.safetensors")}
    refused = distill(*args[:-4], "--shard-length", 700, "--out", "c")
    assert refused.code == 3
    assert "700" in refused.err


def test_a_tar_equals_its_folder(here: Path, distill: Distill) -> None:
    pictures(here / "data")
    with tarfile.open("data.tar.gz", "w:gz") as tar:
        tar.add("data/train", "train")
        tar.add("data/test", "test")
    args = ("teacher", "train", "--model", "mlp_8x1", "--epochs", 2, "--quiet")
    assert distill(*args, "--data", "data", "--out", "a").code == 0
    assert distill(*args, "--data", "data.tar.gz", "--out", "b").code == 0
    one, two = (here / run / "model/model.safetensors" for run in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_doctor(distill: Distill) -> None:
    outcome = distill("doctor", "--json")
    assert outcome.code == 0, outcome.out
    assert "device cpu" in {check["what"] for check in json.loads(outcome.out)["checks"]}


def test_dry_run_writes_nothing(here: Path, distill: Distill) -> None:
    outcome = distill("teacher", "train", "--data", "digits", "--lr", "1e-3", "--dry-run")
    assert outcome.code == 0
    assert "lr: 0.001" in outcome.out
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("teacher", "train"),
        ("student",),
        ("cache-soft-labels",),
        ("evaluate",),
        ("predict",),
        ("compare",),
        ("recipes", "run"),
        ("demo",),
    ],
)
def test_help(distill: Distill, args: tuple[str, ...]) -> None:
    outcome = distill(*args, "--help")
    assert outcome.code == 0
    assert "distill" in outcome.out


def test_help_all_shows_what_help_hides(distill: Distill) -> None:
    assert "--split-seed" not in distill("student", "--help").out
    assert "--split-seed" in distill("student", "--help-all").out


def test_version_and_module() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "distill_cli", "--version"], capture_output=True, text=True
    )
    assert out.returncode == 0
    assert out.stdout.startswith("distill 0.")


def test_demo_small(here: Path, distill: Distill) -> None:
    outcome = distill("demo", "--out", "demo", "--seeds", 2, "--epochs", 1, "--quiet")
    assert outcome.code == 0, outcome.err
    assert "random" in outcome.out
    assert (here / "demo" / "report.html").exists()


@pytest.mark.slow
def test_ci_script(here: Path) -> None:
    """As a CI job runs it: train, cache, distil, gate, read a figure.

    Python starts for two verbs; for training, it does in test_faults.
    """
    started = ("cache-soft-labels", "student")
    path = ROOT / "recipes" / "ci" / "distill.sh"
    done = script(path, "digits", "out", started=started, box=here / "box")
    assert done.code == 0, done.err
    assert b"errors of 359" in done.out
    assert json.loads((here / "out/result.json").read_text())["test_top1"] >= 0.85
