"""Students that teach themselves, through the commands: what is refused, composed, resumed and shared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill_cli.training.loop import Trainer
from distill_cli.types import Batch
from tests.conftest import Made, Outcome, on_host
from tests.ranks import by_ranks
from tests.reliability import Reliability
from tests.saved import same, weights

Distill = Callable[..., Outcome]
STREAMS = ("--labels-per-class", 10, "--unlabelled-share", 0.75, "-b", 96)
VIEWS = ("--teacher-augment", "shift:1", "--augment", "shift:1,rotate:20")
TINY = ("--data", "digits", "--model", "mlp_16x1", "--precision", "fp32", "--epochs", 2, "--quiet")
SELF = ("student", "--teachers", "self", *TINY, *STREAMS, *VIEWS)
PSEUDO = ("--objective", "ce,pseudo-label")
AVERAGE = ("student", "--teachers", "ema", "--ema", 0.9, *TINY, *STREAMS, *VIEWS)
CONSISTENT = ("--objective", "ce,consistency")


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def recipe(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((run / "recipe.yaml").read_text())
    return content


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("student", "--teachers", "self", *TINY), "its gradient is zero"),
        (("student", "--teachers", "self", *TINY, *CONSISTENT), "its gradient is zero"),
        (("student", "--teachers", "ema", *TINY), "Add --ema"),
        (("student", "--teachers", "self,self", *TINY, *VIEWS), "one and the same"),
        (("student", "--teachers", "self", *TINY, *VIEWS, "--objective", "attention"), "layers"),
        (("student", "--teachers", "self", *TINY, *VIEWS, "--hints"), "that is trained"),
        ((*SELF, *PSEUDO, "--labelled-augment", "mixup:1"), "mixup and cutmix"),
        ((*SELF, *PSEUDO, "--order", "balanced"), "do not go together"),
        ((*SELF, *PSEUDO, "--views-per-read", 2), "do not go together"),
        (("student", "--teachers", "self", *TINY, "--labelled-augment", "none"), "of its own"),
        (
            ("student", "--teachers", "self", *TINY, *PSEUDO, "--teacher-augment", "cache"),
            "none of the teachers is a cache",
        ),
        ((*SELF, *PSEUDO, "--accumulate", 5), "shared evenly"),
        (
            ("student", "--teachers", "self", *TINY, *VIEWS, *PSEUDO, "--unlabelled-share", 0.5),
            "without a label",
        ),
        (
            ("cache-soft-labels", "--teachers", "self", "--data", "digits"),
            "nothing else can ask it",
        ),
        (("hint-init", "--teachers", "ema", "--data", "digits"), "nothing else can ask it"),
    ],
)
def test_refusals(here: Path, distill: Distill, args: tuple[Any, ...], text: str) -> None:
    outcome = distill(*args)
    assert outcome.code in (2, 3), outcome.err
    assert text in " ".join(outcome.err.split())
    assert not (here / "runs").exists()


def test_a_mode_of_self_without_it(here: Path, distill: Distill, made: Made) -> None:
    args = ("student", "--teachers", made.teacher, "--set", "self.mode=eval", "--quiet")
    outcome = distill(*args)
    assert outcome.code == 2
    assert "Add --teachers self" in outcome.err
    for mode in (("--mode", "relabel"), ("--mode", "random", "--random-per", "sample")):
        both = ("student", "--teachers", f"self,{made.teacher}", *mode, *VIEWS, "--quiet")
        outcome = distill(*both)
        assert outcome.code == 2
        assert "each image asks a teacher by itself" in " ".join(outcome.err.split())


def test_reliability_of_a_teacher_of_itself(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    outcome = distill("student", "--teachers", "self", *TINY)
    reliability(
        "Usage and recipes",
        "a student whose answers would be compared with themselves",
        "distill student --teachers self",
        outcome,
    )


def test_what_a_run_says_and_records(here: Path, distill: Distill) -> None:
    low = "objective=[{name: ce}, {name: pseudo-label, threshold: 0.2}]"
    args = [arg for arg in (*SELF, "--set", low, "--out", "r") if arg != "--quiet"]
    outcome = distill(*args)
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.err.split())
    assert "each batch: 24 labelled images (of 90) and 72 unlabelled ones (of" in said
    kept = recipe(here / "r")
    assert kept["teachers"] == ["self"]
    assert kept["teacher_augment"] == kept["labelled_augment"] == ["shift:1"]
    assert kept["recorded"]["teachers"] == ["self"]
    figures = result(here / "r")
    assert figures["teacher_agreement"] is None
    lines = (here / "r" / "pseudo-labels.jsonl").read_text().splitlines()
    entry = json.loads(lines[-1])
    assert entry["known"] == entry["accepted"] > 0, "the report knows what was hidden"
    assert distill("report", "r").code == 0
    assert distill("compare", "r").code == 0


@on_host
def test_it_composes_with_teachers_and_caches(
    here: Path, distill: Distill, made: Made, shown: list[Batch]
) -> None:
    """In a mixture; and with a cache whose views are the teacher's alone."""
    common = ("--data", "digits", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    for number, mode in enumerate(("ensemble", "random")):
        mixture = ("--teachers", f"{made.teacher},self", "--mode", mode, *VIEWS)
        outcome = distill("student", *mixture, *common, *STREAMS, "--out", f"m{number}")
        assert outcome.code == 0, outcome.err
    counts = {0 if b.teacher_TCHW is None else len(b.teacher_TCHW) for b in shown}
    assert counts == {96}, "kd learns from all"
    shown.clear()
    cached = ("--teachers", made.labels / "a", "--teacher-augment", "cache")
    outcome = distill("student", *cached, "--augment", "rotate:30", *common, "--out", "c")
    assert outcome.code == 0, outcome.err
    assert recipe(here / "c")["teacher_augment"] == ["cache"]
    assert recipe(here / "c")["augment"] != ["shift:1"]
    outcome = distill("student", *cached[:2], "--augment", "rotate:30", *common, "--out", "d")
    assert outcome.code == 3
    assert "contradicts the cache's views" in outcome.err


@pytest.mark.parametrize("args", [(*SELF, *PSEUDO), (*AVERAGE, *CONSISTENT)], ids=["self", "ema"])
def test_resumed_to_the_bit(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, args: tuple[Any, ...]
) -> None:
    """Stopped in the middle of an epoch."""
    assert distill(*args, "--out", "whole").code == 0
    plain, taken = Trainer.train_step, 0

    def stopping(self: Trainer, batch: Any) -> int:
        nonlocal taken
        taken += 1
        if taken == 20:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        assert distill(*args, "--out", "torn", "--checkpoint-every", "1s").code != 0
    assert distill(*args, "--out", "torn", "--resume").code == 0
    assert same(here / "whole", here / "torn")
    for file in ("summary.csv", "pseudo-labels.jsonl"):
        if (here / "whole" / file).exists():
            rows = [(here / run / file).read_text().splitlines() for run in ("whole", "torn")]
            assert len(rows[0]) == len(rows[1])
    other = distill(*args, "--out", "torn", "--resume", "--teacher-augment", "shift:2")
    assert other.code in (2, 3)


@pytest.mark.slow
def test_seeds_share_their_labels_and_differ(here: Path, distill: Distill) -> None:
    args = (*SELF, *PSEUDO, "--seeds", 2, "--out", "s", "--require", "test_top1>=0")
    outcome = distill(*args)
    assert outcome.code == 0, outcome.err
    assert not same(here / "s/seed-0", here / "s/seed-1")
    assert distill(*SELF, *PSEUDO, "--seed", 1, "--out", "alone").code == 0
    assert same(here / "alone", here / "s/seed-1")


@pytest.mark.parametrize(
    "args",
    [
        (*SELF, *PSEUDO, "--dropout", 0.2),
        pytest.param((*AVERAGE, *CONSISTENT), marks=pytest.mark.slow),
    ],
    ids=["self", "ema"],
)
def test_two_ranks_follow_one_process(here: Path, distill: Distill, args: tuple[Any, ...]) -> None:
    """Dropout, streams and the teacher's own views too; in fp32, up to rounding."""
    assert distill(*args, "--out", "one").code == 0
    for rank in by_ranks(2, *args, "--out", "two"):
        assert rank.code == 0, rank.err.decode()
    one, two = weights(here / "one"), weights(here / "two")
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-4, rtol=1e-3, msg=name)


