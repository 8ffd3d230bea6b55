"""Runs and labels that version 0.3.0 made of an odd folder go on with the images that it took.

tests/fixtures/make_folders.py made them, with the code of that version: of 54 grey images, six of
them copies, and one colour image, which made all of them colour and had them flipped. fp32 on the CPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from distill_cli.cache.plan import Plan
from distill_cli.recipe.rule_options import RULE_KEYS
from tests.conftest import Outcome, on_host
from tests.pipeline.run.test_resume import distance, network

KEPT = Path(__file__).parents[2] / "fixtures" / "folders-0.3.0"
Distill = Callable[..., Outcome]
STUDENT = ("student", "--teachers", "labels", "--model", "mlp_8x1", "--epochs", 1, "-b", 8)
# The data as today's rules have them: more images, copies on one side, grey, not mirrored.
NOW = ("--data-rules", "0.4.0", "--split-by", "content")


@pytest.fixture
def kept(here: Path) -> Path:
    """A copy of all of it, in the working folder."""
    shutil.copytree(KEPT, here, dirs_exist_ok=True)
    return here


def recorded(run: str) -> dict:
    return yaml.safe_load(Path(run, "recipe.yaml").read_text())


def test_a_stopped_run_goes_on_with_its_images_channels_and_split(
    kept: Path, distill: Distill
) -> None:
    before = recorded("run")
    outcome = distill("teacher", "train", "--resume", "--out", "run", "--threads", 1)
    assert outcome.code == 0, outcome.err
    assert "8×8 (as they are) colour" in outcome.err
    end = load_file("run-end.safetensors")
    # Another processor rounds otherwise; the weights moved by far more in the epochs that were left.
    assert distance(network(kept / "run"), end) < 0.01
    assert distance(network(KEPT / "run"), end) > 0.05
    after = recorded("run")
    moved = {"recorded": None, "data": None}
    assert {key: after[key] for key in before} | moved == before | moved
    assert not RULE_KEYS & after.keys(), "absent, they mean what its version did"
    for key in ("dataset", "view_spec"):
        then, now = before["recorded"][key], after["recorded"][key]
        assert {name: now[name] for name in then} == then


def test_with_the_rules_of_today_it_is_another_run(kept: Path, distill: Distill) -> None:
    refused = distill("teacher", "train", "--resume", "--out", "run", "--quiet", *NOW)
    assert refused.code == 3
    assert "another recipe" in refused.err


def test_its_labels_are_replayed_and_teach(kept: Path, distill: Distill) -> None:
    outcome = distill("cache", "verify", "labels", "--sample", 8)
    assert outcome.code == 0, outcome.err
    outcome = distill(*STUDENT, "--out", "s", "--quiet")
    assert outcome.code == 0, outcome.err
    said = recorded("s")
    assert (said["data_rules"], said["split_by"], said["channels"]) == ("0.3.0", "id", 3)
    plan = Plan.from_json(json.loads((KEPT / "labels/plan.json").read_text()))
    assert said["recorded"]["view_spec"]["augment"] == list(plan.view_spec.augment)
    assert said["recorded"]["dataset"] == plan.dataset.to_json()
    assert distill("student", "--resume", "--out", "s", "--quiet").code == 0
    refused = distill(*STUDENT, "--out", "now", "--quiet", *NOW)
    assert refused.code == 3
    assert "other data" in refused.err or "contradicts" in refused.err


def test_a_live_teacher_brings_its_split_and_is_evaluated_on_its_images(
    kept: Path, distill: Distill
) -> None:
    live = ("student", "--teachers", "teacher", "--data", "data.zip", "--model", "mlp_8x1")
    outcome = distill(*live, "--epochs", 1, "-b", 8, "--out", "s", "--quiet")
    assert outcome.code == 0, outcome.err
    then = yaml.safe_load((KEPT / "teacher/recipe.yaml").read_text())["recorded"]["dataset"]
    assert recorded("s")["recorded"]["dataset"] == then
    figures = json.loads(distill("evaluate", "teacher", "--json").out)
    known = json.loads((KEPT / "teacher/result.json").read_text())
    assert figures["errors"] == known["test_errors"]
    assert figures["samples"] == known["test_samples"]


@on_host
def test_a_dump_that_is_not_finished_goes_on_by_the_rules_it_began_with(
    kept: Path, distill: Distill
) -> None:
    shard = Path("labels/view-0001/shard-00000.safetensors")
    whole = shard.read_bytes()
    shard.unlink()
    Path("labels/manifest.json").unlink()
    dump = ("cache-soft-labels", "--teachers", "teacher", "--views", 2, "--out", "labels")
    outcome = distill(*dump, "--threads", 1, "--quiet")
    assert outcome.code == 0, outcome.err
    made = shard.read_bytes()
    assert len(made) == len(whole)
    assert json.loads(Path("labels/plan.json").read_text())["split"] == {
        "seed": 0,
        "val_fraction": 0.1,
    }
