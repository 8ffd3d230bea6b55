"""`distill audit`, through the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.cache.reader import CacheReader
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_rules import LabelRules
from distill_cli.models import load_model, save_model
from distill_cli.pipeline import answers
from distill_cli.pipeline.entries import AUDIT_LISTS
from tests.conftest import Made, Outcome, invoke, tree
from tests.data.pictures import LEFT, TOP, picture
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
BRIEF = ("--augment", "none", "-b", 16, "--lr", 0.1, "-j", 0, "--quiet")
FILES = {*AUDIT_LISTS, "audit.json", "index.html"}
NOISY = 60


def changed_labels() -> dict[str, tuple[str, str]]:
    """Digits whose label is changed: the right one and the wrong one by sample id."""
    dataset = open_dataset("digits")
    some = torch.randperm(len(dataset.fit_rows), generator=torch.Generator().manual_seed(0))[:NOISY]
    rows = dataset.fit_rows[some].tolist()
    label_N, ids = dataset.train.label_N, dataset.train.sample_ids
    return {ids[row]: (str(int(label_N[row])), str((int(label_N[row]) + 3) % 10)) for row in rows}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits some of whose labels are wrong."""
    root = tmp_path_factory.mktemp("noisy")
    rows = [(name, wrong) for name, (_, wrong) in changed_labels().items()]
    with (root / "wrong.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sample_id", "label"), *rows])
    train = ("teacher", "train", "--data", "digits", "--model", "mlp_32x1", "--epochs", 4)
    noise = ("--label-noise", root / "wrong.csv")
    outcome = invoke(*train, *noise, *BRIEF, "--out", root / "r")
    assert outcome.code == 0, outcome.err
    return root / "r"


@pytest.fixture
def run(noisy: Path, here: Path) -> Path:
    """The same, to be written to."""
    return Path(shutil.copytree(noisy, here / "r"))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_wrong_labels_are_listed(run: Path, distill: Distill) -> None:
    """Most of the 60 that were changed are among as many that are doubted most, with their right class."""
    before = tree(run)
    outcome = distill("audit", run, "--budget", NOISY, "--json")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (run / "audit").iterdir()} - {".lock"} == FILES
    assert {path: value for path, value in tree(run).items() if path in before and path != run} == {
        path: value for path, value in before.items() if path != run
    }
    listed, true = rows_of(run / "audit/mislabelled.csv"), changed_labels()
    caught = [row for row in listed if row["sample_id"] in true]
    assert len(listed) == NOISY
    assert len(caught) > 0.7 * NOISY
    assert all(row["label"] == true[row["sample_id"]][1] for row in caught)
    right = sum(row["suggested"] == true[row["sample_id"]][0] for row in caught)
    assert right > 0.8 * len(caught)
    margins = [float(row["margin"]) for row in listed]
    assert margins == sorted(margins)
    summary = json.loads(outcome.out)
    assert summary.pop("out") == str(run / "audit")
    assert summary == json.loads((run / "audit/audit.json").read_text())
    assert (summary["mislabelled"], summary["hard"], summary["in_sample"]) == (NOISY, NOISY, True)
    assert (summary["images"], summary["labelled"]) == (1438, 1438)
    hard = rows_of(run / "audit/hard.csv")
    assert all(float(row["margin"]) >= 0 and row["votes"] == "0" for row in hard)
    both = {row["sample_id"] for row in rows_of(run / "audit/audit.csv")}
    assert both.isdisjoint(row["sample_id"] for row in hard)
    assert both == {
        row["sample_id"] for name in AUDIT_LISTS[1:3] for row in rows_of(run / "audit" / name)
    }


def test_without_a_budget_and_twice(run: Path, here: Path, distill: Distill) -> None:
    """As many as are confidently of another class; the same bytes each time."""
    for name in "ab":
        outcome = distill("audit", run, "--out", name)
        assert outcome.code == 0, outcome.err
    for name in FILES:
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes()
    summary = json.loads((here / "a/audit.json").read_text())
    assert summary["mislabelled"] == summary["confidently_others"] > 0.5 * NOISY
    assert summary["hard"] == 14
    assert not (run / "audit").exists()
    assert "--without b/audit.csv" in outcome.err
    assert "may have learnt these labels" in outcome.err
    assert outcome.out.endswith("b\n")


