"""Category structure, feature-normalised distillation and the balanced order, on the digits."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.test_modes import stop_after
from tests.conftest import Made, Outcome, on_host
from tests.data.pictures import LEFT, TOP, listing, picture
from tests.saved import weights

Distill = Callable[..., Outcome]
QUICK = ("--quiet", "--augment", "shift:1", "-b", 32, "--lr", 0.05)
MODEL = ("--model", "mlp_16x1", "--epochs", 2)


def equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def recipe(folder: Path, *parameters: dict[str, Any], **keys: Any) -> Path:
    """A recipe of cross-entropy and these objectives."""
    objective = [{"name": "ce", "weight": 0.9}, *parameters]
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({"objective": objective, **keys}))
    return path


def kept(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "recipe.yaml").read_text())


@pytest.mark.slow
def test_category_structure_by_its_name(made: Made, here: Path, distill: Distill) -> None:
    common = ("--teachers", made.teacher, *MODEL, *QUICK)
    outcome = distill(
        "student", *common, "--objective", "category-structure", "--out", "s", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["test_top1"] > 0.5
    assert kept(here / "s")["order"] == "balanced", "what the objective wants"
    (entry,) = kept(here / "s")["recorded"]["layers"]
    assert (entry["student"], entry["teacher"]) == ("penultimate", "penultimate")
    assert (entry["student_shape"], entry["teacher_shape"]) == ([16, 1, 1], [32, 1, 1])
    assert entry["regressor_params"] == 16 * 32 + 32
    (row, *_) = csv.DictReader((here / "s/summary.csv").open())
    assert {"train_ce", "train_structure_intra", "train_structure_inter"} <= row.keys()
    # Who asks for another order has it.
    given = ("--order", "shuffled", "--out", "t", "--objective", "category-structure")
    assert distill("student", *common, *given).code == 0
    assert kept(here / "t")["order"] == "shuffled"
    assert not equal(weights(here / "s"), weights(here / "t"))


@pytest.mark.slow
def test_of_equal_sizes_nothing_is_mapped_and_other_layers_can_be_named(
    made: Made, here: Path, distill: Distill
) -> None:
    pairs = [["penultimate", "penultimate"], ["layers.0", "layers.0"]]
    entry = {"name": "category-structure", "centres": "moving", "pairs": pairs}
    path = recipe(here, entry, {"name": "hint", "pairs": [["auto", "auto"]]})
    outcome = distill(
        *("student", "-r", path, "--teachers", made.teacher, "--model", "mlp_32x2", *QUICK),
        *("--epochs", 1, "--out", "s"),
    )
    assert outcome.code == 0, outcome.err
    layers = kept(here / "s")["recorded"]["layers"]
    assert [one["objective"] for one in layers] == ["category-structure"] * 2 + ["hint"]
    assert ["regressor" in one for one in layers] == [False, False, True]
    parts = torch.load(here / "s/last/checkpoint.pt", weights_only=True)["parts"]["adapters"]
    centres = {key: value for key, value in parts.items() if key.endswith("centre_KD")}
    assert [tuple(value.shape) for value in centres.values()] == [(10, 32)] * 4
    assert all(value.abs().sum() > 0 for value in centres.values())


def test_teacher_free_needs_no_teacher_and_goes_beside_one(
    made: Made, here: Path, distill: Distill
) -> None:
    entry = {"name": "category-structure", "form": "teacher-free"}
    outcome = distill(
        *("teacher", "train", "-r", recipe(here, entry), "--data", "digits", *MODEL, *QUICK),
        *("--out", "t", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["test_top1"] > 0.5
    assert kept(here / "t")["recorded"]["layers"] == []
    assert kept(here / "t")["order"] == "balanced"
    # From a cache of labels: it asks nothing of a teacher.
    path = recipe(here, entry, {"name": "kd", "weight": 0.5})
    given = ("student", "-r", path, "--teachers", made.labels / "a", "--model", "mlp_8x1")
    outcome = distill(*given, "--epochs", 1, "--quiet", "--out", "s")
    assert outcome.code == 0, outcome.err


RESUMED = [
    ("student", {"name": "category-structure"}, {}),
    ("student", {"name": "category-structure", "form": "release", "centres": "moving"}, {}),
    ("teacher", {"name": "category-structure", "form": "teacher-free", "centres": "moving"}, {}),
    ("student", {"name": "feature-norm-kd", "weight": 9.0}, {}),
    ("student", {"name": "feature-norm-kd", "form": "release", "weight": 9.0}, {}),
    ("cache", {"name": "kd"}, {"order": "balanced"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "entry", "keys"), RESUMED)
def test_a_stopped_run_resumes_to_the_bit(
    made: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    entry: dict[str, Any],
    keys: dict[str, Any],
) -> None:
    path = recipe(here, entry, **keys)
    taught = {
        "teacher": ("teacher", "train", "--data", "digits", *QUICK),
        "student": ("student", "--teachers", made.teacher, *QUICK),
        "cache": ("student", "--teachers", made.labels / "a", "-b", 32, "--lr", 0.05, "--quiet"),
    }[kind]
    given = (*taught, "-r", path, *MODEL, "--dropout", 0.1)
    assert distill(*given, "--out", "whole").code == 0
    undo = stop_after(monkeypatch, 46)  # a look a step: in the second epoch
    assert distill(*given, "--out", "torn").code == 143
    undo()
    halfway = torch.load(here / "torn/last/checkpoint.pt", weights_only=True)
    assert halfway["state"]["epoch"] == 1
    assert halfway["state"]["step"] > 0
    again = ("teacher", "train") if kind == "teacher" else ("student",)
    outcome = distill(*again, "--resume", "--out", "torn", "--quiet")
    assert outcome.code == 0, outcome.err
    assert equal(weights(here / "whole"), weights(here / "torn"))
    one, two = (
        torch.load(here / run / "last/checkpoint.pt", weights_only=True)["parts"]
        for run in ("whole", "torn")
    )
    for part in ("network", "adapters"):
        assert equal(one[part], two[part]), part
    learns = entry["name"] != "kd" and entry != RESUMED[4][1]
    assert bool(two["adapters"]) == learns, "what it remembers is in checkpoints"


def test_feature_norm_kd_by_its_name(made: Made, here: Path, distill: Distill) -> None:
    given = ("--teachers", made.teacher, "--objective", "feature-norm-kd", *MODEL, *QUICK)
    outcome = distill("student", *given, "--out", "s", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["test_top1"] > 0.5
    assert kept(here / "s")["order"] == "shuffled"
    layers = kept(here / "s")["recorded"]["layers"]
    assert [one["teacher"] for one in layers] == ["classifier/bias", "penultimate"]
    adapters = torch.load(here / "s/last/checkpoint.pt", weights_only=True)["parts"]["adapters"]
    assert float(adapters["feature-norm-kd.norm"]) > 0
    assert bool(adapters["feature-norm-kd.known"])


def test_labels_of_a_cache_fit_a_balanced_order(made: Made, here: Path, distill: Distill) -> None:
    """As the live teacher's: labels are looked up by row and view."""
    common = ("--order", "balanced", "--model", "mlp_8x1", "--epochs", 1, "-b", 32, "--quiet")
    views = ("--augment", "shift:1", "--view-seed", 0)
    for name, teachers in (("cached", (made.labels / "a",)), ("live", (made.teacher, *views))):
        outcome = distill("student", "--teachers", *teachers, *common, "--out", name)
        assert outcome.code == 0, outcome.err
    cached, live = weights(here / "cached"), weights(here / "live")
    for key, value in cached.items():
        assert torch.allclose(value, live[key], atol=1e-5), key
    assert distill("student", "--teachers", made.labels / "a", *common[2:], "--out", "o").code == 0
    shuffled = weights(here / "o")
    assert not any(torch.allclose(value, shuffled[key], atol=1e-3) for key, value in cached.items())


