"""Which images a round learns from, and how its labels are told of."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_files import read_corrections, read_probabilities
from distill_cli.data.label_rules import LabelRules
from distill_cli.data.labels import relabelled
from distill_cli.pipeline.run.round_labels import Answers, evenness
from distill_cli.types import UNLABELLED


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """The digits, of which six have lost their label."""
    data = open_dataset("digits")
    label_N, hidden_N = data.train.label_N.clone(), data.hidden_N.clone()
    rows = data.fit_rows[:6]
    hidden_N[rows] = label_N[rows]
    label_N[rows] = UNLABELLED
    return replace(data, train=replace(data.train, label_N=label_N), hidden_N=hidden_N)


def answers(dataset: Dataset, classes: list[int], confidence: list[float]) -> Answers:
    """Answers of which class k has the probability c, and all others share the rest."""
    share_UK = torch.tensor([[(1 - c) / 9] * 10 for c in confidence], dtype=torch.float64).scatter_(
        1, torch.tensor(classes)[:, None], torch.tensor(confidence).double()[:, None]
    )
    return Answers.of(dataset, share_UK.log())


def test_the_threshold_itself_is_enough(dataset: Dataset) -> None:
    found = answers(dataset, [0, 0, 0, 1, 1, 2], [0.95, 0.5, 0.9, 0.8, 0.99, 0.2])
    assert found.chosen(0.5, balance=False).tolist() == [True, True, True, True, True, False]
    assert found.chosen(0.96, balance=False).tolist() == [False] * 4 + [True, False]


def test_balance_takes_the_surest_of_each_class(dataset: Dataset) -> None:
    """As many as the rarest class has that has any: a class without any asks for none."""
    found = answers(dataset, [0, 0, 0, 1, 1, 2], [0.95, 0.5, 0.9, 0.8, 0.99, 0.3])
    assert found.chosen(0.4, balance=True).tolist() == [True, False, True, True, True, False]
    assert found.chosen(0.25, balance=True).tolist() == [True, False, False, False, True, True]
    assert found.chosen(0.995, balance=True).tolist() == [False] * 6


def test_no_class_is_chosen_that_is_left_out(dataset: Dataset) -> None:
    left = relabelled(dataset, LabelRules(omit=("4",)))
    found = answers(left, [4, 5, 4, 5, 4, 5], [0.9, 0.8, 0.9, 0.9, 0.9, 0.9])
    assert found.chosen(0.5, balance=True).tolist() == [False, True, False, True, False, True]


def test_equal_probabilities_are_taken_in_the_order_of_rows(dataset: Dataset) -> None:
    found = answers(dataset, [4, 4, 4, 5, 5, 5], [0.5] * 5 + [0.1])
    assert found.chosen(0.4, balance=True).tolist() == [True, True, False, True, True, False]


def test_a_row_counts_and_knows_what_is_hidden(dataset: Dataset) -> None:
    truth = dataset.hidden_N[dataset.fit_rows[:6]].tolist()
    labels = [*truth[:4], (truth[4] + 1) % 10, (truth[5] + 1) % 10]
    found = answers(dataset, labels, [0.9, 0.9, 0.9, 0.9, 0.9, 0.2])
    row = found.round(2, ".", 0.5, found.chosen(0.5, balance=False))
    assert (row.unlabelled, row.above, row.chosen, row.known) == (6, 5, 5, 5)
    assert row.accuracy == pytest.approx(4 / 5)
    assert row.labelled == len(dataset.fit_rows) - 6
    assert row.confidence == pytest.approx(0.9)
    assert row.classes is not None
    assert sum(row.classes.values()) == 5


def test_a_list_is_what_a_training_reads(dataset: Dataset) -> None:
    """Behind the rows that were given, by a person or an earlier network; a name with a comma stays one cell."""
    named = replace(dataset, class_names=("a, b", *dataset.class_names[1:]))
    found = answers(named, [0] * 6, [0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    before = {(("train", "index:7"), "3"): "", (("train", "index:9"), "4"): "0.700000"}
    text = found.listed(found.chosen(0.5, balance=False), before)
    header, given, earlier, made = csv.reader(text.splitlines())
    assert header == ["split", "sample_id", "label", "confidence"]
    assert given == ["train", "index:7", "3", ""]
    assert earlier == ["train", "index:9", "4", "0.700000"]
    first = dataset.train.sample_ids[int(dataset.fit_rows[0])]
    assert made == ["train", first, "a, b", "0.900000"]


def test_what_a_network_said_is_told_from_what_a_person_said(
    dataset: Dataset, tmp_path: Path
) -> None:
    named = replace(dataset, class_names=("a, b", *dataset.class_names[1:]))
    found = answers(named, [0] * 6, [0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    before = {(("train", "index:7"), "3"): ""}
    path = tmp_path / "l.csv"
    path.write_text(found.listed(found.chosen(0.5, balance=False), before))
    first = dataset.train.sample_ids[int(dataset.fit_rows[0])]
    made = (("train", first), "a, b")
    assert set(read_corrections(path)) == {*before, made}
    assert read_probabilities(path) == {made: "0.900000"}
    # Another list's column of that name says nothing of who said its labels.
    path.write_text("sample_id,split,suggested,confidence\nindex:7,train,3,0.9\n")
    assert read_probabilities(path) == {}


def test_evenness() -> None:
    assert evenness([5, 5, 5, 5]) == pytest.approx(1)
    assert evenness([7, 0, 0, 0]) == 0
    assert evenness([3, 1]) == pytest.approx(
        (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)
    )
