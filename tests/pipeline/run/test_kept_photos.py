"""What version 0.3.0 made of photos of odd sizes, with EXIF tags and alpha, is made of them today.

tests/fixtures/make_photos.py made it, with the code of that version; see there. fp32 on the CPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill_cli.cache.manifest import read_plan
from distill_cli.cache.reader import CacheReader
from distill_cli.pipeline.labels import prepare
from distill_cli.types import EARLIER_FRAMING
from tests.conftest import Outcome, on_host
from tests.fixtures.make_photos import pixels_of
from tests.pipeline.run.test_resume import distance, network

Distill = Callable[..., Outcome]
KEPT = Path(__file__).parents[2] / "fixtures" / "kept-0.3.0"


@pytest.fixture
def kept(here: Path) -> Path:
    """A copy of all of it, in the working folder."""
    shutil.copytree(KEPT, here, dirs_exist_ok=True)
    return here


@pytest.mark.parametrize("side", [28, 136], ids=["decoded once", "read from files"])
def test_an_old_view_spec_makes_the_same_pixels(kept: Path, side: int) -> None:
    assert pixels_of(side) == json.loads((kept / "pixels.json").read_text())[str(side)]


def test_an_old_model_answers_as_it_did(kept: Path, distill: Distill) -> None:
    outcome = distill("predict", "teacher", "photos", "--json")
    assert outcome.code == 0, outcome.err
    now = [json.loads(line) for line in outcome.out.splitlines()]
    then = [json.loads(line) for line in (kept / "predictions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in now] == [line["image"] for line in then]
    for line, before in zip(now, then, strict=True):
        # Another processor rounds otherwise, by far less than another pixel row would.
        assert line["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
    evaluated = json.loads(distill("evaluate", "teacher", "--json").out)
    result = json.loads((kept / "teacher/result.json").read_text())
    assert evaluated["nll"] == pytest.approx(result["test_nll"], abs=1e-5)


@pytest.mark.parametrize("name", ["cached", "files"])
def test_a_stopped_run_goes_on_to_the_same_weights(kept: Path, distill: Distill, name: str) -> None:
    verb = ("student",) if name == "cached" else ("teacher", "train")
    before = yaml.safe_load((kept / name / "recipe.yaml").read_text())
    outcome = distill(*verb, "--resume", "--out", name, "--data", "photos", "--quiet")
    assert outcome.code == 0, outcome.err
    end = load_file(f"{name}-end.safetensors")
    assert distance(network(kept / name), end) < 1e-3
    assert distance(network(KEPT / name), end) > 0.01
    after = yaml.safe_load((kept / name / "recipe.yaml").read_text())
    framing = asdict(EARLIER_FRAMING)
    moved = {"data": None, "recorded": None}
    expected = {**before, **framing, **moved}
    assert {key: after[key] for key in expected} | moved == expected
    assert after["recorded"]["view_spec"] == before["recorded"]["view_spec"], "without new keys"


@on_host
def test_caches_replay_and_go_on(
    kept: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = distill("cache", "verify", "labels", "--sample", 20)
    assert outcome.code == 0, outcome.err
    # Another machine would be refused for its processor and libraries, which is not tested here.
    plan = read_plan(kept / "half")
    monkeypatch.setattr(prepare, "versions", lambda: dict(plan.versions))
    monkeypatch.setattr(prepare, "cpu_capability", lambda: plan.cpu_capability)
    dump = ("cache-soft-labels", "--teachers", "teacher", "--data", "photos", "--views", 2)
    outcome = distill(*dump, "--shard-length", 8, "--out", "half", "--quiet")
    assert outcome.code == 0, outcome.err
    whole, half = CacheReader(kept / "labels"), CacheReader(kept / "half")
    assert half.plan == whole.plan
    rows = torch.arange(whole.plan.dataset.samples)
    for view in (0, 1):
        views = torch.full_like(rows, view)
        labels = [reader.gather(rows, views) for reader in (whole, half)]
        for name, value in labels[0].items():
            assert torch.allclose(value, labels[1][name], atol=1e-4), name


def test_a_student_learns_from_what_its_teachers_saw(kept: Path, distill: Distill) -> None:
    data = ("--data", "photos", "--model", "mlp_4x1", "--epochs", 1)
    for number, teacher in enumerate(("teacher", "labels")):
        outcome = distill("student", "--teachers", teacher, *data, "--out", f"s{number}")
        assert outcome.code == 0, outcome.err
        assert "resize: round, orientation: stored, background: none" in outcome.err
        recipe = yaml.safe_load((kept / f"s{number}/recipe.yaml").read_text())
        assert {key: recipe[key] for key in asdict(EARLIER_FRAMING)} == asdict(EARLIER_FRAMING)
    outcome = distill(
        "student", "--teachers", "labels", *data, "--set", "resize=floor", "--out", "s2"
    )
    assert outcome.code == 3
    assert "resize 'floor' contradicts the cache's views, made with 'round'" in outcome.err