def unbalanced(folder: Path, counts: dict[str, int]) -> Path:
    """Folders of one class each: bright left, upper or both halves."""
    bright = {"left": [LEFT], "top": [TOP], "both": [LEFT, TOP]}
    for name, count in counts.items():
        for split, rows in (("train", count), ("test", 3)):
            for number in range(rows):
                path = folder / split / name / f"{number:03}.png"
                picture(path, bright[name], seed=1000 * len(split) + number)
    return folder


@on_host
def test_rare_classes_are_shown_as_often_as_common_ones(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_cli.training.loop import Trainer

    data = unbalanced(here / "data", {"left": 60, "top": 8, "both": 20})
    shown: list[Counter[int]] = []
    original = Trainer.train_step
    monkeypatch.setattr(
        Trainer,
        "train_step",
        lambda self, batch: (
            shown.append(Counter(batch.target_B.tolist())),
            original(self, batch),
        )[1],
    )
    outcome = distill(
        *("teacher", "train", "--data", data, "--model", "mlp_8x1", "--order", "balanced"),
        *("--epochs", 2, "-b", 7, "--quiet", "--out", "r"),
    )
    assert outcome.code == 0, outcome.err
    assert len(shown) == 2 * (79 // 7), "an epoch is as long as it was"
    assert all(sorted(each.values()) == [2, 2, 3] for each in shown)
    total = sum(shown[:11], Counter())
    assert max(total.values()) - min(total.values()) <= 1


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--augment", "mixup"), 2, "mixup mixes pairs"),
        (("--augment", "shift:1,cutmix"), 2, "cutmix mixes pairs"),
        (("-b", 3), 2, "no two samples of two classes"),
    ],
)
@pytest.mark.parametrize("by", ["order", "objective"])
def test_options_that_contradict_a_balanced_order(
    made: Made,
    here: Path,
    distill: Distill,
    by: str,
    given: tuple[object, ...],
    code: int,
    said: str,
) -> None:
    asked = {"order": ("--order", "balanced"), "objective": ("--objective", "category-structure")}
    common = ("student", "--teachers", made.teacher, *MODEL, "--quiet", *asked[by])
    outcome = distill(*common, *given, "--out", "s")
    assert outcome.code == code, outcome.err
    assert said in outcome.err
    assert "--order shuffled" in outcome.err
    assert ("category-structure" in outcome.err) == (by == "objective")
    assert not (here / "s").exists()


