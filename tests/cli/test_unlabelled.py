"""Images without labels: loose ones in train/, beside a few that have one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from distill_cli.types import Batch
from tests.conftest import Outcome, invoke, on_host
from tests.data.pictures import LEFT, TOP, picture

Distill = Callable[..., Outcome]
CLASSES: dict[str, list[str]] = {"both": [LEFT, TOP], "left": [LEFT], "top": [TOP]}
# Ten of each class have a label, of which one is held out; four times as many have none.
LABELLED, LOOSE = 10, 120
EXACT = ("--precision", "fp32", "--model", "mlp_16x1", "--quiet")


def written(folder: Path, *, loose: int = LOOSE) -> Path:
    """A data folder."""
    for name, bright in CLASSES.items():
        for split, count in (("train", LABELLED), ("test", 20)):
            for number in range(count):
                path = folder / split / name / f"{number:03}.png"
                picture(path, bright, seed=1000 * len(split) + number)
    for number in range(loose):
        bright = list(CLASSES.values())[number % 3]
        picture(folder / f"train/loose-{number:03}.png", bright, seed=9000 + number)
    return folder


@dataclass(frozen=True)
class Made:
    data: Path
    teacher: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images, most of them loose, and a teacher of the labelled ones; never to be changed."""
    folder = tmp_path_factory.mktemp("unlabelled")
    data, teacher = written(folder / "data"), folder / "t"
    common = ("teacher", "train", *EXACT, "--data", data, "--augment", "none")
    outcome = invoke(*common, "--epochs", 12, "--out", teacher)
    assert outcome.code == 0, outcome.err
    return Made(data, teacher)


def epochs_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@on_host
@pytest.mark.parametrize("objective", ["ce", "knowledge-refinery", "selective,label-smoothing"])
def test_a_teacher_is_shown_labelled_images_alone(
    made: Made, here: Path, distill: Distill, shown: list[Batch], objective: str
) -> None:
    """Batches of a few labelled images among many others, at the rate for whole ones, ruined it."""
    written(here / "alone", loose=0)
    common = ("teacher", "train", *EXACT, "--epochs", 2, "--objective", objective, "--augment")
    for name, data in (("some", made.data), ("alone", here / "alone")):
        outcome = distill(*common, "light", "--data", data, "--out", f"r-{name}")
        assert outcome.code == 0, outcome.err
    half = len(shown) // 2
    assert half == 2 * (27 // 8)
    for one, other in zip(shown[:half], shown[half:], strict=True):
        assert one.target_B.equal(other.target_B)
        assert one.images_BCHW.equal(other.images_BCHW)
        assert not one.unlabelled
    recipes = [
        yaml.safe_load((here / f"r-{name}/recipe.yaml").read_text()) for name in ("some", "alone")
    ]
    assert [recipe["batch_size"] for recipe in recipes] == [8, 8]
    assert recipes[0]["lr"] == recipes[1]["lr"]


def test_what_is_learnt_from_is_said(made: Made, here: Path, distill: Distill) -> None:
    talks = [part for part in EXACT if part != "--quiet"]
    outcome = distill("teacher", "train", *talks, "--data", made.data, "--epochs", 1, "--out", "t")
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "147 to train on (27 labelled, 120 without labels), 3 held out, 60 test" in err
    said = "ce: learnt from the 27 labelled images of 147; from the others a student learns by kd"
    assert said in err
    for objective, said in (
        ("kd", "ce: learnt from the 27 labelled images of 147; kd: from all"),
        ("dkd", "ce and dkd: learnt from the 27 labelled images of 147; from the others kd learns"),
    ):
        student = ("student", "--teachers", made.teacher, *talks, "--epochs", 1, "--dry-run")
        outcome = distill(*student, "--objective", objective)
        assert outcome.code == 0, outcome.err
        assert said in " ".join(outcome.err.split())


@on_host
def test_a_student_is_shown_all(
    made: Made, here: Path, distill: Distill, shown: list[Batch]
) -> None:
    """And its share of right answers is of those that have a label: 27 of 147 at most, it was."""
    student = ("student", *EXACT, "--teachers", made.teacher, "--epochs", 4)
    outcome = distill(*student, "--lr", 0.02, "--out", "s")
    assert outcome.code == 0, outcome.err
    assert {batch.labelled_share for batch in shown} == {27 / 147}
    assert len({int(row) for batch in shown for row in batch.index_B}) == 147
    assert epochs_of(here / "s")[-1]["train_top1"] > 0.5


def test_hard_labels_beside_terms_of_all_images(made: Made, here: Path, distill: Distill) -> None:
    """The loss of two or three labelled images a batch blew up beside a relation of all."""
    student = ("student", *EXACT, "--objective", "similarity", "--teachers", made.teacher)
    outcome = distill(*student, "-b", 8, "--lr", 0.3, "--epochs", 4, "--out", "s", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["test_top1"] > 0.6


def test_no_label_at_all(here: Path, distill: Distill) -> None:
    """A training without a loss ended with exit code 0."""
    data = written(here / "data")
    (data / "train").rename(data / "val")
    for number in range(20):
        picture(data / f"train/{number}.png", [LEFT], seed=number)
        (data / f"val/loose-{number:03}.png").unlink()
    for left in (data / "val").glob("*.png"):
        left.unlink()
    outcome = distill("teacher", "train", *EXACT, "--data", "data", "--out", "t")
    assert outcome.code == 3, outcome.err
    assert "no training image of" in outcome.err
    assert "which is all that ce learns from" in outcome.err
    assert not (here / "t").exists()


def test_a_balanced_order_is_of_the_labelled(made: Made, here: Path, distill: Distill) -> None:
    common = (*EXACT, "--order", "balanced", "--epochs", 1)
    outcome = distill("teacher", "train", *common, "--data", made.data, "--out", "t")
    assert outcome.code == 0, outcome.err
    student = ("student", *common, "--teachers", made.teacher, "--out", "s", "--objective")
    outcome = distill(*student, "kd")
    assert outcome.code == 3, outcome.err
    assert "120 of 147 training images have no label" in outcome.err
    assert distill(*student, "dkd").code == 0


@on_host
def test_a_run_of_an_earlier_version_means_what_it_did(
    made: Made, here: Path, distill: Distill, shown: list[Batch]
) -> None:
    """All images in every batch, a batch of 128, and means over the labelled ones of each."""
    old = {"recorded": {"versions": {"distill-cli": "0.4.0"}, "defaults": "0.4.0"}}
    old |= {"command": "teacher train", "data": str(made.data), "model": "mlp_16x1", "epochs": 1}
    (here / "old.yaml").write_text(yaml.safe_dump(old))
    outcome = distill("teacher", "train", "-r", "old.yaml", "--quiet", "--out", "t")
    assert outcome.code == 0, outcome.err
    [batch] = shown
    assert (len(batch.index_B), batch.labelled_share) == (128, None)
    assert int(batch.labelled) == int((batch.target_B >= 0).sum()) < 28
    kept = yaml.safe_load((here / "t/recipe.yaml").read_text())
    assert (kept["batch_size"], kept["recorded"]["defaults"]) == (128, "0.4.0")