def test_a_dry_run_times_two_streams(here: Path, distill: Distill) -> None:
    args = [arg for arg in (*SELF, *PSEUDO, "--dry-run") if arg != "--quiet"]
    outcome = distill(*args)
    assert outcome.code == 0, outcome.err
    assert "each batch: 24 labelled images" in " ".join(outcome.err.split())
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        # 65 images have 33 unlabelled ones, and four parts are not of one size.
        ((*SELF, *PSEUDO, "-b", 68, "--accumulate", 3, "--unlabelled-share", 0.53), "evenly"),
        (("student", "--teachers", "self", *TINY, *VIEWS, "--hints"), "distill hint-init"),
        (
            ("student", "--teachers", "self", *TINY, *PSEUDO, "--class-map", "by-name"),
            "Leave it out",
        ),
        (
            (
                "student",
                "--teachers",
                "self",
                *TINY,
                "--augment",
                "none",
                "--teacher-augment",
                "none",
            ),
            "its gradient is zero",
        ),
    ],
)
def test_more_refusals(here: Path, distill: Distill, args: tuple[Any, ...], text: str) -> None:
    outcome = distill(*args)
    assert outcome.code == 2, outcome.err
    assert text in " ".join(outcome.err.split())
    assert "images used" not in outcome.err, "the data were read before"
    assert not (here / "runs").exists()


def test_in_turns_with_others_it_must_not_compare_itself(
    here: Path, distill: Distill, made: Made
) -> None:
    args = ("student", "--teachers", f"self,{made.teacher}", "--mode", "random", "--quiet")
    outcome = distill(*args)
    assert outcome.code == 2
    assert "its gradient is zero" in outcome.err


def test_later_generations_have_the_one_before(here: Path, distill: Distill, made: Made) -> None:
    """What is of the first one's teacher, or of its cache, is not asked of them."""
    common = ("--data", "digits", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    common = (*common, "--force", "--generations", 2)
    own = ("--teachers", "self", "--set", "self.mode=eval", "--labels-per-class", 10, *PSEUDO)
    outcome = distill("student", *own, *common, "--out", "own")
    assert outcome.code == 0, outcome.err
    cached = ("--teachers", made.labels / "a", "--teacher-augment", "cache", "--augment", "shift:2")
    outcome = distill("student", *cached, *common, "--out", "cached")
    assert outcome.code == 0, outcome.err


def test_a_value_of_an_objective_is_set_beside_its_name(here: Path, distill: Distill) -> None:
    args = (*SELF, *PSEUDO, "--set", "objective.pseudo-label.threshold=0.2", "--out", "r")
    assert distill(*args).code == 0
    [entry] = [e for e in recipe(here / "r")["objective"] if e["name"] == "pseudo-label"]
    assert entry["threshold"] == 0.2
    assert "objective_values" not in recipe(here / "r")
    outcome = distill(*SELF, *PSEUDO, "--set", "objective.pseudo-label.nonsense=1", "--out", "n")
    assert outcome.code == 2
    assert "has no 'nonsense'" in outcome.err
