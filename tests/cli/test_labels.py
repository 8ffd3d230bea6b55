"""Runs that know few labels, wrong ones or coarse ones: one cache of all labels serves them all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill_cli.data import labels as rules_of_labels
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_rules import LabelRules
from distill_cli.files import csv_text
from distill_cli.pipeline.inputs import data as opening
from distill_cli.pipeline.run import prepared
from distill_cli.training.loop import Trainer
from distill_cli.types import UNLABELLED, Batch
from tests.cli.test_seeds import assert_equal
from tests.conftest import Made, Outcome, on_host
from tests.data.pictures import LEFT, TOP, picture
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "--precision", "fp32", "-b", 128, "--quiet")
TRAIN = ("teacher", "train", "--data", "digits", *TINY)
TIMES = ("latency_ms", "images_per_second", "seconds")
WITH_TIMES = ("result.json", "metrics.jsonl", "summary.csv", "MODEL_CARD.md", "README.md")
ODD = "even: [0, 2, 4, 6, 8]\nodd: [1, 3, 5, 7, 9]\n"
# A list without ce: nothing learns from labels.
KD = "objective=[{name: kd}]"


def recorded(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((run / "recipe.yaml").read_text())["recorded"]
    return content


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@on_host
def test_one_cache_serves_all_labels_few_and_wrong_ones(
    made: Made, here: Path, distill: Distill, shown: list[Batch]
) -> None:
    """Of a teacher of all labels: students of 100 %, of 10 % and with 40 % noise, on its views."""
    cache = made.labels / "0"
    if not cache.is_dir():
        cache = sorted(path for path in made.labels.iterdir() if path.is_dir())[0]
    student = ("student", "--teachers", cache, *TINY, "--epochs", 2)
    identities, seen = [], []
    for name, flags in (
        ("all", ()),
        ("few", ("--labels-fraction", 0.1)),
        ("wrong", ("--label-noise", "sym:0.4")),
    ):
        shown.clear()
        outcome = distill(*student, *flags, "--out", name)
        assert outcome.code == 0, outcome.err
        identities.append((recorded(here / name)["dataset"], recorded(here / name)["view_spec"]))
        seen.append(
            {int(row): int(y) for b in shown for row, y in zip(b.index_B, b.target_B, strict=True)}
        )
    assert identities[0] == identities[1] == identities[2]
    full, few, wrong = seen
    known = {row: label for row, label in few.items() if label != UNLABELLED}
    assert known.items() <= full.items()
    assert 100 < len(known) < 135
    both = full.keys() & wrong.keys()
    changed = sum(full[row] != wrong[row] for row in both) / len(both)
    assert 0.35 < changed < 0.45
    assert "labels" not in recorded(here / "all")
    assert recorded(here / "few")["labels"]["known"] == 144
    assert recorded(here / "wrong")["labels"]["noise"] == "40 % symmetric noise"


# Of FixMatch: what the student answers to images without labels is their label, from a bound on.
ON_ITSELF = ("--objective", "ce,pseudo-label", "--set", "objective.pseudo-label.threshold=0.2")
SLOW = pytest.mark.slow
POISONED = [
    ("teacher", ("--labels-fraction", 0.1)),
    ("live", ("--labels-per-class", 10, "--objective", "dkd", "--omit-class", "3")),
    ("cache", ("--labels-per-class", 10, "--label-noise", "sym:0.4")),
    ("self", ("--labels-per-class", 10, "--unlabelled-share", 0.5, *ON_ITSELF)),
    pytest.param("teacher", ("--labels-per-class", 4, "--ema", 0.9), marks=SLOW),
    pytest.param("live", ("--labels-fraction", 0.1, "--relabel", "told.csv"), marks=SLOW),
    pytest.param("live", ("--labels-fraction", 0.1), marks=SLOW),
    pytest.param(
        "cache", ("--labels-fraction", 0.2, "--coarse-labels", "odd.yaml", "--set", KD), marks=SLOW
    ),
    pytest.param("hints", ("--labels-per-class", 10), marks=SLOW),
    pytest.param("chain", ("--labels-per-class", 10), marks=SLOW),
    pytest.param(
        "teacher",
        ("--labels-fraction", 0.2, "--coarse-labels", "odd.yaml", "--objective", "coarse"),
        marks=SLOW,
    ),
]


@pytest.mark.parametrize(("kind", "flags"), POISONED, ids=lambda value: str(value)[:40])
def test_hidden_labels_reach_nothing(
    made: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    flags: tuple[Any, ...],
) -> None:
    """POISON: with every hidden label another one, all files of a run are equal, but for times.

    The poison is in the dataset after the draw: in `hidden_N`, and in the labels that lie on disk. What
    the file of pseudo-labels says of their true accuracy is the one thing that may know of it.
    """
    (here / "odd.yaml").write_text(ODD)
    told = open_dataset("digits").train.sample_ids[::40]
    (here / "told.csv").write_text(
        "sample_id,label\n" + "".join(f"{name},{n % 10}\n" for n, name in enumerate(told))
    )
    cache = sorted(path for path in made.labels.iterdir() if path.is_dir())[0]
    command: tuple[Any, ...] = {
        "teacher": TRAIN,
        "live": ("student", "--teachers", made.teacher, *TINY),
        "cache": ("student", "--teachers", cache, *TINY),
        "hints": ("hint-init", "--teachers", made.teacher, *TINY),
        "self": ("student", "--data", "digits", "--teachers", "self", *TINY),
        "chain": ("student", "--teachers", made.teacher, *TINY, "--hints", "--hint-epochs", 1),
    }[kind]
    plain = rules_of_labels.relabelled
    poisoned: list[int] = []

    def spoilt(dataset: Dataset, rules: LabelRules) -> Dataset:
        data = plain(dataset, rules)
        hidden = data.hidden_N != UNLABELLED
        poisoned.append(int(hidden.sum()))
        # In place, and thus in whatever else holds them.
        data.hidden_N[hidden] = (data.hidden_N[hidden] + 1) % 10
        dataset.train.label_N[hidden] = (dataset.train.label_N[hidden] + 1) % 10
        if dataset.val.label_N.data_ptr() != data.val.label_N.data_ptr():
            dataset.val.label_N.fill_(0)
        return data

    listed = []
    for out, function in (("clean", plain), ("spoilt", spoilt)):
        monkeypatch.setattr(opening, "relabelled", function)
        outcome = distill(*command, *flags, "--epochs", 2, "--out", "run")
        assert outcome.code == 0, outcome.err
        (here / "run").rename(here / out)
        listed.append({path.relative_to(here / out): path for path in (here / out).rglob("*")})
    assert poisoned
    assert min(poisoned) > 1000
    assert listed[0].keys() == listed[1].keys()
    for name, path in listed[0].items():
        if path.is_file() and path.name != "pseudo-labels.jsonl":
            assert_equal_files(path, listed[1][name])


def test_a_label_that_is_known_reaches_all(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poison of the test before would be seen."""
    plain = rules_of_labels.relabelled

    def spoilt(dataset: Dataset, rules: LabelRules) -> Dataset:
        data = plain(dataset, rules)
        data.train.label_N[data.fit_rows[data.train.label_N[data.fit_rows] == 0][0]] = 1
        return data

    for out, function in (("clean", plain), ("spoilt", spoilt)):
        monkeypatch.setattr(opening, "relabelled", function)
        assert distill(*TRAIN, "--labels-per-class", 4, "--epochs", 1, "--out", out).code == 0
    one, other = (
        (here / run / "model/model.safetensors").read_bytes() for run in ("clean", "spoilt")
    )
    assert one != other


