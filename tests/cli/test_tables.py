"""Tables of labels through the command line: slips are named, and what is meant can be said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.test_faults import one_line
from tests.conftest import Outcome
from tests.data.pictures import LEFT, TOP, listing, picture

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--model", "mlp_8x1", "--epochs", 1, "--quiet")


def table(folder: Path, header: str, *slips: str) -> Path:
    """60 images of two classes, the labels of the first ones as given."""
    lines = []
    for number in range(60):
        name = (LEFT, TOP)[number % 2]
        picture(folder / f"{number:02}.png", [name], seed=number)
        lines.append(f"{number:02}.png,{dict(enumerate(slips)).get(number, name)}")
    return listing(folder / "table.csv", [header, *lines])


def targets(run: str) -> str:
    return str(yaml.safe_load(Path(run, "recipe.yaml").read_text())["targets"])


def test_a_slip_is_named_and_what_is_meant_can_be_said(here: Path, distill: Distill) -> None:
    table(here / "data", "file,labels", "left;top", "")
    outcome = distill(*TRAIN, "--data", "data/table.csv", "--out", "t")
    assert outcome.code == 2
    line = one_line(outcome)
    assert "2 of 60 rows have other than one label: row 2 has left;top, row 3 has none" in line
    assert "a column that is called label" in line
    assert "--targets sigmoid" in line
    assert not (here / "t").exists()
    assert distill(*TRAIN, "--data", "data/table.csv", "--targets", "softmax").code == 2
    sigmoid = (*TRAIN, "--data", "data/table.csv", "--targets", "sigmoid", "--out", "t")
    assert distill(*sigmoid).code == 0
    assert targets("t") == "sigmoid"
    # A student of that teacher, a cache of it and its evaluation need not say it again.
    student = ("student", "--teachers", "t", "--model", "mlp_8x1", "--epochs", 1, "--force")
    outcome = distill(*student, "--out", "s", "--quiet")
    assert outcome.code == 0, outcome.err
    labels = ("cache-soft-labels", "--teachers", "t", "--augment", "none", "--force")
    assert distill(*labels, "--out", "c", "--quiet").code == 0
    student = ("student", "--teachers", "c", "--model", "mlp_8x1", "--epochs", 1, "--force")
    assert distill(*student, "--out", "of-cache", "--quiet").code == 0
    assert distill("evaluate", "t").code == 0


@pytest.mark.parametrize(
    ("header", "slips", "kind"),
    [
        ("file,label", (), "softmax"),
        ("file,labels", (), "softmax"),
        ("file,labels", ("left;top", "", "left;top"), "sigmoid"),
    ],
)
def test_what_a_table_means(
    here: Path, distill: Distill, header: str, slips: tuple[str, ...], kind: str
) -> None:
    table(here, header, *slips)
    outcome = distill(*TRAIN, "--data", "table.csv", "--out", "t")
    assert outcome.code == 0, outcome.err
    assert targets("t") == kind


def test_a_two_fold_cell_under_label(here: Path, distill: Distill) -> None:
    table(here, "file,label", "left", "left;top")
    outcome = distill(*TRAIN, "--data", "table.csv", "--out", "t")
    assert outcome.code == 3
    assert "row 3: the cell under 'label' names 2 classes: left;top" in one_line(outcome)
