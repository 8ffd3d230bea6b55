"""Wrong labels: the matrix that says how often, in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome, on_host

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--epochs", 2, "-b", 64)
QUICK = ("--lr", 0.1, "--augment", "none", "--precision", "fp32", "--quiet")
FORWARD = ("--objective", "forward", "--noise-matrix", "m.csv")
NAMES = [str(digit) for digit in range(10)]


def table(diagonal: float = 1.0, *, names: bool = True) -> str:
    """The matrix in which a label is wrong with probability 1 − `diagonal`, any other alike often."""
    other = (1 - diagonal) / 9
    rows = [[diagonal if i == j else other for j in range(10)] for i in range(10)]
    lines = [",".join([*([""] if names else []), *NAMES])]
    for name, row in zip(NAMES, rows, strict=True):
        lines.append(",".join([*([name] if names else []), *map(repr, row)]))
    return "\n".join(lines) + "\n"


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@on_host
@pytest.mark.parametrize("names", [True, False])
def test_without_noise_it_is_cross_entropy(here: Path, distill: Distill, names: bool) -> None:
    (here / "m.csv").write_text(table(names=names))
    assert distill(*TRAIN, *QUICK, *FORWARD, "--out", "r").code == 0
    assert distill(*TRAIN, *QUICK, "--out", "plain").code == 0
    for found, plain in zip(lines_of(here / "r"), lines_of(here / "plain"), strict=True):
        assert found["train_ce"] == pytest.approx(plain["train_ce"], rel=1e-3)
        assert found["val_nll"] == pytest.approx(plain["val_nll"], rel=1e-3)


def test_a_matrix_that_changed_is_another_run(here: Path, distill: Distill) -> None:
    (here / "m.csv").write_text(table(0.8))
    assert distill(*TRAIN, *QUICK, *FORWARD, "--out", "r").code == 0
    assert distill(*TRAIN, *QUICK, *FORWARD, "--out", "r", "--resume").code == 0
    (here / "m.csv").write_text(table(0.7))
    outcome = distill(*TRAIN, *QUICK, *FORWARD, "--out", "r", "--resume")
    assert (outcome.code, "another recipe" in outcome.err) == (3, True), outcome.err


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("--objective", "forward"), 2, "--noise-matrix FILE"),
        (("--noise-matrix", "m.csv"), 2, "--objective forward"),
        (("--objective", "forward", "--noise-matrix", "nowhere.csv"), 2, "nowhere.csv"),
        (("--objective", "forward,label-smoothing", "--noise-matrix", "m.csv"), 2, "hard label"),
        ((*FORWARD, "--label-smoothing", 0.1), 2, "by itself"),
        (("--objective", "coarse"), 2, "--coarse-labels FILE"),
    ],
)
def test_refusals(
    given: tuple[object, ...], code: int, words: str, here: Path, distill: Distill
) -> None:
    (here / "m.csv").write_text(table(0.8))
    outcome = distill(*TRAIN, *QUICK, *given, "--out", "r")
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert not (here / "r" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("\n3,", "\nthree,"), "three"),
        (lambda text: text.replace("0.8", "0.9"), "row 0 should be probabilities of sum 1"),
        (lambda text: text.replace("0.8", "0.9", 1), "row 0 should be probabilities of sum 1"),
        (lambda text: text.replace("0.8", "nan", 1), "10 numbers"),
        (lambda text: text.replace("0.8", "1e400", 1), "row 0 should be probabilities"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "look at 9"),
        (lambda text: "", "the first row"),
        (
            lambda text: "\n".join(
                [text.splitlines()[0], *(f"{name},{'0,' * 9}1" for name in NAMES)]
            ),
            "no class is ever labelled 0",
        ),
    ],
)
def test_a_matrix_that_does_not_fit(
    change: Callable[[str], str], words: str, here: Path, distill: Distill
) -> None:
    (here / "m.csv").write_text(change(table(0.8)))
    outcome = distill(*TRAIN, *QUICK, *FORWARD, "--out", "r")
    assert outcome.code == 3, outcome.err
    assert words in outcome.err
    assert not (here / "r").exists()


def test_a_row_that_is_no_distribution(
    here: Path, distill: Distill, reliability: Callable[..., None]
) -> None:
    (here / "m.csv").write_text(table(0.8).replace("0.8", "0.9"))
    outcome = distill(*TRAIN, *QUICK, *FORWARD, "--out", "r")
    assert outcome.code == 3
    reliability(
        "Data",
        "a row of a noise matrix has the sum 1.1",
        "distill teacher train --objective forward --noise-matrix m.csv",
        outcome,
    )


def test_pseudo_labels_want_images_without_one(here: Path, distill: Distill) -> None:
    assert distill(*TRAIN, *QUICK, "--out", "t").code == 0
    taught = ("student", "--teachers", "t", "--objective", "pseudo-label", *QUICK)
    outcome = distill(*taught, "--epochs", 1, "--model", "mlp_8x1", "--force", "--out", "r")
    assert outcome.code == 2, outcome.err
    assert "every training image has one" in outcome.err
    assert "--labels-fraction" in outcome.err