def assert_equal_files(one: Path, other: Path) -> None:
    """To the byte, apart from times."""
    if one.read_bytes() == other.read_bytes():
        return
    assert one.suffix == ".pt" or one.name in WITH_TIMES, one
    if one.suffix != ".pt":
        assert _untimed(one) == _untimed(other)
        return
    kept = [torch.load(path, weights_only=True, map_location="cpu") for path in (one, other)]
    for name in ("key", "parts", "rng"):
        assert_equal(kept[0][name], kept[1][name], name)
    for name in ("epoch", "step", "tally", "growth", "best_epoch", "best", "best_rank"):
        assert kept[0]["state"][name] == kept[1]["state"][name], name


def _untimed(path: Path) -> list[Any]:
    lines = path.read_text().splitlines()
    if path.suffix == ".csv":
        return [line.rsplit(",", 2)[0] for line in lines]
    if path.suffix == ".md":
        return [line for line in lines if "one image" not in line]
    values = [json.loads(path.read_text())] if path.suffix == ".json" else map(json.loads, lines)
    return [{k: v for k, v in value.items() if k not in TIMES} for value in values]


def test_nothing_held_out_keeps_the_last_epoch(here: Path, distill: Distill, made: Made) -> None:
    """Every reader of the run lives without held-out figures."""
    talks = tuple(part for part in TRAIN if part != "--quiet")
    outcome = distill(*talks, "--labels-per-class", 4, "--epochs", 3, "--ema", 0.5, "--out", "r")
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "40 of 1,438 labelled (none of them held out)" in err
    assert "nothing is held out: no epoch is chosen, and the last epoch's average is kept" in err
    assert "nothing held out, last epoch 3 of 3" in err
    figures = result(here / "r")
    assert (figures["val_top1"], figures["temperature"], figures["best_epoch"]) == (None, None, 3)
    assert not any(key.startswith("val_") for row in rows_of(here / "r") for key in row)
    kept = load_file(here / "r/model/model.safetensors")
    ema = torch.load(here / "r/last/checkpoint.pt", weights_only=True)["parts"]["ema"]
    assert kept.keys() == {name.removeprefix("net.") for name in ema}
    assert all(kept[name.removeprefix("net.")].equal(value) for name, value in ema.items())
    card = (here / "r/MODEL_CARD.md").read_text()
    assert "nothing was held out" in card
    assert "| last epoch | 3 of 3 |" in card
    for command in (
        ("report", "r"),
        ("compare", "r", made.teacher),
        ("compare", "r", made.teacher, "--json"),
        ("runs", "."),
        ("evaluate", "r"),
        ("student", "--teachers", "r", *TINY, "--epochs", 1, "--out", "s", "--force"),
    ):
        outcome = distill(*command)
        assert outcome.code == 0, (command, outcome.err)
    assert "nothing was held out: epoch 3 is the last" in (here / "r/report.html").read_text()
    outcome = distill("evaluate", "r", "--split", "val")
    assert outcome.code == 2, outcome.err
    assert "held nothing out" in outcome.err


