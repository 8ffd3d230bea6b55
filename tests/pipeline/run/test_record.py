"""What a run notes below its recipe of its teachers and of its test images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]


def recorded(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "recipe.yaml").read_text())["recorded"]


@pytest.mark.slow
def test_teachers_live_cached_and_without_a_run(made: Made, here: Path, distill: Distill) -> None:
    accuracy = json.loads((made.teacher / "result.json").read_text())["test_top1"]
    [live] = recorded(made.student)["teacher_networks"]
    assert live == {
        "model": "mlp_32x1",
        "params": 64 * 32 + 32 + 32 * 10 + 10,
        "test_top1": pytest.approx(accuracy, abs=1e-6),
    }
    (here / "alone").symlink_to(made.teacher / "model")
    student = ("student", "--model", "mlp_8x1", "--epochs", 1, "--augment", "shift:1", "--quiet")
    teachers = f"{made.labels}/a,{made.labels}/b"
    assert distill(*student, "--teachers", teachers, "--out", "c").code == 0
    cached, _ = recorded(here / "c")["teacher_networks"]
    # Test rows are stored; how many parameters spoke is not.
    assert cached["params"] is None
    assert cached["test_top1"] == pytest.approx(accuracy, abs=1e-6)
    outcome = distill(*student, "--teachers", "alone", "--data", "digits", "--out", "m")
    assert outcome.code == 0, outcome.err
    [alone] = recorded(here / "m")["teacher_networks"]
    assert alone["params"] == live["params"]
    assert alone["test_top1"] is None
    page = distill("report", here / "c").out.strip()
    assert f"{100 * accuracy:.2f}\u00a0%" in Path(page).read_text()


def test_runs_on_the_same_data_note_the_same_test_images(made: Made) -> None:
    one, other = (recorded(run)["test"] for run in (made.teacher, made.student))
    assert one == other
    assert one["samples"] == 359
    assert len(one["fingerprint"]) == 32
