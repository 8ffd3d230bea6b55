"""Pseudo-labels through the command line: what is reported, over a kill, live and from a cache."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_cli.training import pauses
from distill_cli.training.loop import Trainer
from distill_cli.types import PSEUDO_LABELS
from tests.cli.test_unlabelled import written
from tests.conftest import Outcome, invoke, on_host
from tests.processes import start
from tests.saved import same

Distill = Callable[..., Outcome]
EXACT = ("--precision", "fp32", "--augment", "none", "--quiet")
STUDENT = (
    *("student", "--model", "mlp_16x1", "--dropout", 0.2, "--epochs", 3, "-b", 16, *EXACT),
    *("--set", "objective=[{name: ce}, {name: pseudo-label, adaptive: true, fairness: 0.01}]"),
)


@dataclass(frozen=True)
class Made:
    data: Path
    teacher: Path
    cache: Path


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images, most of them loose, a teacher of the labelled ones and its cache; never to be changed."""
    folder = tmp_path_factory.mktemp("pseudo")
    data, teacher, cache = written(folder / "data"), folder / "t", folder / "c"
    common = ("teacher", "train", *EXACT, "--model", "mlp_16x1", "--data", data)
    for line in (
        (*common, "--epochs", 12, "--out", teacher),
        (
            "cache-soft-labels",
            "--teachers",
            teacher,
            "--augment",
            "none",
            "--out",
            cache,
            "--quiet",
        ),
    ):
        outcome = invoke(*line)
        assert outcome.code == 0, outcome.err
    return Made(data, teacher, cache)


def counts_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / PSEUDO_LABELS).read_text().splitlines()]


def rows_of(run: Path) -> list[dict[str, str]]:
    """summary.csv without what depends on the clock."""
    with (run / "summary.csv").open() as file:
        clock = ("seconds", "images_per_second")
        return [{k: v for k, v in row.items() if k not in clock} for row in csv.DictReader(file)]


@on_host
def test_what_is_reported(taught: Made, here: Path, distill: Distill) -> None:
    """Share and balance in every log, the counts in a file of their own; alike live and from a cache."""
    for name, teacher in (("live", taught.teacher), ("cached", taught.cache)):
        outcome = distill(*STUDENT, "--teachers", teacher, "--out", name)
        assert outcome.code == 0, outcome.err
    assert counts_of(here / "live") == counts_of(here / "cached")
    events = [json.loads(line) for line in (here / "live/metrics.jsonl").read_text().splitlines()]
    counts = counts_of(here / "live")
    assert [line["epoch"] for line in counts] == [1, 2, 3]
    for event, row, line in zip(events, rows_of(here / "live"), counts, strict=True):
        assert line["accepted"] == sum(line["classes"].values())
        assert 0 < line["accepted"] <= line["seen"]
        assert event["train_accepted"] == line["accepted"] / line["seen"]
        assert float(row["train_accepted"]) == event["train_accepted"]
        assert 0 < event["train_accepted_entropy"] <= 1
        assert (line["right"], line["accuracy"], line["known"]) == (None, None, 0)
        assert {"train_pseudo_label", "train_fairness"} <= event.keys()
    page = distill("report", "live")
    assert page.code == 0, page.err
    assert "Pseudo-labels" in (here / "live/report.html").read_text()
    # Another run in its place leaves none of it.
    ce = ("--teachers", taught.teacher, "--objective", "kd", "--out", "live", "--overwrite")
    assert distill(*STUDENT[:-2], *ce).code == 0
    assert not (here / "live" / PSEUDO_LABELS).exists()


def test_the_line_of_an_epoch_says_how_many(taught: Made, here: Path, distill: Distill) -> None:
    loud = [word for word in STUDENT if word != "--quiet"]
    outcome = distill(*loud, "--teachers", taught.teacher, "--out", "r")
    assert outcome.code == 0, outcome.err
    assert ", pseudo-labels " in outcome.err
    assert "; pseudo-label: from the others" in outcome.err


def ticking() -> None:
    """Has each look at the clock find it a second later: a step takes one second."""
    seconds = count(1)
    pauses.clock = lambda: float(next(seconds))


def killed_at(step: int) -> Callable[[], None]:
    def patch() -> None:
        ticking()
        plain, steps = Trainer.train_step, count(1)

        def dying(self: Trainer, batch: Any) -> int:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, batch)

        Trainer.train_step = dying  # type: ignore[method-assign]

    return patch


@on_host
def test_a_kill_in_an_epoch_changes_no_count(
    taught: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Callable[..., None],
) -> None:
    """Thresholds, counts, figures and weights are those of a run that was not killed."""
    monkeypatch.setattr(pauses, "clock", pauses.clock)
    ticking()
    args = (*STUDENT, "--teachers", taught.teacher, "--out")
    assert distill(*args, "whole").code == 0
    process = start(*args, here / "torn", "--checkpoint-every", "3s", before=killed_at(15))
    assert process.end().code == -signal.SIGKILL
    state = torch.load(here / "torn/last/checkpoint.pt", weights_only=True)["state"]
    assert (state["epoch"], state["step"] > 0) == (1, True)
    assert sum(state["pseudo_labels"]) > 0
    before = (here / "torn" / PSEUDO_LABELS).read_bytes()
    # As if it had died between the line of an epoch and its checkpoint.
    (here / "torn" / PSEUDO_LABELS).write_bytes(
        before + before.replace(b'"epoch": 1', b'"epoch": 2')
    )
    outcome = distill("student", "--resume", "--out", "torn", "--quiet")
    assert outcome.code == 0, outcome.err
    assert counts_of(here / "whole") == counts_of(here / "torn")
    assert rows_of(here / "whole") == rows_of(here / "torn")
    assert same(here / "whole", here / "torn")
    reliability(
        "Kills, disks and streams",
        "killed in an epoch whose labels are made up (adaptive thresholds, fairness)",
        "distill student --teachers runs/a --objective pseudo-label …",
        outcome,
        message="the counts, thresholds and bits of an unbroken run",
    )
