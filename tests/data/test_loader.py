from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.data.loader import Loader
from distill_cli.data.order import epoch_order
from distill_cli.types import UNLABELLED
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


def labelled(target_NK: torch.Tensor, *augment: str) -> Loader:
    return Loader(
        views=views(*augment),
        target_N=torch.full((N,), UNLABELLED),
        rows=torch.arange(N - 1),
        batch_size=4,
        seed=0,
        target_NK=target_NK,
    )


def test_several_labels_are_those_of_the_rows() -> None:
    target_NK = torch.randint(0, 2, (N, 3), dtype=torch.int8)
    made = labelled(target_NK, "flip")
    assert not made.unlabelled
    assert made.labelled_share == 1
    for batch in made.epoch(0):
        assert batch.target_BK is not None
        assert batch.target_BK.equal(target_NK[batch.index_B].float())
        assert batch.labelled == 4


def test_labels_are_mixed_as_images_are() -> None:
    target_NK = torch.randint(0, 2, (N, 3), dtype=torch.int8)
    target_NK[2] = UNLABELLED
    made = labelled(target_NK, "mixup")
    assert made.unlabelled
    assert made.labelled_share == (N - 2) / (N - 1)
    for epoch in range(3):
        for batch in made.epoch(epoch):
            assert batch.target_BK is not None
            assert batch.mixing is not None
            own = target_NK[batch.index_B].float()
            inside = batch.target_BK.ge(0).all(dim=1)
            assert (batch.target_BK[~inside] == UNLABELLED).all()
            assert not inside[batch.index_B == 2].any()
            assert (batch.target_BK[inside] <= 1).all()
            sure = batch.mixing.share_B == 1
            assert batch.target_BK[inside & sure].equal(own[inside & sure])
            # What applies to an image applies at least by its own share.
            least = batch.mixing.share_B[:, None] * own
            assert (batch.target_BK[inside] >= least[inside] - 1e-6).all()
