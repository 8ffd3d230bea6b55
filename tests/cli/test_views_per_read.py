"""`--views-per-read` and `decoding: scaled` through the real commands: exact, replayable, or refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from distill_cli.cache.reader import CacheReader
from tests.cli.test_large import photographs
from tests.cli.test_time import killed_at, state_of
from tests.conftest import Made, Outcome
from tests.processes import start
from tests.reliability import Reliability
from tests.saved import same

Distill = Callable[..., Outcome]
COMMON = ("--data", "data", "--size", 136, "-j", 0, "-b", 4, "--quiet", "--precision", "fp32")
TRAIN = ("teacher", "train", *COMMON, "--model", "mlp_8x1", "--set", "warmup_epochs=0")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(here: Path, distill: Distill) -> None:
    """In the middle of a read's views, and of the block of epochs that shows them."""
    photographs(here / "data", count=14)
    args = (*TRAIN, "--epochs", 4, "--views-per-read", 4, "--out")
    assert distill(*args, "whole").code == 0
    process = start(*args, here / "torn", "--checkpoint-every", "1s", before=killed_at(9))
    assert process.end().code == -signal.SIGKILL
    assert (state_of(here / "torn")["epoch"], state_of(here / "torn")["step"]) == (2, 2)
    other = distill("teacher", "train", "--resume", "--out", "torn", "--views-per-read", 2)
    assert other.code == 3
    assert "views_per_read 4 → 2" in other.err
    outcome = distill("teacher", "train", "--resume", "--out", "torn", "--quiet")
    assert outcome.code == 0, outcome.err
    assert same(here / "whole", here / "torn")
    assert yaml.safe_load((here / "torn/recipe.yaml").read_text())["views_per_read"] == 4
    assert distill(*TRAIN, "--epochs", 4, "--out", "alone").code == 0
    assert not same(here / "whole", here / "alone"), "the order is another one"


def test_a_cache_replays_whatever_a_read_gives(here: Path, distill: Distill) -> None:
    """Of views that are decoded at a scale; its teacher's, the student's and predict's are alike."""
    photographs(here / "data", count=12, side=300)
    scaled = ("--set", "decoding=scaled")
    outcome = distill(*TRAIN, "--epochs", 1, *scaled, "--out", "t")
    assert outcome.code == 0, outcome.err
    dump = ("cache-soft-labels", "--teachers", "t", "--views", 3, "--quiet", "--force", "-j", 0)
    assert distill(*dump, "--out", "c").code == 0
    assert CacheReader(here / "c").plan.view_spec.framing.decoding == "scaled"
    assert distill("cache", "verify", "c").code == 0
    student = ("student", "--teachers", "c", "--model", "mlp_8x1", "-b", 6, "-j", 0, "--quiet")
    outcome = distill(*student, "--epochs", 3, "--force", "--views-per-read", 3, "--out", "k3")
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load((here / "k3/recipe.yaml").read_text())
    assert (recipe["decoding"], recipe["views_per_read"]) == ("scaled", 3)
    config = json.loads((here / "k3/model/config.json").read_text())
    assert config["distill"]["view"]["decoding"] == "scaled"
    assert distill("evaluate", "k3", "--json").code == 0
    refused = distill(*student, "--set", "decoding=full", "--force", "--out", "full")
    assert refused.code == 3
    assert "decoding 'full' contradicts the cache's views, made with 'scaled'" in refused.err
    refused = distill(*student, "--views-per-read", 4, "--force", "--out", "four")
    assert refused.code == 2
    assert "--views-per-read 4: the cache has labels of 3 views of each image" in refused.err


def test_an_image_in_memory_is_not_read(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    command = "distill teacher train --data digits --views-per-read 4"
    outcome = distill(*command.split()[1:])
    assert outcome.code == 2
    reliability(
        "Usage and recipes", "several views of a read of images in memory", command, outcome
    )
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--augment", "rrc,mixup"), "mixup mixes an image with another one in each view"),
        (("--order", "balanced"), "the balanced order shows different images of each class"),
    ],
)
def test_what_cannot_share_a_read_is_refused_before_the_data(
    here: Path, distill: Distill, more: tuple[object, ...], reason: str
) -> None:
    args = ("teacher", "train", "--data", "nowhere", "--views-per-read", 4, *more)
    outcome = distill(*args)
    assert outcome.code == 2
    assert f"--views-per-read 4: {reason}" in outcome.err


def test_copies_of_the_data_do_not_share_reads(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill(
        *("student", "--teachers", f"{made.teacher},{made.labels / 'a'}", "--mode", "relabel"),
        *("--views-per-read", 2),
    )
    assert outcome.code == 2
    assert "--views-per-read 2: --mode relabel shuffles copies of the data" in outcome.err
