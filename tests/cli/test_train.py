"""The main job through the real command line, on the built-in digits."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

import distill_cli.models  # noqa: F401  registers our networks in timm
from distill_cli import __version__
from distill_cli.types import RunResult
from tests.conftest import Made, Outcome
from tests.saved import recipe_of, same, weights

Distill = Callable[..., Outcome]
FAST = ("--epochs", 2, "--quiet")


def test_a_run_folder_holds_what_it_promises(made: Made) -> None:
    run = made.teacher
    result = json.loads((run / "result.json").read_text())
    assert set(result) == set(RunResult.__dataclass_fields__) - {"peers"}, "there are none"
    assert result["test_errors"] == round((1 - result["test_top1"]) * result["test_samples"])
    assert result["teacher_agreement"] is None
    assert result["warnings"] == []
    rows = list(csv.DictReader((run / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: (float(row["val_top1"]), -float(row["val_nll"])))
    assert int(best["epoch"]) == result["best_epoch"]
    assert float(best["val_top1"]) == result["val_top1"]
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 3]
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["model"] == "mlp_32x1"
    assert recipe["recorded"]["dataset"]["samples"] > 1000
    assert (run / "last" / "checkpoint.pt").is_file()
    card = (run / "MODEL_CARD.md").read_text()
    assert "- takes 1 × 8 × 8 (channels, height, width)" in card
    assert 'timm.create_model("local-dir:RUN/model"' in card
    assert not list(run.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("verb", "asked", "names"),
    [
        ("student", ("--objective", "kd,hint", "-T", 2), ["ce", "kd", "hint"]),
        pytest.param(
            *("student", ("--objective", "kd", "--alpha", 0.5, "--alpha-end", 0.1), ["ce", "kd"]),
            marks=pytest.mark.slow,
        ),
        ("hint-init", (), ["hint"]),
    ],
)
def test_the_recipe_of_a_run_makes_it_again(
    made: Made, here: Path, distill: Distill, verb: str, asked: tuple[object, ...], names: list[str]
) -> None:
    common = ("--teachers", made.teacher, "--model", "mlp_8x2", "--epochs", 1, "--quiet")
    assert distill(verb, *common, *asked, "--out", "a").code == 0
    assert distill("recipes", "validate", "a/recipe.yaml").code == 0
    assert distill(verb, "--recipe", "a/recipe.yaml", "--out", "b", "--quiet").code == 0
    assert same(here / "a", here / "b")
    one, two = (recipe_of(here / run) for run in "ab")
    assert one == two
    assert one["recorded"]["defaults"] == one["recorded"]["versions"]["distill-cli"] == __version__
    listed = one["recorded"]["objective"] if verb == "hint-init" else one["objective"]
    assert [entry["name"] for entry in listed] == names
    for entry in listed:
        assert "auto" not in entry.get("pairs", [[]])[0]
    if verb == "hint-init":
        assert listed[0]["pairs"] == [[one["guided_layer"], one["hint_layer"]]]
    # The same command once more, as a person repeats it.
    assert distill(verb, *common, *asked, "--out", "a", "--resume").code == 0
    refused = distill(verb, *common, *asked, "--out", "a", "--resume", "--lr", 0.3)
    assert refused.code == 3


def test_the_saved_model_loads_in_timm(made: Made) -> None:
    network = timm.create_model(f"local-dir:{made.teacher / 'model'}", pretrained=True)
    assert sum(p.numel() for p in network.parameters()) == 64 * 32 + 32 + 32 * 10 + 10


def test_a_student_reports_its_teacher(made: Made) -> None:
    result = json.loads((made.student / "result.json").read_text())
    assert 0 < result["teacher_agreement"] <= 1
    assert result["teacher_kl"] > 0


def test_two_runs_are_bit_identical_and_seeds_differ(
    made: Made, here: Path, distill: Distill
) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        outcome = distill(
            *("student", "--teachers", made.labels, "--mode", "random", "--model", "mlp_16x1"),
            *("--dropout", 0.2, "--seed", seed, "--out", name, *FAST),
        )
        assert outcome.code == 0, outcome.err
    assert same(here / "one", here / "two")
    assert not same(here / "one", here / "other")


def test_short_form(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill(
        "student",
        "--teachers",
        f"{made.teacher},{made.other}",
        "--mode",
        "random",
        "--set",
        "epochs=1",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "runs/student-1"
    recipe = yaml.safe_load((here / "runs/student-1/recipe.yaml").read_text())
    assert recipe["data"] == "digits"
    assert recipe["model"] in outcome.err
    again = distill("student", "--teachers", made.teacher, *FAST)
    assert again.out.strip() == "runs/student-2"


@pytest.mark.parametrize(("count", "mode"), [(1, "single"), (2, "ensemble")])
def test_default_mode(made: Made, here: Path, distill: Distill, count: int, mode: str) -> None:
    teachers = ",".join(str(path) for path in (made.teacher, made.other)[:count])
    assert distill("student", "--teachers", teachers, "--out", "s", *FAST).code == 0
    assert yaml.safe_load((here / "s/recipe.yaml").read_text())["mode"] == mode


def test_live_and_cached_teachers_mix(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill(
        *("student", "--teachers", f"{made.labels / 'a'},{made.other}", "--mode", "ensemble"),
        *("--model", "mlp_8x1", "--out", "s", *FAST),
    )
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load((here / "s/recipe.yaml").read_text())
    assert recipe["augment"] == ["shift:1"], "the cache's views are adopted"


def test_live_equals_cached_in_fp64(made: Made, here: Path, distill: Distill) -> None:
    """The views are the same to the bit, labels computed in fp64 differ by less than fp32 shows."""
    common = ("--model", "mlp_16x1", "--epochs", 3, "--quiet", "--seed", 1)
    fp64 = ("--teacher-precision", "fp64")
    assert (
        distill(
            *(
                "cache-soft-labels",
                "--teachers",
                made.teacher,
                "--views",
                3,
                "--augment",
                "shift:1",
            ),
            *("--out", "labels", "--quiet", *fp64),
        ).code
        == 0
    )
    live = ("--augment", "shift:1", "--set", "view_seed=0", *fp64)
    assert distill("student", "--teachers", made.teacher, "--out", "live", *common, *live).code == 0
    assert distill("student", "--teachers", "labels", "--out", "cached", *common).code == 0
    one, two = weights(here / "live"), weights(here / "cached")
    for key in one:
        assert torch.allclose(one[key], two[key], rtol=0, atol=1e-6), key


def test_json_is_one_document_on_stdout(here: Path, distill: Distill) -> None:
    outcome = distill(
        "teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--json", "--out", "a", *FAST
    )
    assert json.loads(outcome.out)["run"] == "a"
    assert outcome.err == ""


def test_plain_progress_has_no_control_codes(here: Path, distill: Distill) -> None:
    outcome = distill(
        "teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 2, "--out", "a"
    )
    assert "held-out" in outcome.err
    assert "errors of" in outcome.err
    assert "\x1b" not in outcome.err + outcome.out


def test_require_gates(here: Path, distill: Distill) -> None:
    args = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", *FAST)
    outcome = distill(
        *args, "--out", "a", "--require", "test_top1>=0.999", "--require", "params<10"
    )
    assert outcome.code == 5
    assert "test_top1>=0.999 (is 0." in outcome.err
    assert "params<10 (is" in outcome.err
    assert (here / "a" / "result.json").exists()
    assert distill(*args, "--out", "b", "--require", "test_samples>10").code == 0


@pytest.mark.parametrize(
    ("args", "gate", "text"),
    [
        (("teacher", "train"), "val_teacher_kl<=0.1", "this run has no teacher"),
        (("self-train", "--labels-per-class", 6), "teacher_kl<=0.1", "this run has no teacher"),
        (("student", "--teachers", "ema", "--ema", 0.9), "teacher_agreement>0", "ema learns along"),
        (("teacher", "train"), "test_map>=0.1", "one class of an image applies"),
        (("teacher", "train"), "test_coarse_top1>=0.1", "labels are not coarse"),
        (("teacher", "train", "--targets", "sigmoid"), "temperature<2", "no temperature"),
    ],
)
def test_a_gate_on_a_figure_that_there_will_not_be_is_refused_at_once(
    here: Path, distill: Distill, args: tuple[Any, ...], gate: str, text: str
) -> None:
    flags = ("--data", "digits", "--model", "mlp_8x1", *FAST, "--out", "a")
    outcome = distill(*args, *flags, "--require", gate)
    assert (outcome.code, text in outcome.err) == (2, True), outcome.err
    assert f"--require {gate}: " in outcome.err
    assert not (here / "a").exists()


def test_init_from_a_run(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill(
        *("teacher", "train", "--data", "digits", "--init", made.teacher, "--out", "a"),
        *("--lr", 1e-12, "--epochs", 1, "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    for key, value in weights(made.teacher).items():
        assert torch.allclose(weights(here / "a")[key], value, atol=1e-6)


def test_init_keeps_the_normalisation_its_weights_know(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.teacher / "model", here / "m")
    config = json.loads((here / "m/config.json").read_text())
    config["distill"]["mean"] = [0.125]
    del config["distill"]["checksum"]
    (here / "m/config.json").write_text(json.dumps(config))
    args = ("teacher", "train", "--data", "digits", "--init", "m", "--out", "a", *FAST)
    assert distill(*args).code == 0
    assert json.loads((here / "a/model/config.json").read_text())["distill"]["mean"] == [0.125]


def test_init_of_another_architecture_is_refused(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill(
        *("teacher", "train", "--data", "digits", "--init", made.teacher, "--model", "mlp_9x1"),
        *("--out", "a"),
    )
    assert outcome.code == 3
    assert "does not fit" in outcome.err


def test_schedules_and_smoothing_run(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill(
        *("student", "--teachers", made.labels, "--mode", "ensemble", "--teacher-weights", "3,1"),
        *("-T", 2, "--alpha", 1, "--alpha-end", 0.5, "--schedule", "cosine"),
        *("--label-smoothing", 0.1, "--model", "mlp_8x1", "--out", "s", *FAST),
    )
    assert outcome.code == 0, outcome.err
    header = (here / "s/summary.csv").read_text().splitlines()[0]
    assert "train_ce" in header
    assert "train_kd" in header


def test_a_bound_of_the_gradient_bounds_every_step(here: Path, distill: Distill) -> None:
    """Plain SGD moves weights by at most the rate times the bound: at 1e-6, hardly at all."""
    plain = (
        "--weight-decay",
        0,
        "--set",
        "momentum=0",
        "--warmup-epochs",
        0,
        "--precision",
        "fp32",
    )
    bounds = {"free": 1e9, "bound": 1e-6, "bound-faster": 1e-6}
    for name, bound in bounds.items():
        rate = ("--lr", 0.2 if name == "bound-faster" else 0.1, "--set", f"clip_grad={bound}")
        args = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1)
        outcome = distill(*args, *plain, *rate, "--out", name, "--quiet")
        assert outcome.code == 0, outcome.err
    free, bound, faster = (weights(here / name) for name in bounds)
    assert max(float((bound[key] - faster[key]).abs().max()) for key in bound) < 1e-5
    assert max(float((bound[key] - free[key]).abs().max()) for key in bound) > 1e-2


def test_a_list_of_objectives_in_a_recipe(made: Made, here: Path, distill: Distill) -> None:
    (here / "r.yaml").write_text(
        "objective:\n"
        "  - {name: label-smoothing, epsilon: 0.1, weight: 0.3}\n"
        "  - {name: kd, temperature: 3, weight: 0.7, weight_end: 0, schedule: linear}\n"
    )
    args = ("student", "-r", "r.yaml", "--teachers", made.teacher, "--model", "mlp_8x1", *FAST)
    outcome = distill(*args, "--out", "s")
    assert outcome.code == 0, outcome.err
    refused = distill(*args, "--alpha", 0.5, "--out", "s2")
    assert refused.code == 2
    assert "alpha" in refused.err


def test_a_run_at_chance_says_so_last(here: Path, distill: Callable[..., Outcome]) -> None:
    """It ended at chance with exit code 0, and not a word."""
    args = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1)
    outcome = distill(*args, "--lr", 1e-9, "--out", "t")
    assert outcome.code == 0, outcome.err
    [said] = json.loads((here / "t/result.json").read_text())["warnings"]
    assert re.fullmatch(
        r"no better than chance: right on \d+\.\d % of 143 held-out images, "
        r"where naming one class always is on \d+\.\d %\. Try more --epochs \(it had 1 epoch of 20 "
        r"steps\), --set clip_grad=1 or another --lr",
        said,
    )
    assert " ".join(outcome.err.split()).endswith(f"warning: {said}")
    outcome = distill(
        *args, "--lr", 1e-9, "--targets", "sigmoid", "--quiet", "--json", "--out", "u"
    )
    assert json.loads(outcome.out)["warnings"] == [said]
