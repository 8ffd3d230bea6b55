"""The balanced order: what a batch, an epoch and a run of epochs show."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.data.loader import Loader
from distill_cli.data.order import balanced_order
from tests.data.test_views import N, table, views


def made(counts: list[int], spread: int = 7) -> tuple[Tensor, Tensor]:
    """Rows that are no range, and their classes, mixed."""
    label_N = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])
    mixed = torch.randperm(len(label_N), generator=torch.Generator().manual_seed(0))
    return torch.arange(len(label_N)) * spread + 3, label_N[mixed]


def shown(
    counts: list[int], batch: int, epoch: int = 0, seed: int = 0
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Rows, classes and views of each batch."""
    rows, label_N = made(counts)
    order, before = balanced_order(rows, label_N, seed, epoch, batch)
    class_of = dict(zip(rows.tolist(), label_N.tolist(), strict=True))
    parts = order.view(-1, batch).tolist()
    classes = [[class_of[row] for row in part] for part in parts]
    return parts, classes, before.view(-1, batch).tolist()


@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=9),
    st.integers(4, 40),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_every_class_of_a_batch_is_shown_alike(
    counts: list[int], batch: int, epoch: int, seed: int
) -> None:
    batch = min(batch, sum(counts))
    if batch < 4:
        return
    parts, classes, _ = shown(counts, batch, epoch, seed)
    assert len(parts) == sum(counts) // batch, "an epoch is as long as any other"
    present = min(len(counts), batch // 2)
    total: Counter[int] = Counter(dict.fromkeys(range(len(counts)), 0))
    for part in classes:
        often = Counter(part)
        assert len(often) == present
        assert min(often.values()) >= 2
        assert max(often.values()) - min(often.values()) <= 1
        total.update(often)
    # All alike: exactly where a batch shows them all, else up to one batch's share.
    within = 1 if present == len(counts) else -(-batch // present)
    assert max(total.values()) - min(total.values()) <= within


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(0, 4))
def test_each_class_shows_its_rows_round_by_round(counts: list[int], epoch: int) -> None:
    """Within an epoch no row is shown once more before all others of its class were."""
    if sum(counts) < 8:
        return
    parts, classes, before = shown(counts, 8, epoch)
    times: Counter[tuple[int, int]] = Counter()
    for part, view in zip(parts, before, strict=True):
        times.update(zip(part, view, strict=True))
    assert not times or max(times.values()) == 1, "never the same view of a row again"
    for k, count in enumerate(counts):
        flat = [
            (row, view)
            for part, kinds, seen in zip(parts, classes, before, strict=True)
            for row, kind, view in zip(part, kinds, seen, strict=True)
            if kind == k
        ]
        rounds = Counter(view for _, view in flat)
        for view in sorted(rounds)[1:-1]:
            assert rounds[view] == count


def test_each_round_has_a_permutation_of_its_own() -> None:
    """Within an epoch, of a rare class, and from epoch to epoch."""
    rows, label_N = made([5, 25])
    own = rows[label_N == 0]
    seen: dict[int, list[int]] = {}
    for epoch in (0, 1):
        order, before = balanced_order(rows, label_N, 0, epoch, 6)
        for row, view in zip(order.tolist(), before.tolist(), strict=True):
            if row in own:
                seen.setdefault(view, []).append(row)
    assert len(seen) == 6
    assert all(sorted(each) == own.tolist() for each in seen.values())
    assert len({tuple(each) for each in seen.values()}) == 6


def test_parts_of_a_batch_are_of_several_classes() -> None:
    _, classes, _ = shown([30, 30], 20)
    assert all(set(part[:10]) == set(part[10:]) == {0, 1} for part in classes)


def test_over_epochs_every_row_of_a_common_class_is_shown() -> None:
    """15 rows of 2 classes: an epoch shows the common one's 4 or so of 12, three epochs nearly all."""
    seen: Counter[int] = Counter()
    rows, label_N = made([12, 3])
    for epoch in range(30):
        seen.update(balanced_order(rows, label_N, 5, epoch, 5)[0].tolist())
    common = [seen[row] for row in rows[label_N == 0].tolist()]
    rare = [seen[row] for row in rows[label_N == 1].tolist()]
    assert sum(common) + sum(rare) == 30 * 15
    assert max(common) - min(common) <= 6
    assert max(rare) - min(rare) <= 12
    assert abs(sum(common) - sum(rare)) <= 30
    assert min(common) >= 15


def test_it_is_a_function_of_seed_and_epoch() -> None:
    rows, label_N = made([9, 5, 7])
    first = balanced_order(rows, label_N, 0, 0, 6)
    again = balanced_order(rows, label_N, 0, 0, 6)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    for seed, epoch in ((1, 0), (0, 1)):
        assert not torch.equal(first[0], balanced_order(rows, label_N, seed, epoch, 6)[0])


def test_which_classes_meet_changes_from_batch_to_batch() -> None:
    _, classes, _ = shown([6] * 6, 4)
    assert len({frozenset(part) for part in classes}) > 3


def loader(batch: int, stored: int | None = None) -> Loader:
    return Loader(
        views=views("flip"),
        target_N=table().label_N % 2,
        rows=torch.arange(N - 1),
        batch_size=batch,
        seed=3,
        stored_views=stored,
        order_name="balanced",
    )


@pytest.mark.parametrize("stored", [None, 2])
def test_the_loader_goes_on_in_mid_epoch_with_the_same_batches(stored: int | None) -> None:
    whole = list(loader(4, stored).epoch(2))
    assert len(whole) == (N - 1) // 4 > 1
    rest = list(loader(4, stored).epoch(2, first=1))
    for one, other in zip(whole[1:], rest, strict=True):
        for name in ("images_BCHW", "index_B", "view_B", "target_B"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    for batch in whole:
        assert Counter(batch.target_B.tolist()) == {0: 2, 1: 2}
        assert torch.equal(batch.target_B, table().label_N[batch.index_B] % 2)
        if stored is not None:
            assert set(batch.view_B.tolist()) <= set(range(stored))
