"""Groups side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distill_cli.report.against import describe_against
from distill_cli.report.groups import Group, group_runs
from distill_cli.report.row import COLUMNS, PAGE_COLUMNS, hidden
from distill_cli.report.table import (
    comparison,
    to_json,
)
from tests.report.made import STUDENT, run, seeds


def group(root: Path, name: str, recipe: dict[str, Any] | None = None, **figures: Any) -> Group:
    return Group(label=name, runs=(run(root / name, recipe, **figures),))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"params": 110, "latency_ms": 0.125, "test_errors": 39},
            "11× smaller, 4× faster, 3 errors more",
        ),
        (
            {"params": 1815, "latency_ms": 1.0, "test_errors": 35},
            "1.5× larger, 2× slower, 1 error fewer",
        ),
        ({}, "as large, as many errors"),
        ({"params": 1250, "latency_ms": 0.46}, "as large, as many errors"),
        ({"params": 122, "latency_ms": 0.0502}, "9.9× smaller, 10× faster, as many errors"),
        ({"latency_ms": 0}, "as large, as many errors"),
        ({"test_samples": 100}, "as large, errors of other test images"),
    ],
)
def test_describe_against(tmp_path: Path, figures: dict[str, Any], said: str) -> None:
    reference = group(tmp_path, "reference", params=1210, latency_ms=0.5, test_errors=36)
    other = group(tmp_path, "other", **figures)
    assert describe_against(other, reference) == said


def test_mean_errors_are_compared(tmp_path: Path) -> None:
    some = Group(label="some", runs=tuple(seeds(tmp_path / "some", [30, 31])))
    assert describe_against(some, group(tmp_path, "one")).endswith("5.5 errors fewer")
    more = Group(label="more", runs=tuple(seeds(tmp_path / "more", [36, 38])))
    assert describe_against(more, group(tmp_path, "two")).endswith("1 error more")


def test_rows(tmp_path: Path) -> None:
    runs = seeds(tmp_path / "s", [30, 32], {**STUDENT})
    groups = group_runs([run(tmp_path / "t", params=13_000), *runs])
    compared = comparison(groups)
    assert [row.runs for row in compared.rows] == ["t", "s"]
    first, second = compared.rows
    assert first.held_out == "91.00 %"
    assert (first.seeds, second.seeds) == (1, 2)
    assert (first.errors, second.errors) == ("36", "31.0 ± 1.4")
    assert first.test_samples == "360"
    assert first.top1 == "90.00 %"
    assert second.nll == "0.310 ± 0.000"
    assert first.ece == "4.2 %"
    assert first.params == "13 K"
    assert first.size == "57 KB"
    assert first.latency == "0.500 ms"
    assert first.speed == "1.5 K"
    assert first.agreement == "–"
    assert first.against == ""
    assert second.against == "11× smaller, as fast, 5 errors fewer"
    assert compared.notes == ()


def test_agreement_is_shown_where_it_is_known(tmp_path: Path) -> None:
    known = group(tmp_path, "a", {**STUDENT}, teacher_agreement=0.975)
    assert comparison([known]).rows[0].agreement == "97.5 %"


def test_the_best_stands_first_and_the_first_that_is_given_is_the_reference(tmp_path: Path) -> None:
    groups = [
        group(tmp_path, "b", params=1000),
        group(tmp_path, "worst", test_top1=0.8),
        group(tmp_path, "a", params=100, test_top1=0.95),
    ]
    compared = comparison(groups)
    assert [row.label for row in compared.rows] == ["a", "b", "worst"]
    assert compared.reference is groups[0]
    assert compared.reference_row.label == "b"
    assert compared.reference_row.against == ""
    assert compared.rows[0].against.startswith("10× smaller")
    # A script's rows keep the order in which it named them.
    rows = to_json(groups)
    assert [row["label"] for row in rows] == ["b", "worst", "a"]
    assert [row["rank"] for row in rows] == [2, 3, 1]
    assert rows[0]["against_first"] == ""
    assert rows[2]["against_first"].startswith("10× smaller")


def test_headings_fit_the_rows(tmp_path: Path) -> None:
    groups = [group(tmp_path, "a")]
    row = set(asdict(comparison(groups).rows[0]))
    assert row - {"against", "test_samples", "speed", "agreement"} == set(COLUMNS)
    assert row - {"label", "runs", "against"} == set(PAGE_COLUMNS)


def test_json_holds_numbers(tmp_path: Path) -> None:
    groups = [Group(label="a", runs=tuple(seeds(tmp_path / "a", [10, 14])))]
    [entry] = json.loads(json.dumps(to_json(groups), allow_nan=False))
    assert entry["label"] == "a"
    assert entry["role"] == "teacher"
    assert entry["seeds"] == [0, 1]
    assert entry["figures"]["test_errors"]["mean"] == 12
    assert entry["figures"]["test_errors"]["sd"] == pytest.approx(8**0.5)
    assert entry["figures"]["teacher_kl"] == {"mean": None, "sd": None}
    assert entry["against_first"] == ""


@pytest.mark.parametrize(
    ("recipe", "figures", "said"),
    [
        ({"recorded": {"dataset": {"fingerprint": "beef"}}}, {}, "errors cannot be compared"),
        ({}, {"test_samples": 1000}, "errors cannot be compared"),
        ({"recorded": {"device": "cuda:0"}}, {}, "times cannot be compared"),
    ],
)
def test_notes_of_what_is_not_comparable(
    tmp_path: Path, recipe: dict[str, Any], figures: dict[str, Any], said: str
) -> None:
    groups = [group(tmp_path, "a"), group(tmp_path, "b", recipe, **figures)]
    assert len(comparison(groups).notes) == 1
    assert said in comparison(groups).notes[0]


def test_a_run_that_noted_nothing_is_not_suspected(tmp_path: Path) -> None:
    groups = [group(tmp_path, "a"), group(tmp_path, "b", {"recorded": None})]
    assert comparison(groups).notes == ()


def test_labels_that_stand_by_themselves(tmp_path: Path) -> None:
    plain = comparison([group(tmp_path, "plain")])
    assert {"map", "f1"} <= hidden(plain.rows)
    both = comparison([group(tmp_path, "one"), group(tmp_path, "two", test_map=0.75, test_f1=0.5)])
    assert not {"map", "f1"} & hidden(both.rows)
    assert [(row.map, row.f1) for row in both.rows] == [("–", "–"), ("75.00 %", "50.00 %")]


def test_two_runs_of_one_seed_are_one_draw(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", test_errors=36),
        run(tmp_path / "b", test_errors=36),
        run(tmp_path / "c", test_errors=38),
    ]
    [group] = group_runs(runs)
    assert group.runs == (runs[0],)
    assert group.repeats == tuple(runs[1:])
    compared = comparison([group])
    [row] = compared.rows
    assert (row.seeds, row.errors) == (1, "36")
    assert compared.notes == (
        "b has the recipe and the seed of a, which alone counts",
        "c has the recipe and the seed of a, which alone counts (38 and 36 test errors)",
    )
    [entry] = to_json([group])
    assert entry["seeds"] == [0]
    assert entry["repeats"] == [str(tmp_path / "b"), str(tmp_path / "c")]


def with_data(dataset: str, samples: int, test: str | None, **more: Any) -> dict[str, Any]:
    recorded = {"dataset": {"fingerprint": dataset, "samples": samples, **more}}
    return {"recorded": recorded | ({} if test is None else {"test": {"fingerprint": test}})}


@pytest.mark.parametrize(
    ("one", "other", "note"),
    [
        # A run and its twin with --dedupe: other images were learnt, the same ones tested.
        (
            with_data("all", 1438, "t"),
            with_data("some", 1400, "t", dedupe=True),
            "learnt from different training images (1,438 and 1,400); they were tested on the same",
        ),
        (with_data("all", 9, "t"), with_data("all", 9, "u"), "tested on different images"),
        (with_data("all", 9, "t"), with_data("all", 9, "t"), None),
        # Runs up to 0.4.0 noted their training images alone.
        (with_data("all", 9, None), with_data("other", 9, "t"), "tested on different images"),
        (with_data("all", 9, None), with_data("all", 9, "t"), None),
        (
            with_data("all", 9, None),
            with_data("some", 8, None, dedupe=True),
            "learnt from different training images (9 and 8); whether test is the same is not noted",
        ),
    ],
)
def test_the_test_images_decide_what_can_be_compared(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], note: str | None
) -> None:
    compared = comparison([group(tmp_path, "a", one), group(tmp_path, "b", other)])
    assert len(compared.notes) == (note is not None)
    assert (note or "") in "".join(compared.notes)