def test_held_out_figures_are_those_of_the_allowed_labels(here: Path, distill: Distill) -> None:
    outcome = distill(*TRAIN, "--labels-fraction", 0.3, "--epochs", 2, "--out", "r")
    assert outcome.code == 0, outcome.err
    outcome = distill("evaluate", "r", "--split", "val", "--json")
    assert outcome.code == 0, outcome.err
    again = json.loads(outcome.out)
    assert again["samples"] == recorded(here / "r")["labels"]["held_out"] == 40
    assert again["top1"] == pytest.approx(result(here / "r")["val_top1"])


def test_coarse_labels_are_held_out_as_groups(here: Path, distill: Distill, made: Made) -> None:
    (here / "odd.yaml").write_text(ODD)
    student = ("student", "--teachers", made.teacher, *TINY, "--epochs", 2, "--set", KD)
    outcome = distill(*student, "--coarse-labels", "odd.yaml", "--out", "s", "--json")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert figures["temperature"] is None
    assert figures["test_coarse_top1"] > figures["test_top1"]
    assert figures["val_top1"] > figures["test_top1"]
    assert abs(figures["val_top1"] - figures["test_coarse_top1"]) < 0.15
    assert recorded(here / "s")["labels"]["groups"] == 2
    outcome = distill(*student, "--coarse-labels", "none.yaml", "--out", "none")
    assert outcome.code == 2, outcome.err
    assert "cannot read coarse labels none.yaml" in outcome.err
    outcome = distill("evaluate", "s", "--split", "val", "--json")
    assert json.loads(outcome.out)["top1"] == pytest.approx(figures["val_top1"])


REFUSED = [
    (("--labels-fraction", 0.1, "--labels-per-class", 4), "say the same thing twice"),
    (("--omit-class", "3", "--only-classes", "4"), "say the same thing twice"),
    (("--labels-fraction", 0), "labels_fraction: must be greater than 0"),
    (("--labels-fraction", 1.5), "labels_fraction: must be less than or equal to 1"),
    (("--labels-per-class", 0), "labels_per_class: must be greater than or equal to 1"),
    (("--limit", 0), "limit: must be greater than or equal to 1"),
    (("--label-noise", "sym:1.5"), "should have a share between 0 and 1, as sym:0.4"),
    (("--label-noise", "asym:0.4"), "neither sym:0.4, pair:0.2"),
    (("--label-noise", "none.csv"), "cannot read label noise none.csv"),
    (("--coarse-labels", "odd.yaml"), "objective 'ce' learns the classes of labelled images"),
    (("--coarse-labels", "odd.yaml", "--targets", "sigmoid"), "one class applies"),
    (("--omit-class", "ten"), "--omit-class: there is no class 'ten'"),
    (("--labels-per-class", 4, "--require", "val_top1>=0.1"), "nothing is held out"),
    (("--labels-per-class", 4, "--require", "temperature<=3"), "nothing is held out"),
]


