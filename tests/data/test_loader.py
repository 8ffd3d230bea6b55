from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.data.loader import Loader
from distill_cli.data.order import epoch_order
from tests.data.test_views import N, table, views


def loader(rows: torch.Tensor, batch: int, seed: int = 0, stored: int | None = None) -> Loader:
    return Loader(
        views=views("flip"),
        target_N=table().label_N,
        rows=rows,
        batch_size=batch,
        seed=seed,
        stored_views=stored,
    )


@given(st.sets(st.integers(0, N - 1), min_size=2), st.integers(1, 5), st.integers(0, 4))
def test_an_epoch_shows_each_row_at_most_once(rows: set[int], batch: int, epoch: int) -> None:
    batch = min(batch, len(rows))
    made = loader(torch.tensor(sorted(rows)), batch)
    seen = torch.cat([b.index_B for b in made.epoch(epoch)]).tolist()
    assert len(seen) == len(set(seen)) == len(rows) // batch * batch
    assert set(seen) <= rows


def test_going_on_in_mid_epoch_gives_the_same_batches() -> None:
    whole = list(loader(torch.arange(N), 3).epoch(2))
    rest = list(loader(torch.arange(N), 3).epoch(2, first=2))
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.images_BCHW, b.images_BCHW)
        assert torch.equal(a.target_B, b.target_B)
        assert a.step == b.step


def test_steps_count_through_epochs() -> None:
    made = loader(torch.arange(N), 5)
    assert [b.step for epoch in range(3) for b in made.epoch(epoch)] == list(range(6))


def test_stored_views_are_cycled_through() -> None:
    made = loader(torch.arange(N), 4, stored=3)
    assert [int(next(made.epoch(e)).view_B[0]) for e in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    fresh = loader(torch.arange(N), 4)
    assert [int(next(fresh.epoch(e)).view_B[0]) for e in range(4)] == [0, 1, 2, 3]


def test_order_is_a_permutation_that_changes_with_epoch_and_seed() -> None:
    rows = torch.arange(100, 150)
    first = epoch_order(rows, 0, 0)
    assert sorted(first.tolist()) == rows.tolist()
    assert not torch.equal(first, epoch_order(rows, 0, 1))
    assert not torch.equal(first, epoch_order(rows, 1, 0))
    assert torch.equal(first, epoch_order(rows, 0, 0))
