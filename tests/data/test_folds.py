"""Folds of training rows: disjoint, of every class alike, and no matter of the order of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.data.dataset import open_dataset
from distill_cli.data.folds import folds_of
from distill_cli.data.label_rules import LabelRules
from distill_cli.data.labels import relabelled
from distill_cli.errors import ArtifactError
from distill_cli.types import UNLABELLED
from tests.data.pictures import LEFT, TOP, picture

LABELS = st.lists(st.integers(-1, 3), min_size=1, max_size=60)


@given(LABELS, st.integers(2, 7), st.integers(0, 3))
def test_folds_are_even_of_all_rows_and_of_every_class(
    labels: list[int], count: int, seed: int
) -> None:
    label_N = torch.tensor([*labels, 0, 1])
    key_N = torch.arange(len(label_N)) * 7919 - 12345
    rows_P = torch.arange(0, len(label_N), 2)
    fold_P = folds_of(rows_P, label_N, key_N, count, seed)
    assert set(fold_P.tolist()) <= set(range(count))
    for part_P in [torch.ones_like(rows_P, dtype=torch.bool)] + [
        label_N[rows_P] == label for label in range(-1, 4)
    ]:
        sizes = torch.bincount(fold_P[part_P], minlength=count)
        assert int(sizes.max() - sizes.min()) <= 1
    assert folds_of(rows_P, label_N, key_N, count, seed).equal(fold_P)
    # Rows in another order are in the same folds.
    order_N = torch.arange(len(label_N) - 1, -1, -1)
    turned_P = (len(label_N) - 1 - rows_P).flip(0)
    again_P = folds_of(turned_P, label_N[order_N], key_N[order_N], count, seed)
    assert again_P.flip(0).equal(fold_P)


def test_folds_of_what_is_known() -> None:
    """Each row is in one; with hidden labels, a limit and left-out classes too."""
    digits = open_dataset("digits")
    for values in ({"limit": 100}, {"per_class": 8}, {"omit": ("3",), "fraction": 0.2}):
        whole = relabelled(digits, LabelRules(**values))
        parts = [relabelled(digits, LabelRules(**values, fold=(n, 3))) for n in range(1, 4)]
        times = torch.bincount(torch.cat([part.fit_rows for part in parts]), minlength=1438)
        assert bool((times[whole.fit_rows] == 2).all())
        assert int(times.sum()) == 2 * len(whole.fit_rows)
        for part in parts:
            assert part.labels is not None
            assert part.labels.fold is not None
            assert part.labels.fold[2] == len(whole.fit_rows) - len(part.fit_rows)
            assert part.val.label_N.equal(whole.val.label_N), "what chooses the epoch is the data's"
            gone = whole.fit_rows[~torch.isin(whole.fit_rows, part.fit_rows)]
            assert bool((part.train.label_N[gone] == UNLABELLED).all())
            assert bool((part.hidden_N[gone] == UNLABELLED).all())
    other = relabelled(digits, LabelRules(fold=(1, 4), seed=1))
    assert not other.fit_rows.equal(relabelled(digits, LabelRules(fold=(1, 4))).fit_rows)


def test_unlabelled_images_beside_the_data_change_no_fold_of_them(tmp_path: Path) -> None:
    for number in range(7):
        picture(tmp_path / "more" / f"{number}.png", [LEFT, TOP][number % 2 : 1], seed=number)
    alone = open_dataset("digits")
    both = open_dataset("digits", unlabelled=str(tmp_path / "more"))
    rules = LabelRules(fold=(2, 3))
    rows = relabelled(both, rules).fit_rows
    assert rows[rows < alone.identity.samples].equal(relabelled(alone, rules).fit_rows)
    assert int((rows >= alone.identity.samples).sum()) in (4, 5)


def test_a_class_of_fewer_rows_than_folds() -> None:
    digits = open_dataset("digits")
    with pytest.raises(ArtifactError, match="has 5 images to train on, fewer than there are folds"):
        relabelled(digits, LabelRules(limit=50, fold=(1, 6)))