@pytest.mark.parametrize(("flags", "text"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusals(here: Path, distill: Distill, flags: tuple[Any, ...], text: str) -> None:
    (here / "odd.yaml").write_text(ODD)
    outcome = distill(*TRAIN, *flags, "--out", "r")
    assert outcome.code == 2, outcome.err
    assert text in " ".join(outcome.err.split())
    assert not (here / "r").exists()


def test_reliability_of_a_gate_without_held_out_labels(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    flags = ("--labels-per-class", 4, "--require", "val_top1>=0.9")
    reliability(
        "Usage and recipes",
        "a gate on held-out accuracy, and too few labels to hold any out",
        "distill teacher train --labels-per-class 4 --require 'val_top1>=0.9'",
        distill(*TRAIN, *flags, "--out", "r"),
    )


def test_reliability_of_coarse_labels_for_classes(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    (here / "groups.yaml").write_text(ODD)
    reliability(
        "Usage and recipes",
        "coarse labels for an objective of classes",
        "distill teacher train --coarse-labels groups.yaml --objective ce",
        distill(*TRAIN, "--coarse-labels", "groups.yaml", "--out", "r"),
    )


def test_reliability_of_a_file_of_labels(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    (here / "noise.csv").write_text("sample_id,label\nindex:99999,1\n")
    reliability(
        "Data",
        "a file of labels that names an image which is not there",
        "distill teacher train --label-noise noise.csv",
        distill(*TRAIN, "--label-noise", "noise.csv", "--out", "r"),
    )


def test_reliability_of_a_list_of_labels(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    (here / "fixed.csv").write_text("sample_id,label\nindex:5,eleven\n")
    reliability(
        "Data",
        "a list of labels with a class that there is not",
        "distill teacher train --relabel fixed.csv",
        distill(*TRAIN, "--relabel", "fixed.csv", "--out", "r"),
    )


def test_lists_leave_out_and_relabel(
    made: Made, here: Path, distill: Distill, shown: list[Batch]
) -> None:
    """A cache of all images serves the student that leaves some out; a changed list is another run."""
    cache = sorted(path for path in made.labels.iterdir() if path.is_dir())[0]
    data = open_dataset("digits")
    ids, fit = data.train.sample_ids, data.fit_rows.tolist()
    (here / "out.csv").write_text("sample_id\n" + "".join(f"{ids[row]}\n" for row in fit[:700]))
    fixed = {row: int(data.train.label_N[row] + 1) % 10 for row in fit[700:720]}
    lines = "".join(f"{ids[row]},{label}\n" for row, label in fixed.items())
    (here / "fixed.csv").write_text("sample_id,label\n" + lines)
    talks = tuple(part for part in TINY if part != "--quiet")
    student = ("student", "--teachers", cache, *talks, "--epochs", 1, "--labels-fraction", 0.5)
    flags = ("--without", "out.csv", "--relabel", "fixed.csv", "--out", "s")
    outcome = distill(*student, *flags)
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.err.split())
    assert "left out by a list: 700 images (0 of them held out)" in text
    seen = {int(row): int(y) for b in shown for row, y in zip(b.index_B, b.target_B, strict=True)}
    assert not seen.keys() & set(fit[:700])
    assert fixed.items() <= seen.items()
    kept = recorded(here / "s")["labels"]
    assert (kept["without"], kept["without_held_out"]) == (700, 0)
    assert kept["relabelled"] == 20
    assert kept["newly_known"] + kept["relabelled_otherwise"] == 20
    assert yaml.safe_load((here / "s/recipe.yaml").read_text())["without"] == str(here / "out.csv")
    outcome = distill("evaluate", "s", "--split", "val", "--json")
    assert outcome.code == 0, outcome.err
    (here / "s/result.json").unlink()
    (here / "fixed.csv").write_text("sample_id,label\n")
    outcome = distill(*student, *flags, "--resume")
    assert outcome.code == 3, outcome.err
    assert "labels.digest" in outcome.err


def test_reliability_of_a_hierarchy(here: Path, distill: Distill, reliability: Reliability) -> None:
    (here / "groups.yaml").write_text("even: [0, 2, 4, 6, 8]\n")
    flags = ("--coarse-labels", "groups.yaml", "--objective", "coarse")
    reliability(
        "Data",
        "coarse labels that leave a class out",
        "distill teacher train --coarse-labels groups.yaml --objective coarse",
        distill(*TRAIN, *flags, "--out", "r"),
    )


def test_the_objective_of_groups_learns_them(here: Path, distill: Distill) -> None:
    (here / "odd.yaml").write_text(ODD)
    flags = ("--coarse-labels", "odd.yaml", "--objective", "coarse", "--labels-fraction", 0.5)
    outcome = distill(*TRAIN, *flags, "--epochs", 8, "--lr", 0.5, "--out", "r", "--json")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert figures["test_coarse_top1"] > 0.65
    assert figures["test_coarse_top1"] > figures["test_top1"]


@pytest.mark.parametrize("objective", ["dkd", "nkd", "label-smoothing,kd", "selective,kd"])
def test_objectives_of_classes_are_refused_coarse_labels(
    here: Path, distill: Distill, made: Made, objective: str
) -> None:
    (here / "odd.yaml").write_text(ODD)
    student = ("student", "--teachers", made.teacher, *TINY, "--objective", objective)
    outcome = distill(*student, "--coarse-labels", "odd.yaml", "--out", "s")
    assert outcome.code == 2, outcome.err
    assert "leaves them their group alone" in " ".join(outcome.err.split())


def test_a_dump_takes_no_rules_of_labels(here: Path, distill: Distill, made: Made) -> None:
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--out", "c")
    outcome = distill(*dump, "--labels-fraction", 0.1)
    assert outcome.code == 2
    assert "a cache is of all images, whatever a student may know" in " ".join(outcome.err.split())


def test_resumed_to_the_bit_and_refused_with_other_labels(here: Path, distill: Distill) -> None:
    (here / "n.csv").write_text("sample_id,label\nindex:5,1\n")
    flags = ("--labels-fraction", 0.2, "--epochs", 3)
    whole = (*TRAIN, *flags, "--out", "whole")
    assert distill(*whole).code == 0
    stopped = Trainer._end_epoch
    with pytest.MonkeyPatch.context() as patch:

        def stop(self: Trainer) -> None:
            stopped(self)
            if self.state.epoch == 1:
                raise KeyboardInterrupt

        patch.setattr(Trainer, "_end_epoch", stop)
        distill(*TRAIN, *flags, "--out", "r")
    assert not (here / "r/result.json").exists()
    for others in (("--label-seed", 1), ("--label-noise", "pair:0.1"), ("--limit", 500)):
        outcome = distill(*TRAIN, *flags, *others, "--out", "r", "--resume")
        assert outcome.code == 3, outcome.err
        assert others[0].removeprefix("--").replace("-", "_") in outcome.err
    assert distill(*TRAIN, *flags, "--out", "r", "--resume").code == 0
    one, other = (load_file(here / run / "model/model.safetensors") for run in ("whole", "r"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    untimed = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in rows_of(here / run)]
        for run in ("whole", "r")
    ]
    assert untimed[0] == untimed[1]


def test_a_changed_file_of_labels_is_another_run(here: Path, distill: Distill) -> None:
    (here / "n.csv").write_text("sample_id,label\nindex:5,1\n")
    flags = ("--label-noise", "n.csv", "--epochs", 1, "--out", "r")
    assert distill(*TRAIN, *flags).code == 0
    (here / "n.csv").write_text("sample_id,label\nindex:5,2\n")
    (here / "r/result.json").unlink()
    outcome = distill(*TRAIN, *flags, "--resume")
    assert outcome.code == 3, outcome.err
    assert "labels.digest" in outcome.err


FILES = ("--label-noise", "n.csv", "--coarse-labels", "odd.yaml", "--objective", "coarse")


def _of_files(here: Path) -> None:
    first = open_dataset("digits").train.sample_ids[:4]
    (here / "n.csv").write_text("sample_id,label\n" + "".join(f"{name},3\n" for name in first))
    (here / "odd.yaml").write_text(ODD)


def test_files_of_labels_are_found_from_anywhere_and_must_be_the_same(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    """Held-out figures are those of training, from whatever folder; or are refused."""
    _of_files(here)
    assert distill(*TRAIN, *FILES, "--epochs", 1, "--limit", 300, "--out", "r").code == 0
    kept = yaml.safe_load((here / "r/recipe.yaml").read_text())
    assert kept["label_noise"] == str(here / "n.csv")
    assert kept["coarse_labels"] == str(here / "odd.yaml")
    evaluate = ("evaluate", here / "r", "--split", "val", "--json")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    outcome = distill(*evaluate)
    assert outcome.code == 0, outcome.err
    figure = json.loads(outcome.out)["top1"]
    assert figure == pytest.approx(result(here / "r")["val_top1"])
    (here / "odd.yaml").write_text("low: [0, 1, 2, 3, 4]\nhigh: [5, 6, 7, 8, 9]\n")
    outcome = distill(*evaluate)
    assert outcome.code == 3, outcome.out
    err = " ".join(outcome.err.split())
    assert f"other labels than {here}/n.csv, {here}/odd.yaml now make" in err
    assert "labels.digest" in err


def test_a_run_that_kept_a_path_as_typed_goes_on(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recipe.yaml and its key are those of typed paths; what the files hold is compared as ever."""
    _of_files(here)
    flags = (*FILES, "--limit", 300, "--epochs", 1, "--out", "r")
    with monkeypatch.context() as patch:
        patch.setattr(opening, "files_named", lambda values: {})
        patch.setattr(prepared, "files_named", lambda values: {})
        assert distill(*TRAIN, *flags).code == 0
    kept = yaml.safe_load((here / "r/recipe.yaml").read_text())
    assert (kept["label_noise"], kept["coarse_labels"]) == ("n.csv", "odd.yaml")
    (here / "r/result.json").unlink()
    outcome = distill(*TRAIN, *flags, "--resume")
    assert outcome.code == 0, outcome.err
    (here / "odd.yaml").write_text("low: [0, 1, 2, 3, 4]\nhigh: [5, 6, 7, 8, 9]\n")
    (here / "r/result.json").unlink()
    outcome = distill(*TRAIN, *flags, "--resume")
    assert outcome.code == 3, outcome.err
    assert "labels.digest" in outcome.err


def test_seeds_compare_the_same_labels(here: Path, distill: Distill) -> None:
    flags = ("--labels-per-class", 4, "--epochs", 1, "--seeds", 2, "--out", "r")
    outcome = distill(*TRAIN, *flags, "--json")
    assert outcome.code == 0, outcome.err
    digests = [recorded(here / f"r/seed-{seed}")["labels"]["digest"] for seed in (0, 1)]
    assert digests[0] == digests[1]
    table = json.loads((here / "r/seeds.json").read_text())
    assert "best_epoch" in table["figures"]
    assert distill("compare", "r").code == 0


def test_a_dry_run_says_what_is_known(here: Path, distill: Distill) -> None:
    (here / "odd.yaml").write_text(ODD)
    talks = tuple(part for part in TRAIN if part != "--quiet")
    flags = ("--labels-fraction", 0.5, "--label-noise", "pair:0.2", "--only-classes", "7,8")
    outcome = distill(*talks, *flags, "--limit", 100, "--dry-run")
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "of 1,438 labelled (" in err
    assert "20 % pairwise noise: " in err
    assert "not trained on: classes 0, 1, 2, 3, 4, … (" in err
    assert "100 of " in err
    outcome = distill(*TRAIN, "--labels-per-class", 4, "--dry-run", "--json")
    assert json.loads(outcome.out)
    assert not list(here.glob("runs"))


def test_a_recipe_without_them_is_as_it_was(here: Path, distill: Distill) -> None:
    """Neither its keys nor the run's key know anything new."""
    assert distill(*TRAIN, "--epochs", 1, "--out", "r").code == 0
    kept = yaml.safe_load((here / "r/recipe.yaml").read_text())
    keys = rules_keys()
    assert not keys & kept.keys()
    assert "labels" not in kept["recorded"]
    assert distill(*TRAIN, "--epochs", 1, "--limit", 100, "--out", "l").code == 0
    kept = yaml.safe_load((here / "l/recipe.yaml").read_text())
    assert keys & kept.keys() == {"limit"}
    outcome = distill("teacher", "train", "-r", "l/recipe.yaml", "--out", "again", "--quiet")
    assert outcome.code == 0, outcome.err
    assert recorded(here / "again")["labels"] == kept["recorded"]["labels"]


def rules_keys() -> set[str]:
    from distill_cli.recipe.label_options import LabelOptions

    return set(LabelOptions.model_fields)


def test_mixed_views_of_a_cache_pair_its_rows(
    here: Path, distill: Distill, made: Made, shown: list[Batch]
) -> None:
    """Held-out images whose label is hidden join training: the pairs stay those of the cache."""
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--views", 1, "--augment", "mixup:0.5")
    assert distill(*dump, "--out", "c", "--quiet").code == 0
    student = ("student", "--teachers", "c", *TINY, "--epochs", 1)
    outcome = distill(*student, "--labels-fraction", 0.1, "--out", "few")
    assert outcome.code == 0, outcome.err
    (here / "out.csv").write_text("sample_id\nindex:5\n")
    for flags in (("--limit", 100), ("--without", "out.csv")):
        outcome = distill(*student, *flags, "--out", "part")
        assert outcome.code == 2, outcome.err
        assert "mix images in pairs" in " ".join(outcome.err.split())


@pytest.mark.slow
def test_lists_of_odd_names_are_learnt_from(here: Path, distill: Distill) -> None:
    """Line breaks of all kinds and outer spaces in classes and files; the same names without them beside."""
    classes = {"a\u2028b": [LEFT], " b\r": [TOP], "b ": [LEFT, TOP], "b": []}
    for first, (name, bright) in enumerate(classes.items()):
        for number in range(16):
            picture(here / f"d/{name}/x\x0c{number}\x85.png", bright, seed=100 * first + number)
    for number in range(8):
        picture(here / f"more/\u2028{number}\r.png", [LEFT], seed=900 + number)
    train = ("teacher", "train", "--data", "d", *TINY, "-b", 8, "--epochs", 1)
    rounds = ("self-train", *train[2:], "--rounds", 2, "--threshold", 0)
    assert distill(*train, "--out", "t").code == 0
    assert distill("audit", "t", "--budget", 10).code == 0
    assert distill("query", "t", "--unlabelled", "more", "--budget", 5).code == 0
    with (here / "query.csv").open(newline="") as file:
        asked = list(csv.DictReader(file))
    answered = [("sample_id", "label"), *((row["sample_id"], "b ") for row in asked)]
    (here / "l.csv").write_bytes(csv_text(answered).encode())
    assert distill("noise", "estimate", "t", "--out", "n.csv").code == 0
    more = ("--unlabelled", "more", "--relabel", "l.csv")
    for number, args in enumerate(
        (
            (*train, "--relabel", "t/audit/mislabelled.csv"),
            (*train, "--without", "t/audit/audit.csv"),
            (*train, *more),
            (*train, "--objective", "forward", "--noise-matrix", "n.csv"),
            (*rounds, *more),
            (*rounds, "--labels-per-class", 5),
        )
    ):
        outcome = distill(*args, "--out", f"r{number}")
        assert outcome.code == 0, (args, outcome.err)
    relabelled = recorded(here / "r2")["labels"]["relabelled"]
    assert relabelled == len(asked) == 5


@pytest.mark.parametrize(
    "option",
    ["relabel", "without", "unlabelled-list", "label-noise", "coarse-labels", "groups"],
)
def test_a_pipe_is_refused_where_a_file_is_read_more_than_once(
    here: Path, distill: Distill, option: str
) -> None:
    """As `<(…)` of a shell is one; nothing is read of it."""
    reading, writing = os.pipe()
    os.write(writing, b"sample_id,label\nindex:10,1\n")
    # Whoever reads it all the same does not wait for more.
    os.close(writing)
    try:
        pipe = f"/dev/fd/{reading}"
        outcome = distill(*TRAIN, f"--{option}", pipe, "--out", "r")
        assert outcome.code == 2, outcome.err
        expected = f"error: --{option} {pipe} is no regular file, and it is read more than once. "
        assert outcome.err.startswith(expected)
        assert os.read(reading, 100).startswith(b"sample_id")
    finally:
        os.close(reading)
    assert not (here / "r").exists()
