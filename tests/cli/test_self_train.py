"""Rounds in which a network labels images for the next one: what they learn from, and what they may not know."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from distill_cli import stopping
from distill_cli.data import labels as rules_of_labels
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_rules import LabelRules
from distill_cli.evaluate import logits_of
from distill_cli.models import load_model
from distill_cli.pipeline.inputs import data as opening
from distill_cli.pipeline.run.round_labels import Answers
from distill_cli.types import UNLABELLED
from tests.conftest import Outcome, invoke
from tests.kills import kept
from tests.ranks import by_ranks
from tests.reliability import Reliability
from tests.saved import same

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_16x1", "--precision", "fp32", "-b", 8, "--lr", 0.1, "--quiet")
DATA = ("--data", "digits", "--limit", 300, "--labels-per-class", 6)
SELF = ("self-train", *DATA, *TINY, "--epochs", 3)
TWO = (*SELF, "--rounds", 2, "--threshold", 0.5)
LOUD = tuple(part for part in TWO if part != "--quiet")


def table(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "rounds.json").read_text())
    return content


def listed(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["sample_id"]: row for row in csv.DictReader(file)}


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def plainly(run: Path, data: Dataset) -> tuple[Tensor, Tensor]:
    """Probability and class that a run gives all training images, as they are."""
    network = load_model(run / "model").eval()
    logits_NK = logits_of(network, data.train.iter_plain(), torch.device("cpu"))
    confidence_N, class_N = logits_NK.double().softmax(dim=1).max(dim=1)
    return confidence_N, class_N


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Two rounds, and how the command ended; never to be changed."""
    out = tmp_path_factory.mktemp("rounds") / "run"
    outcome = invoke(*TWO, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    return out, outcome


def test_rounds_are_ordinary_runs(
    whole: tuple[Path, Outcome], here: Path, distill: Distill
) -> None:
    """What the first is sure of becomes labels; the second is what a person would train on that list."""
    run, outcome = whole
    rows = listed(run / "stages/round-2-chosen.csv")
    data = open_dataset("digits")
    confidence_N, class_N = plainly(run / "stages/round-1", data)
    place = {name: row for row, name in enumerate(data.train.sample_ids)}
    assert len(rows) > 5
    assert not rows.keys() & set(data.test.sample_ids)
    for name, row in rows.items():
        assert row["label"] == data.class_names[int(class_N[place[name]])]
        assert float(row["confidence"]) == pytest.approx(float(confidence_N[place[name]]), abs=1e-5)
        assert float(row["confidence"]) >= 0.5
    first, second = table(run)["rounds"]
    assert (first["chosen"], second["chosen"], second["above"]) == (None, len(rows), len(rows))
    assert (second["labelled"], second["unlabelled"]) == (50, 250)
    right = sum(int(data.train.label_N[place[n]]) == int(row["label"]) for n, row in rows.items())
    assert second["accuracy"] == pytest.approx(right / len(rows))
    assert (first["run"], second["run"]) == ("stages/round-1", ".")
    for row in (first, second):
        figures = result(run / row["run"])
        assert {key: row[key] for key in ("val_top1", "test_top1", "test_errors")} == {
            key: figures[key] for key in ("val_top1", "test_top1", "test_errors")
        }
    said = json.loads(outcome.out)
    assert said["rounds"] == [first, second]
    assert said["test_errors"] == second["test_errors"]
    by_hand = ("teacher", "train", *DATA, *TINY, "--epochs", 3)
    relabel = ("--relabel", run / "stages/round-2-chosen.csv", "--seed", 1)
    assert distill(*by_hand, *relabel, "--out", "second").code == 0
    assert same(here / "second", run)


def test_rounds_are_told_of_and_compare(
    whole: tuple[Path, Outcome], here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table on stderr; and each is listed as what it is."""
    monkeypatch.setenv("COLUMNS", "160")
    shutil.copytree(whole[0], here / "run")
    again = distill(*LOUD, "--resume", "--out", "run")
    assert again.code == 0, again.err
    assert " ".join(again.err.split()).count("round labels p ≥ 0.5 chosen of a class right") == 1
    assert table(here / "run") == table(whole[0])
    [run] = json.loads(distill("runs", here, "--json").out)["runs"]
    assert (run["verb"], run["state"]) == ("self-train", "done")
    rows = json.loads(distill("compare", "run/stages", "--json").out)
    assert [Path(row["runs"][0]).name for row in rows] == ["round-1", "run"]


@pytest.mark.slow
@pytest.mark.slow
def test_rounds_of_several_seeds(whole: tuple[Path, Outcome], here: Path, distill: Distill) -> None:
    """In folders of their own, which compare as one row a round."""
    outcome = distill(*LOUD, "--seeds", 2, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert "right, by labels that nothing learns from" in outcome.err
    assert same(whole[0], here / "run/seed-0")
    rows = json.loads(distill("compare", *sorted(here.glob("run/seed-*/stages")), "--json").out)
    assert [len(row["runs"]) for row in rows] == [2, 2]


def test_soft_rounds_learn_from_the_one_before(here: Path, distill: Distill) -> None:
    """From the listed images and the labelled ones alone; balance chooses as many of each class."""
    shares = ("--threshold", 0.2, "--unlabelled-share", 0.5)
    outcome = distill(*TWO, "--soft", "--balance", *shares, "--out", "run")
    assert outcome.code == 0, outcome.err
    _, second = table(here / "run")["rounds"]
    counts = {count for count in second["classes"].values() if count}
    assert len(counts) == 1, second["classes"]
    assert second["chosen"] <= second["above"] < second["unlabelled"]
    assert len(listed(here / "run/stages/round-2-chosen.csv")) == second["chosen"]
    recorded = yaml.safe_load((here / "run/recipe.yaml").read_text())["recorded"]
    assert recorded["labels"]["unlabelled_left_out"] == second["unlabelled"] - second["chosen"]
    assert recorded["trained_on"] == second["labelled"] + second["chosen"]


POISONED = [
    pytest.param((), id="hard"),
    pytest.param(("--soft",), id="soft", marks=pytest.mark.slow),
    pytest.param(("--unlabelled", "more"), id="beside", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("flags", POISONED)
def test_hidden_labels_reach_nothing_but_the_report(
    whole: tuple[Path, Outcome],
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[Any, ...],
) -> None:
    """POISON: with every hidden label another one, all files but those of the report are equal, but for times."""
    if "--unlabelled" in flags:
        pictures(here / "more")
    plain, poisoned = rules_of_labels.relabelled, list[int]()

    def spoilt(dataset: Dataset, rules: LabelRules) -> Dataset:
        data = plain(dataset, rules)
        hidden = data.hidden_N != UNLABELLED
        poisoned.append(int(hidden.sum()))
        data.hidden_N[hidden] = (data.hidden_N[hidden] + 1) % 10
        dataset.train.label_N[hidden] = (dataset.train.label_N[hidden] + 1) % 10
        return data

    clean = whole[0]
    if flags:
        clean = here / "clean"
        assert distill(*TWO, *flags, "--out", clean).code == 0
    monkeypatch.setattr(opening, "relabelled", spoilt)
    outcome = distill(*TWO, *flags, "--out", here / "spoilt")
    assert outcome.code == 0, outcome.err
    assert max(poisoned) == 250
    files, others = kept(clean), kept(here / "spoilt")
    told = {"rounds.json", "pseudo-labels.jsonl"}
    assert files.keys() == others.keys()
    assert [name for name in files if files[name] != others[name] and name not in told] == []
    rows = [table(run)["rounds"][1] for run in (clean, here / "spoilt")]
    right, wrong = (row.pop("accuracy") for row in rows)
    assert rows[0] == rows[1]
    assert right > 0.5 > wrong


def pictures(folder: Path) -> None:
    """Some images in no class folder."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).save(folder / f"{number}.png")


def test_transductive_labels_the_test_images_and_says_so(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    plain = ("self-train", "--data", "digits", *TINY[:-1], "--epochs", 1, "--rounds", 2)
    outcome = distill(*plain, "-b", 64, "--transductive", "--threshold", 0.3, "--out", "run")
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "+ 359 test images without labels: transductive" in err
    assert err.index("labels are made for the test images themselves") < err.index("stage 1 of 2")
    assert "are of images that were seen" in err
    rows = listed(here / "run/stages/round-2-chosen.csv")
    data = open_dataset("digits")
    assert set(rows) <= {f"unlabelled/{name}" for name in data.test.sample_ids}
    content = table(here / "run")
    assert content["transductive"] is True
    assert content["rounds"][1]["unlabelled"] == len(data.test.sample_ids)
    truth = dict(zip(data.test.sample_ids, data.test.label_N.tolist(), strict=True))
    right = [truth[name.removeprefix("unlabelled/")] == int(rows[name]["label"]) for name in rows]
    assert content["rounds"][1]["accuracy"] == pytest.approx(sum(right) / len(right))
    first, last = (
        yaml.safe_load((here / run / "recipe.yaml").read_text())
        for run in ("run/stages/round-1", "run")
    )
    assert (first.get("transductive"), last["transductive"]) == (None, True)
    assert last["recorded"]["dataset"]["unlabelled_samples"] == 359
    held_out = distill("evaluate", "run", "--split", "val", "--json")
    assert held_out.code == 0, held_out.err
    assert json.loads(held_out.out)["top1"] == pytest.approx(result(here / "run")["val_top1"])
    assert "Transductive" in (here / "run/MODEL_CARD.md").read_text()
    assert "Transductive" not in (here / "run/stages/round-1/MODEL_CARD.md").read_text()
    assert "(transductive)" in " ".join(distill("compare", "run/stages").err.split())


def test_transductive_beside_hidden_labels_tells_them_apart(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that get labels are then of test, and others."""
    monkeypatch.setenv("COLUMNS", "160")
    flags = ("--transductive", "--epochs", 1, "--threshold", 0.2, "--out", "run")
    outcome = distill(*LOUD, *flags)
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "round 1 labels 550 images, 300 of them of test: " in err
    assert "600 of 1,654 images to learn from taken" in err
    assert "test images are among those that got labels" in err
    last = table(here / "run")["rounds"][1]
    assert (last["unlabelled"], last["of_test"]) == (550, 300)
    # The page of the run has the table too, and what it says of test.
    assert distill("report", "run").code == 0
    page = (here / "run/report.html").read_text()
    assert "test images are among those that got labels" in page
    # Labels that a network made are told from those that a person knew.
    listed = yaml.safe_load((here / "run/recipe.yaml").read_text())["recorded"]["labels"]
    assert listed["newly_known"] == last["chosen"]
    assert f"{last['chosen']:,} by a list" in page
    assert f"{last['chosen']:,} not known before" in page
    row = re.search(r"<tr><th scope=\"row\">2</th>(.*?)</tr>", page, re.DOTALL)
    assert row is not None
    assert f">{last['chosen']:,}</td>" in row[1]
    assert f">{last['test_errors']:,}</td>" in row[1]


@pytest.mark.slow
def test_inductive_rounds_never_see_test(
    whole: tuple[Path, Outcome], here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other test images all weights and lists are the same."""
    plain = opening.open_dataset

    def opened(*args: Any, **options: Any) -> Dataset:
        data = plain(*args, **options)
        data.test.images_NCHW.zero_()
        data.test.label_N.zero_()
        return data

    monkeypatch.setattr(opening, "open_dataset", opened)
    assert distill(*TWO, "--out", "spoilt").code == 0
    lists = [
        (run / "stages/round-2-chosen.csv").read_bytes() for run in (whole[0], here / "spoilt")
    ]
    assert lists[0] == lists[1]
    assert same(whole[0], here / "spoilt")
    assert result(whole[0])["test_errors"] != result(here / "spoilt")["test_errors"]


# Of the 50 labelled images of round 1, an epoch has 6 steps; round 2 has more.
@pytest.mark.parametrize(
    "steps", [pytest.param(5, id="round 1", marks=pytest.mark.slow), pytest.param(30, id="round 2")]
)
def test_what_was_stopped_goes_on_to_the_same_bits(
    whole: tuple[Path, Outcome],
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    """In either round; and a list that a round has is kept as it is."""
    run, looks = here / "run", [0]

    class Stopped(stopping.StopRequest):
        @property
        def signal_number(self) -> int | None:
            looks[0] += 1
            return signal.SIGTERM if looks[0] > steps else None

        @signal_number.setter
        def signal_number(self, value: int | None) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(stopping, "StopRequest", Stopped)
        stopped = distill(*TWO, "--out", run)
    assert stopped.code == 143, stopped.err
    assert (run / "stages/round-2-chosen.csv").exists() == (steps == 30)
    refused = distill(*TWO, "--out", run)
    assert (refused.code, "already holds a run" in refused.err) == (2, True)
    if steps == 30:
        # A threshold by which nothing was chosen yet may be another one.
        others = distill(*TWO, "--out", run, "--resume", "--threshold", 0.6)
        assert others.code == 3
        assert "threshold 0.5 → 0.6" in others.err
    assert distill("self-train", "--out", run, "--resume", "--quiet").code == 0
    assert kept(run) == kept(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--soft",)], ids=["hard", "soft"])
def test_ranks_take_the_rounds_together(
    here: Path, distill: Distill, flags: tuple[Any, ...]
) -> None:
    """Two ranks choose the images that one process chooses, but for those at the threshold."""
    assert distill(*TWO, *flags, "--out", "one").code == 0
    for rank in by_ranks(2, *TWO, *flags, "--out", "two"):
        assert rank.code == 0, rank.err.decode()
    one, two = (listed(here / run / "stages/round-2-chosen.csv") for run in ("one", "two"))
    assert len(one.keys() ^ two.keys()) <= 2
    assert len(table(here / "two")["rounds"]) == 2
    assert table(here / "two")["rounds"][1]["test_errors"] is not None


@pytest.mark.slow
def test_labels_that_a_person_gives_are_learnt_in_every_round(here: Path, distill: Distill) -> None:
    """Of images beside the data too; in the list of a round they stand first."""
    pictures(here / "more")
    (here / "mine.csv").write_text("sample_id,label\nunlabelled/3.png,7\nunlabelled/4.png,1\n")
    flags = ("--unlabelled", "more", "--relabel", "mine.csv", "--epochs", 1, "--threshold", 0.15)
    outcome = distill(*TWO, *flags, "--out", "run")
    assert outcome.code == 0, outcome.err
    first = yaml.safe_load((here / "run/stages/round-1/recipe.yaml").read_text())
    assert first["recorded"]["trained_on"] == 52
    rows = list(listed(here / "run/stages/round-2-chosen.csv").values())
    assert [row["label"] for row in rows[:2]] == ["7", "1"]
    second = table(here / "run")["rounds"][1]
    assert (second["labelled"], second["unlabelled"]) == (52, 250 + 38)
    assert len(rows) == second["chosen"] + 2


def test_a_dry_run_counts_every_image(here: Path, distill: Distill) -> None:
    outcome = distill(*LOUD, "--dry-run", "--out", "run")
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "round-1: mlp_16x1" in err
    assert "which images each round chooses (all are counted)" in err
    assert not (here / "run").exists()


def test_refused_before_anything_is_trained(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    outcome = distill("self-train", "--data", "digits", *TINY, "--out", "run")
    assert outcome.code == 2
    assert "every image of digits has a label" in outcome.err
    assert not (here / "run").exists()
    # Nor is anything replaced by it.
    (here / "run/model").mkdir(parents=True)
    (here / "run/recipe.yaml").write_text("recorded: {versions: {distill-cli: 0.8.0}}")
    again = distill("self-train", "--data", "digits", *TINY, "--out", "run", "--overwrite")
    assert (again.code, (here / "run/recipe.yaml").exists()) == (2, True), again.err
    reliability(
        *("Data", "rounds of self-training without an image that has no label"),
        *("distill self-train --data digits", outcome),
    )


def test_a_round_that_is_sure_of_nothing_says_how_sure_it_is(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    """What was trained stays, and a lower threshold goes on from it."""
    few = (*SELF, "--rounds", 2, "--epochs", 1, "--lr", 0.001, "--out", "run")
    outcome = distill(*few, "--threshold", 0.999)
    assert outcome.code == 3
    assert "round 1 is sure of none of 250 images" in outcome.err
    assert re.search(r"the largest probability of a class is \d+\.\d\d %", outcome.err)
    assert (here / "run/stages/round-1/result.json").exists()
    assert not list(here.glob("run/stages/*.csv"))
    reliability(
        *("Data", "a round of self-training that is sure of no image"),
        *("distill self-train … --threshold 0.999", outcome),
    )
    assert outcome.err.rstrip().endswith("a lower --threshold and --resume, which keeps round 1")
    first = {path: path.stat().st_mtime_ns for path in (here / "run/stages/round-1").iterdir()}
    lower = ("--threshold", 0.05, "--resume")
    assert distill(*few, *lower, "--dry-run").code == 0
    again = distill(*few, *lower)
    assert again.code == 0, again.err
    assert table(here / "run")["threshold"] == 0.05
    assert {path: path.stat().st_mtime_ns for path in first} == first
    # What was chosen at a threshold is another's no more.
    refused = distill(*few, "--threshold", 0.04, "--resume")
    assert (refused.code, "threshold 0.05 → 0.04" in refused.err) == (3, True), refused.err


def test_a_probability_just_below_the_threshold_is_shown_below_it() -> None:
    data = open_dataset("digits")
    data = replace(data, train=replace(data.train, label_N=data.train.label_N.clone()))
    data.train.label_N[data.fit_rows[:2]] = UNLABELLED
    logits_UK = torch.zeros(2, 10, dtype=torch.float64)
    logits_UK[:, 3] = torch.tensor([18.0, 2.0])
    answers = Answers.of(data, logits_UK)
    said = answers.unsure(1, 0.9999999)
    assert "at --threshold 0.9999999 none" in said
    shown = re.search(r"class is ([\d.]+) %, the median ([\d.]+) %", said)
    assert shown is not None
    most, middle = map(float, shown.groups())
    assert middle < most < 99.99999
    assert most == pytest.approx(100 * float(answers.confidence_U.max()), abs=1e-5)


def test_a_run_that_was_moved_knows_what_it_learnt(
    whole: tuple[Path, Outcome], here: Path, distill: Distill, reliability: Reliability
) -> None:
    """Its list is sought in its own folder, though its recipe has a whole path."""
    before = distill("evaluate", whole[0], "--split", "val", "--json")
    asked = distill("query", whole[0], "--budget", 1000, "--out", "before.csv")
    assert (before.code, asked.code) == (0, 0), before.err + asked.err
    shutil.copytree(whole[0], here / "moved")
    recipe = (here / "moved/recipe.yaml").read_text()
    # The data's place is none of them: `relabel`, `out`, and where it was.
    assert recipe.count(str(whole[0])) == 3
    (here / "moved/recipe.yaml").write_text(recipe.replace(str(whole[0]), str(here / "runs/a")))
    # Another list lies at the old place; then nothing does.
    (here / "runs/a/stages").mkdir(parents=True)
    (here / "runs/a/stages/round-2-chosen.csv").write_text("sample_id,label\n")
    for _ in range(2):
        outcome = distill("evaluate", "moved", "--split", "val", "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["top1"] == json.loads(before.out)["top1"]
        shutil.rmtree(here / "runs", ignore_errors=True)
    assert distill("query", "moved", "--budget", 1000, "--out", "after.csv").code == 0
    assert (here / "after.csv").read_bytes() == (here / "before.csv").read_bytes()
    reliability(
        *(
            "Folders and paths",
            "a run of several stages was moved, and another lies at its old place",
        ),
        *("distill evaluate MOVED --split val", outcome),
        message="the figures before, by the lists and stages in its own folder",
    )


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--soft",)], ids=["hard", "soft"])
def test_a_run_that_was_moved_goes_on_and_is_repeated(
    flags: tuple[str, ...], here: Path, distill: Distill
) -> None:
    short = ("self-train", *DATA, *TINY, "--epochs", 1, "--rounds", 2, "--force")
    assert distill(*short, "--threshold", 0.2, *flags, "--out", "runs/a").code == 0
    (here / "runs/a").rename(here / "b")
    assert distill("audit", "b").code == 0
    kind = ("student",) if flags else ("teacher", "train")
    outcome = distill(*kind, "--recipe", "b/recipe.yaml", "--out", "again")
    assert outcome.code == 0, outcome.err
    assert same(here / "again", here / "b")
    (here / "b/result.json").unlink()
    outcome = distill("self-train", "--resume", "--out", "b")
    assert outcome.code == 0, outcome.err
    assert same(here / "again", here / "b")
