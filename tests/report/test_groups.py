"""Runs that differ in their seed only are one group."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from distill_cli.objectives.kd import KnowledgeDistillation
from distill_cli.recipe.earlier import defaults_then
from distill_cli.report.groups import KD_OF_0_1_0, Group, group_runs, label_of
from distill_cli.report.run_folder import read_run
from tests.report.made import STUDENT, make, run, seeds


def test_only_the_seed_may_differ(tmp_path: Path) -> None:
    runs = seeds(tmp_path / "hard", [10, 12, 14])
    other = run(tmp_path / "other", {"lr": 0.2})
    groups = group_runs([runs[0], other, *runs[1:]])
    assert [len(group.runs) for group in groups] == [3, 1]
    assert groups[0].runs == tuple(runs)


@pytest.mark.parametrize(
    "key_value",
    [
        *(("view_seed", 7), ("require", ["test_top1>=0.9"]), ("about", "x"), ("recorded", {})),
        *(("graphs", "off"), ("checkpoint_every", "5m"), ("max_time", "2h"), ("grace", "9s")),
    ],
)
def test_what_does_not_change_training(tmp_path: Path, key_value: tuple[str, object]) -> None:
    key, value = key_value
    runs = [run(tmp_path / "a"), run(tmp_path / "b", {key: value})]
    assert len(group_runs(runs)) == 1


def test_teachers_must_be_the_same_in_the_same_order(tmp_path: Path) -> None:
    both = {**STUDENT, "mode": "random"}
    runs = [
        run(tmp_path / "ab", {**both, "teachers": ["runs/a", "runs/b"]}),
        run(tmp_path / "ba", {**both, "teachers": ["runs/b", "runs/a"]}),
    ]
    assert len(group_runs(runs)) == 2


def test_mean_and_sample_sd(tmp_path: Path) -> None:
    group = group_runs(seeds(tmp_path, [10, 12, 17]))[0]
    assert (group.mean("test_errors"), group.sd("test_errors")) == (
        13,
        statistics.stdev([10, 12, 17]),
    )
    assert (group.mean("params"), group.sd("params")) == (1210, 0)
    assert (group.mean("teacher_kl"), group.sd("teacher_kl")) == (None, None)


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    group = group_runs([run(tmp_path / "a", test_errors=10)])[0]
    assert (group.mean("test_errors"), group.sd("test_errors")) == (10, None)


def test_unfinished_runs_have_no_figures(tmp_path: Path) -> None:
    done = run(tmp_path / "a", test_errors=10)
    open_run = read_run(make(tmp_path / "b", {"seed": 1}, finished=False), finished=False)
    group = Group(label="x", runs=(done, open_run))
    assert len(group.results) == 1
    assert (group.mean("test_errors"), group.sd("test_errors")) == (10, None)


def test_roles(tmp_path: Path) -> None:
    groups = group_runs([run(tmp_path / "a"), run(tmp_path / "b", {**STUDENT, "command": None})])
    assert [group.role for group in groups] == ["teacher", "student"]


@pytest.mark.parametrize(
    ("recipe", "label"),
    [
        ({"model": "m", "objective": "ce"}, "m · ce"),
        ({"model": "m", "objective": "ce", "label_smoothing": 0.1}, "m · ce ε=0.1"),
        ({"model": "m", **STUDENT}, "m · kd T=4 α=0.9 · single"),
        ({"model": "m", **STUDENT, "temperature": 20.0}, "m · kd T=20 α=0.9 · single"),
        ({"model": "m", **STUDENT, "alpha": 0.0}, "m · kd T=4 α=0 · single"),
        (
            {"model": "m", **STUDENT, "teachers": ["a", "b"], "mode": None},
            "m · kd T=4 α=0.9 · ensemble of 2",
        ),
        ({"model": "m", **STUDENT, "alpha_end": 0.1}, "m · kd T=4 α=0.9→0.1 linear · single"),
        ({"model": "m", **STUDENT, "schedule": "cosine"}, "m · kd T=4 α=0.9→0 cosine · single"),
        ({"model": "m", **STUDENT, "objective": "later"}, "m · later · single"),
        (
            {
                "model": "m",
                **STUDENT,
                "objective": [{"name": "kd", "temperature": 2, "weight": 0.5}, {"name": "ce"}],
            },
            "m · kd T=2 weight=0.5 + ce · single",
        ),
    ],
)
def test_labels(recipe: dict[str, object], label: str) -> None:
    assert label_of(recipe) == label


def test_a_label_is_what_was_asked_for_and_a_group_what_it_meant(tmp_path: Path) -> None:
    def spelled(weight: float, **asked: object) -> dict[str, object]:
        hard = {"name": "ce", "weight": weight, "schedule": "constant"}
        soft = {"name": "kd", "weight": 0.8, "schedule": "constant", "temperature": 3.0}
        recorded = {"asked": {"objective": "kd", **asked}, "defaults": "0.2.0"}
        return {**STUDENT, "model": "m", "objective": [hard, soft], "recorded": recorded}

    assert label_of(spelled(0.2)) == "m · kd T=3 α=0.8 · single"
    runs = [
        run(tmp_path / "a", spelled(0.2)),
        run(tmp_path / "b", spelled(0.2, temperature=3.0) | {"seed": 1}),
        run(tmp_path / "c", spelled(0.5)),
    ]
    one, other = group_runs(runs)
    assert one.runs == tuple(runs[:2])
    assert "ce.weight=0.2" in one.label
    assert "ce.weight=0.5" in other.label


def test_equal_labels_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    home = str(tmp_path / "private")
    runs = [
        run(tmp_path / "a", {**STUDENT, "teachers": [f"{home}/big"]}),
        run(tmp_path / "b", {**STUDENT, "teachers": [f"{home}/small"]}),
        run(tmp_path / "c", {**STUDENT, "teachers": [f"{home}/big"], "lr": 0.5}),
    ]
    labels = [group.label for group in group_runs(runs)]
    assert len(set(labels)) == 3
    assert "teachers=big" in labels[0]
    assert "teachers=small" in labels[1]
    assert "lr=0.5" in labels[2]
    assert not any(home in label for label in labels)


def test_labels_are_distinct_whatever_differs(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / place / "same", {**STUDENT, "teachers": [f"{tmp_path}/{place}/teacher"]})
        for place in ("x", "y", "z")
    ]
    labels = [group.label for group in group_runs(runs)]
    assert len(set(labels)) == 3


def test_the_defaults_of_kd_that_old_runs_mean_are_those_of_their_version() -> None:
    """Whoever changes kd's temperature enters the old one in `recipe.earlier`, and not here."""
    then = {"temperature": KnowledgeDistillation().temperature, **defaults_then("0.1.0", "kd")}
    assert then["temperature"] == KD_OF_0_1_0["temperature"]
