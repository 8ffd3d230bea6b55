"""What version 0.2.0 left behind: runs go on, a cache is whole and teaches, a recipe means the same.

tests/fixtures/make_kept.py made it, with the code of that version; see there. fp32 on the CPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from distill_cli.types import EARLIER_FRAMING
from tests.conftest import Outcome
from tests.pipeline.run.test_resume import distance, network

Distill = Callable[..., Outcome]
KEPT = Path(__file__).parents[2] / "fixtures" / "kept-0.2.0"


@pytest.fixture
def kept(here: Path) -> Path:
    """A copy of all of it, in the working folder."""
    shutil.copytree(KEPT, here, dirs_exist_ok=True)
    return here


@pytest.mark.parametrize("name", ["cached", "live"])
def test_a_stopped_run_goes_on_to_the_same_weights(kept: Path, distill: Distill, name: str) -> None:
    before = yaml.safe_load((kept / name / "recipe.yaml").read_text())
    outcome = distill("student", "--resume", "--out", name, "--quiet")
    assert outcome.code == 0, outcome.err
    # Another processor rounds otherwise; the weights moved by far more in the epochs that were left.
    end = load_file(f"{name}-end.safetensors")
    assert distance(network(kept / name), end) < 0.01
    assert distance(network(KEPT / name), end) > 0.05
    after = yaml.safe_load((kept / name / "recipe.yaml").read_text())
    # What a later version asks beside it is asked at its default, which changes nothing.
    framing = asdict(EARLIER_FRAMING)
    expected = {**before, **framing, "recorded": None}
    assert {**{key: after[key] for key in expected}, "recorded": None} == expected


def test_the_cache_is_whole_and_teaches_by_the_recipe(kept: Path, distill: Distill) -> None:
    assert distill("cache", "verify", "labels", "--sample", 4).code == 0
    args = ("student", "--recipe", "student.yaml", "--out", "s", "--json", "--quiet")
    # A person's recipe, which says nothing of the batch that 0.2.0 had.
    outcome = distill(*args, "-b", 128)
    assert outcome.code == 0, outcome.err
    # 0.2.0 made 203 errors of 359; another processor may round an image or two over the border.
    assert abs(json.loads(outcome.out)["test_errors"] - 203) <= 3