def test_teachers_that_cannot_be_asked(made: Made, here: Path, distill: Distill) -> None:
    both = f"{made.teacher},{made.other}"
    for objective in ("category-structure", "feature-norm-kd"):
        for teachers, code, said in (
            (made.labels / "a", 3, "run folder"),
            (both, 2, "one teacher"),
        ):
            given = ("--teachers", teachers, "--objective", objective, "--quiet", "--out", "s")
            outcome = distill("student", *given)
            assert outcome.code == code, outcome.err
            assert said in outcome.err
    relabel = ("--teachers", both, "--mode", "relabel", "--order", "balanced", "--quiet")
    outcome = distill("student", *relabel, "--out", "s")
    assert (outcome.code, "--mode relabel" in outcome.err) == (2, True), outcome.err
    data = ("teacher", "train", "--data", "digits", "--quiet", "--out", "s")
    outcome = distill(*data, "--objective", "category-structure")
    assert (outcome.code, "can be set otherwise" in outcome.err) == (2, True)
    parts = ("--objective", "category-structure", "--accumulate", 2)
    outcome = distill("student", "--teachers", made.teacher, *parts, "--quiet", "--out", "s")
    assert (outcome.code, "--accumulate" in outcome.err) == (2, True)
    parts = ("--objective", "feature-norm-kd", "--accumulate", 2)
    outcome = distill("student", "--teachers", made.teacher, *parts, "--quiet", "--out", "s")
    assert (outcome.code, "--accumulate" in outcome.err) == (2, True)
    path = recipe(here, {"name": "feature-norm-kd", "pairs": [["auto", "auto"]]})
    outcome = distill("student", "-r", path, "--teachers", made.teacher, "--quiet", "--out", "s")
    assert (outcome.code, "no other layers" in outcome.err) == (2, True)
    assert not (here / "s").exists()


def test_data_that_cannot_be_balanced(here: Path, distill: Distill) -> None:
    balanced = ("--order", "balanced", "--model", "mlp_8x1", "--epochs", 1, "-b", 8, "--quiet")
    unbalanced(here / "some", {"left": 20, "top": 20})
    lines = ["file,labels", *(f"some/train/left/{n:03}.png,left" for n in range(20))]
    lines += [f"some/train/top/{n:03}.png,left;top" for n in range(20)]
    several = listing(here / "several.csv", lines)
    outcome = distill("teacher", "train", "--data", several, *balanced, "--out", "r")
    assert outcome.code == 3, outcome.err
    assert "several labels" in outcome.err
    assert not (here / "r").exists()
