"""The groups that no other one beats in accuracy and in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_cli.report.against import describe_against
from distill_cli.report.comparison_page import comparison_page
from distill_cli.report.groups import Group
from distill_cli.report.pareto import pareto
from distill_cli.report.row import bits_of, hidden
from distill_cli.report.table import comparison, to_json
from tests.report.made import run

# Label, packed bytes (None: fp32 of 57,300), accuracy; and whether none is better in as few bytes.
POINTS: list[tuple[str, int | None, float, bool]] = [
    ("full", None, 0.95, True),
    ("as large, worse", 57_300, 0.94, False),
    ("few", 9_000, 0.93, True),
    ("few, as good", 9_000, 0.93, True),
    ("few, worse", 9_000, 0.92, False),
    ("fewest", 5_000, 0.80, True),
    ("more, as good as the fewest", 6_000, 0.80, False),
]


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    return [
        group(
            tmp_path / str(number), label, test_top1=accuracy, packed_bytes=size, weight_bits=bits
        )
        for number, (label, size, accuracy, _) in enumerate(POINTS)
        for bits in [None if size is None else 2]
    ]


def group(folder: Path, label: str, **figures: Any) -> Group:
    return Group(label=label, runs=(run(folder, {"model": label}, **figures),))


def test_the_front(groups: list[Group]) -> None:
    best = [label for label, _, _, on_front in POINTS if on_front]
    assert {one.label for one in pareto(groups)} == set(best)
    assert pareto(groups)[0].label == "fewest"
    assert [one["on_front"] for one in to_json(groups)] == [point[3] for point in POINTS]
    assert [one["bytes"] for one in to_json(groups)] == [size or 57_300 for _, size, _, _ in POINTS]


def test_in_words_and_on_a_page(groups: list[Group]) -> None:
    said = describe_against(groups[2], groups[0])
    assert "6.4× fewer bytes" in said
    assert "bytes" not in describe_against(groups[0], groups[0])
    page = comparison_page("Runs", "", groups, [])
    assert "Accuracy and bytes" in page
    assert "fewest" in page
    alone = comparison_page("Runs", "", groups[:1], [])
    assert "Accuracy and bytes" not in alone, "one size is no curve"
    assert set(hidden(comparison(groups[:1]).rows)) >= {"bits", "packed"}
    assert not set(hidden(comparison(groups).rows)) & {"bits", "packed"}


def test_there_is_no_front_across_different_test_images(
    groups: list[Group], tmp_path: Path
) -> None:
    other = Group(
        label="other", runs=(run(tmp_path / "other", {"model": "other"}, test_samples=10),)
    )
    assert pareto([*groups, other]) == []
    assert {one["on_front"] for one in to_json([*groups, other])} == {None}
    assert "Accuracy and bytes" not in comparison_page("Runs", "", [*groups, other], [])


@pytest.mark.parametrize(
    ("weights", "activations", "text"),
    [(2.0, None, "2"), (1.0, 4.0, "1, activations 4"), (None, 4.0, "fp32, activations 4")],
)
def test_bits_in_words(weights: float | None, activations: float | None, text: str) -> None:
    assert bits_of(weights, activations) == text