def test_what_is_not_looked_at(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other hidden labels, and other labels of test, change no byte of any file."""
    few = ("--labels-per-class", 6, "--model", "mlp_8x1", "--epochs", 1, *BRIEF)
    outcome = distill("teacher", "train", "--data", "digits", *few, "--out", "f")
    assert outcome.code == 0, outcome.err
    assert distill("audit", "f", "--budget", 5, "--out", "clean").code == 0
    summary = json.loads((here / "clean/audit.json").read_text())
    assert (summary["images"], summary["labelled"]) == (1438, 60)
    plain = answers.all_known

    def poisoned(dataset: Dataset, rules: LabelRules) -> Dataset:
        seen = plain(dataset, rules)
        hidden = seen.hidden_N >= 0
        assert hidden.sum() == 1378
        wrong = torch.where(hidden, (seen.hidden_N + 1) % 10, seen.hidden_N)
        test = replace(seen.test, label_N=(seen.test.label_N + 1) % 10)
        return replace(seen, hidden_N=wrong, test=test)

    monkeypatch.setattr(answers, "all_known", poisoned)
    assert distill("audit", "f", "--budget", 5, "--out", "poisoned").code == 0
    for name in FILES:
        assert (here / "clean" / name).read_bytes() == (here / "poisoned" / name).read_bytes()


def test_a_cache_judges_in_its_place(made: Made, here: Path, distill: Distill) -> None:
    """The mean of its labels over its views, for rows held out too. Without folds it is in sample."""
    labels = made.labels / "b"
    outcome = distill("audit", made.teacher, "--out-of-fold", labels, "--out", "o", "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert (summary["judges"], summary["in_sample"]) == ([str(labels)], True)
    reader, train = CacheReader(labels), open_dataset("digits").train
    rows = torch.arange(len(train.sample_ids))
    stored = [
        reader.codec.log_probs(reader.gather(rows, torch.full_like(rows, view)), 1.0).exp()
        for view in range(2)
    ]
    mean_NK = torch.stack(stored).mean(dim=0)
    row_of = {name: row for row, name in enumerate(train.sample_ids)}
    listed = rows_of(here / "o/hard.csv") + rows_of(here / "o/mislabelled.csv")
    assert len(listed) > 10
    for row in listed:
        number = row_of[row["sample_id"]]
        probability = float(mean_NK[number, int(row["label"])])
        assert float(row["confidence"]) == pytest.approx(probability, abs=2e-6)
    assert "learnt these very labels" in (here / "o/index.html").read_text()


def test_several_judges(run: Path, made: Made, here: Path, distill: Distill) -> None:
    """Runs beside it: their votes and how far apart they are; itself counts once."""
    teachers = f"{made.teacher},{made.labels / 'b'},r"
    outcome = distill("audit", "r", "--teachers", teachers, "--budget", 0.02, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["judges"] == ["r", str(made.teacher), str(made.labels / "b")]
    listed = rows_of(run / "audit/mislabelled.csv")
    assert len(listed) == round(0.02 * 1438)
    assert {row["votes"] for row in listed} <= {"1", "2", "3"}
    assert any(float(row["disagreement"]) > 0 for row in listed)
    wrong = changed_labels()
    assert sum(row["sample_id"] in wrong for row in listed) > 0.8 * len(listed)


def drawn(folder: Path, split: str, number: int, side: int) -> Path:
    path = folder / split / "ab"[number % 2] / f"{split}-{number}.png"
    picture(path, [LEFT] if number % 2 else [TOP], seed=number, side=side)
    return path


def patches(folder: Path, split: str, number: int, side: int) -> Path:
    """A picture of 4 × 4 patches, unlike any other at every size."""
    path = folder / split / "ab"[number % 2] / f"{split}-{number}.png"
    grid = np.random.default_rng(number).integers(0, 256, (4, 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(grid, np.ones((side // 4, side // 4))).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("side", [12, 160])
def test_duplicates_across_splits(here: Path, distill: Distill, side: int) -> None:
    """Equal and changed copies: of test, of what is held out, of train; one of each pair stays."""
    train = [patches(here / "d", "train", number, side) for number in range(24)]
    test = [patches(here / "d", "test", 100 + number, side) for number in range(6)]
    val = [patches(here / "d", "val", 200 + number, side) for number in range(6)]
    a = here / "d/train/a"
    shutil.copy(test[0], a / "leak.png")
    shutil.copy(val[2], a / "seen.png")
    shutil.copy(test[2], test[2].with_name("again.png"))
    changed = np.asarray(Image.open(train[4])).astype(float) * 0.8 + 10
    Image.fromarray(changed.astype(np.uint8)).save(a / "x.png")
    fresh = patches(here, "u", 999, side)
    shutil.copy(test[4], fresh.with_name("copy.png"))
    outcome = distill(
        *(
            "teacher",
            "train",
            "--data",
            "d",
            "--model",
            "mlp_8x1",
            "--epochs",
            1,
            *BRIEF,
            "--out",
            "r",
        )
    )
    assert outcome.code == 0, outcome.err
    outcome = distill("audit", "r", "--unlabelled", "u", "--json")
    assert outcome.code == 0, outcome.err
    listed = {row["sample_id"]: row for row in rows_of(here / "r/audit/duplicates.csv")}
    partners = {name: (row["partner_split"], row["partner"]) for name, row in listed.items()}
    assert partners == {
        "a/leak.png": ("test", "a/test-100.png"),
        "a/seen.png": ("val", "a/val-202.png"),
        "a/x.png": ("train", "a/train-4.png"),
        "unlabelled/b/copy.png": ("test", "a/test-104.png"),
    }
    assert listed["a/leak.png"]["similarity"] == "1.000000"
    assert 0.99 <= float(listed["a/x.png"]["similarity"]) <= 1
    assert listed["unlabelled/b/copy.png"]["label"] == ""
    summary = json.loads(outcome.out)
    assert (summary["equal"], summary["test_in_test"]) == (3, 1)
    assert summary["pairs"] == {"train in val": 1, "train in test": 2, "train in train": 1}
    page = (here / "r/audit/index.html").read_text()
    assert page.count('<img src="data:image/') >= 8
    assert ("image/png" if side == 12 else "image/jpeg") in page
    assert len(page) < 500_000
    # Equal ones alone.
    assert distill("audit", "r", "--near", 1.1, "--overwrite").code == 0
    assert len(rows_of(here / "r/audit/duplicates.csv")) == 2
    outcome = distill("audit", "r", "--overwrite")
    assert "2 of train in test" not in outcome.err
    assert "1 of train in test" in outcome.err


def test_of_equal_images_the_doubted_one_goes(here: Path, distill: Distill) -> None:
    """Of two labels for one image that which the network does not share is listed."""
    for number in range(40):
        drawn(here / "d", "train", number, 8)
        if number < 8:
            drawn(here / "d", "test", 100 + number, 8)
            drawn(here / "d", "val", 200 + number, 8)
    # The image of a b, which is to come first by its name.
    shutil.copy(here / "d/train/b/train-9.png", here / "d/train/a/0.png")
    train = ("--data", "d", "--model", "mlp_16x1", "--epochs", 12, *BRIEF, "--out", "r")
    assert distill("teacher", "train", *train).code == 0
    assert distill("audit", "r", "--budget", 1).code == 0
    (row,) = rows_of(here / "r/audit/duplicates.csv")
    assert (row["sample_id"], row["partner"], row["label"]) == ("a/0.png", "b/train-9.png", "a")
    (row,) = rows_of(here / "r/audit/audit.csv")
    assert (row["kind"], row["sample_id"], row["suggested"]) == ("mislabelled", "a/0.png", "b")
    assert row["partner"] == "b/train-9.png"
    assert "labels a and b" in (here / "r/audit/index.html").read_text()


def test_the_next_run_leaves_them_out_or_relabels(run: Path, here: Path, distill: Distill) -> None:
    """The lists are what --without and --relabel read; a run that knows better is judged by that."""
    assert distill("audit", "r", "--budget", NOISY).code == 0
    listed = rows_of(run / "audit/audit.csv")
    relabel = rows_of(run / "audit/mislabelled.csv")
    shutil.copytree(run / "audit", here / "lists")
    brief = ("--model", "mlp_8x1", "--epochs", 1, *BRIEF, "--overwrite")
    train = ("teacher", "train", "--data", "digits", *brief, "--out")
    outcome = distill(*train, "r", "--without", "lists/audit.csv")
    assert outcome.code == 0, outcome.err
    # A run takes its audit with it.
    assert not (run / "audit").exists()
    outcome = distill("audit", "r", "--budget", 1300, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["images"] == 1438 - len(listed)
    again = {row["sample_id"] for row in rows_of(run / "audit/mislabelled.csv")}
    assert again.isdisjoint(row["sample_id"] for row in listed)
    outcome = distill(
        *train, "s", "--without", "lists/duplicates.csv", "--relabel", "lists/audit.csv"
    )
    assert outcome.code == 0, outcome.err
    assert distill("audit", "s", "--budget", 1438).code == 0
    labels = {row["sample_id"]: row["label"] for row in rows_of(here / "s/audit/mislabelled.csv")}
    twice = {row["sample_id"] for row in rows_of(here / "lists/duplicates.csv")}
    for row in relabel:
        assert row["sample_id"] in twice or labels[row["sample_id"]] == row["suggested"]


def test_names_are_text_on_the_page(here: Path, distill: Distill) -> None:
    for number in range(24):
        name = ("<b>bold", "a&b")[number % 2]
        for split in ("train", "test"):
            path = here / "d" / split / name / f"<script>{split}{number}.png"
            picture(path, [LEFT] if number % 2 else [TOP], seed=number + 50 * len(split))
    train = ("--data", "d", "--model", "mlp_8x1", "--epochs", 1, *BRIEF, "--out", "r")
    assert distill("teacher", "train", *train).code == 0
    assert distill("audit", "r", "--budget", 3).code == 0
    page = (here / "r/audit/index.html").read_text()
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "&lt;script&gt;train" in page


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("nowhere",), 2, "does not exist"),
        (("{run}/model",), 2, "is no run folder"),
        (("{run}", "--budget", "0"), 2, "neither a number of samples nor a share"),
        (("{run}", "--budget", "1.5"), 2, "neither a number of samples nor a share"),
        (("{run}", "--near", "0"), 2, "--near 0"),
        (("{run}", "--near", "nan"), 2, "--near nan"),
        (("{run}", "--out", "{run}/model"), 2, "lies in the run"),
        (("{run}", "--out", "{run}"), 2, "which is not of an audit"),
        (("{run}", "--teachers", "nowhere"), 2, "does not exist"),
        (("{run}", "--teachers", "{run}"), 2, "judges already, and disagrees with itself nowhere"),
        (("{run}", "--teachers", "{run}/model"), 2, "judges already"),
        (("{run}", "--teachers", "{labels},{labels}"), 2, "are one and the same. Name it once"),
        (("{run}", "--out-of-fold", "{run}"), 2, "is no cache"),
        (("{run}", "--out-of-fold", "{labels}", "--teachers", "{run}"), 2, "give one of them"),
        (("{run}", "--data", "nowhere"), 2, "nowhere does not exist"),
        (("{run}", "--unlabelled", "nowhere"), 2, "--unlabelled nowhere does not exist"),
    ],
)
def test_refusals(
    made: Made, here: Path, distill: Distill, given: tuple[str, ...], code: int, words: str
) -> None:
    before = tree(made.teacher)
    filled = [word.format(run=made.teacher, labels=made.labels / "a") for word in given]
    outcome = distill("audit", *filled)
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert list(here.iterdir()) == []
    assert tree(made.teacher) == before


def test_an_audit_in_its_place(run: Path, distill: Distill, reliability: Reliability) -> None:
    assert distill("audit", "r").code == 0
    before = tree(run)
    outcome = distill("audit", "r")
    assert outcome.code == 2
    assert tree(run) == before
    reliability("Folders and paths", "an audit is there already", "distill audit r", outcome)
    (run / "audit/mine.csv").write_text("mine")
    outcome = distill("audit", "r", "--overwrite")
    assert (outcome.code, "mine.csv" in outcome.err) == (2, True), outcome.err


def test_data_that_changed(here: Path, distill: Distill, reliability: Reliability) -> None:
    """Rows would be others, and a hidden label might be taken for a known one."""
    for number in range(24):
        drawn(here / "d", "train", number, 8)
        drawn(here / "d", "test", 100 + number, 8)
    train = ("--data", "d", "--model", "mlp_8x1", "--epochs", 1, *BRIEF, "--out", "r")
    assert distill("teacher", "train", *train).code == 0
    shutil.move(here / "d", here / "e")
    assert distill("audit", "r", "--data", "e").code == 0
    (here / "e/train/a/train-4.png").rename(here / "e/train/b/train-4.png")
    outcome = distill("audit", "r", "--data", "e", "--overwrite")
    assert outcome.code == 3
    # A fingerprint is of pixels, as a machine draws them.
    text = outcome.err.replace(outcome.err.split("fingerprint ")[1].split(",")[0], "A")
    text = text.replace(text.split("now ")[-1].split(")")[0], "B")
    reliability(
        "Data",
        "data that changed since a run",
        "distill audit r --data e",
        replace(outcome, err=text),
    )


def test_labels_that_are_not_of_one_class(made: Made, here: Path, distill: Distill) -> None:
    shutil.copytree(made.teacher, here / "s")
    network = load_model(made.teacher)
    network.targets = "sigmoid"
    save_model(network, here / "s/model")
    outcome = distill("audit", "s")
    assert (outcome.code, "yes or no for each label" in outcome.err) == (3, True), outcome.err
    (here / "g.yaml").write_text("low: ['0','1','2','3','4']\nhigh: ['5','6','7','8','9']\n")
    coarse = ("--coarse-labels", "g.yaml", "--objective", "coarse", "--model", "mlp_8x1")
    train = ("teacher", "train", "--data", "digits", *coarse, "--epochs", 1, *BRIEF)
    assert distill(*train, "--out", "c").code == 0
    outcome = distill("audit", "c")
    assert (outcome.code, "name groups of classes" in outcome.err) == (3, True), outcome.err
    assert not (here / "c/audit").exists()


def test_hints_name_no_option_of_another_verb(here: Path, distill: Distill) -> None:
    """What reads data and networks speaks of --split, which is of `evaluate`, and --class-map, of students."""
    train = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    lists = {"r": "index:10,1", "others": "index:10,2"}
    for name, line in lists.items():
        (here / f"{name}.csv").write_text(f"sample_id,label\n{line}\n")
        assert distill(*train, "--relabel", f"{name}.csv", "--out", name).code == 0
    config = json.loads((here / "others/model/config.json").read_text())
    config["distill"].pop("checksum")
    names = [f"class {name}" for name in config["label_names"]]
    config["label_names"] = config["distill"]["class_names"] = names
    (here / "others/model/config.json").write_text(json.dumps(config))
    by = ("--unlabelled", "digits", "--by", "disagreement")
    asked = [("audit", "r", "--teachers", "others"), ("query", "r,others", *by)]
    for args in asked:
        refused = distill(*args)
        assert refused.code == 3
        assert refused.err.endswith("in the data. Train a teacher on these classes\n")
    (here / "r.csv").write_text("sample_id,label\nindex:10,2\n")
    for args in (("audit", "r"), ("query", "r")):
        refused = distill(*args)
        assert refused.code == 3
        assert refused.err.rstrip().endswith("Put the files back as they were")
    assert "leave --split out to look at test" in distill("evaluate", "r", "--split", "val").err
