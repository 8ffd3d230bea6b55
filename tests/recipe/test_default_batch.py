from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.recipe.default_batch import default_batch
from distill_cli.recipe.earlier import batch_size_then


@pytest.mark.parametrize(
    ("rows", "batch"),
    [
        (1_000_000, 128),
        (2560, 128),
        (2559, 64),
        (1295, 64),
        (1279, 32),
        (319, 8),
        (320, 16),
        (259, 8),
        (40, 8),
        (8, 8),
        (5, 5),
        (1, 1),
    ],
)
def test_the_batch_goes_by_the_images(rows: int, batch: int) -> None:
    assert default_batch(rows) == batch


@given(st.integers(1, 10_000))
def test_it_is_the_largest_of_which_there_are_enough(rows: int) -> None:
    batch = default_batch(rows)
    if rows < 8:
        assert batch == rows
        return
    assert batch in (8, 16, 32, 64, 128)
    assert batch == 128 or rows // (2 * batch) < 20
    assert rows // batch >= 20 or batch == 8


@pytest.mark.parametrize(
    ("version", "batch"), [("0.1.0", 128), ("0.4.0", 128), ("0.5.0", None), (None, None)]
)
def test_earlier_versions_had_one_for_all(version: str | None, batch: int | None) -> None:
    assert batch_size_then(version) == batch
