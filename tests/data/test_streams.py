"""Two streams of rows, and batches whose samples are not all shown alike."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.counters import Purpose
from distill_cli.data.epoch_table import EpochTable
from distill_cli.data.loader import Loader, OtherViews
from distill_cli.data.streams import Streams
from distill_cli.data.views import Views
from distill_cli.types import UNLABELLED, Share
from tests.data.test_views import N, table, views

CPU = torch.device("cpu")


def streams(labelled: int, unlabelled: int, batch: int, count: int, seed: int = 0) -> Streams:
    rows = torch.arange(labelled + unlabelled)
    return Streams(
        labelled=rows[:labelled],
        unlabelled=rows[labelled:],
        batch_size=batch,
        count=count,
        seed=seed,
    )


@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 12), st.data())
def test_every_batch_has_the_same_numbers_and_no_row_comes_back_the_same(
    labelled: int, unlabelled: int, batch: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, batch - 1))
    unlabelled = max(unlabelled, count)
    made = streams(labelled, unlabelled, batch, count, seed=data.draw(st.integers(0, 3)))
    shown: list[tuple[int, int]] = []
    for epoch in range(3):
        rows, view = made.shown(epoch)
        assert len(rows) == made.steps * batch
        for part in rows.split(batch):
            assert int((part >= labelled).sum()) == count
            assert torch.equal(part >= labelled, made.is_unlabelled_B)
        hidden = rows[rows >= labelled]
        assert len(set(hidden.tolist())) == len(hidden), "one pass over the unlabelled rows"
        assert bool((view[rows >= labelled] == epoch).all())
        shown += list(zip(rows.tolist(), view.tolist(), strict=True))
    assert len(set(shown)) == len(shown)
    times = Counter(row for row, _ in shown if row < labelled)
    assert max(times.values()) - min(times.values()) <= 1 or len(times) < labelled
    for row, n in times.items():
        assert sorted(view for r, view in shown if r == row) == list(range(n)), (
            "view n at its nth time"
        )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_parts_and_ranks_have_as_many_of_either_kind(
    each: int, known: int, ranks: int, parts: int
) -> None:
    """Where their number divides the unlabelled samples, and so the others."""
    count, batch = each * ranks * parts, (each + known) * ranks * parts
    hidden_B = streams(1, count, batch, count).is_unlabelled_B
    assert int(hidden_B.sum()) == count
    for rank in range(ranks):
        own = Share(rank=rank, ranks=ranks, parts=parts).of(hidden_B)
        for part in own.view(parts, -1):
            assert int(part.sum()) == each


def shown(device_views: bool, share: Share | None = None, **others: Any) -> list[Any]:
    """Batches of two epochs, as the host makes them or from tables."""
    target_N = table().label_N.clone()
    target_N[N // 3 :] = UNLABELLED
    rows = torch.arange(N)
    made = Loader(
        views=Views(table(), views("crop:1", "flip").spec, CPU, stream=Purpose.STUDENT),
        target_N=target_N,
        rows=rows,
        batch_size=4,
        seed=1,
        streams=Streams(
            labelled=rows[: N // 3], unlabelled=rows[N // 3 :], batch_size=4, count=2, seed=1
        ),
        others=OtherViews(**others),
        **({} if share is None else {"share": share}),
    )
    if not device_views:
        return [batch for epoch in range(2) for batch in made.epoch(epoch)]
    batches, tables = [], EpochTable(made)
    for epoch in range(2):
        tables.load(epoch, 0)
        for step in range(made.steps):
            batches.append(tables.batch(epoch * made.steps + step))
            tables.advance()
    return batches


def test_each_sample_is_shown_in_the_views_of_its_kind() -> None:
    weak, strong = (
        views("flip"),
        Views(table(), views("crop:1", "flip").spec, CPU, stream=Purpose.STUDENT),
    )
    for batch in shown(False, labelled=weak, teacher=weak, asks_unlabelled=True):
        hidden = (batch.target_B == UNLABELLED).nonzero()[:, 0]
        assert torch.equal(batch.asked_T, hidden)
        for place, (row, view) in enumerate(
            zip(batch.index_B.tolist(), batch.view_B.tolist(), strict=True)
        ):
            one = torch.tensor([row]), torch.tensor([view])
            kind = strong if place in hidden.tolist() else weak
            assert torch.equal(batch.images_BCHW[place], kind.batch(*one).images_BCHW[0])
        asked = weak.batch(batch.index_B[hidden], batch.view_B[hidden])
        assert torch.equal(batch.teacher_TCHW, asked.images_BCHW)
        said = batch.spread(torch.ones(len(hidden), 3))
        assert torch.equal(said.sum(dim=1) > 0, batch.target_B == UNLABELLED)


def test_tables_on_a_device_show_the_same() -> None:
    weak = views("flip")
    for others in (
        {},
        {"teacher": weak},
        {"teacher": views("downscale:3", "grey")},
        {"labelled": weak},
        {"labelled": weak, "teacher": weak, "asks_unlabelled": True},
    ):
        for share in (None, Share(rank=1, ranks=2)):
            pairs = zip(shown(False, share, **others), shown(True, share, **others), strict=True)
            for host, device in pairs:
                for name in ("images_BCHW", "target_B", "index_B", "view_B", "asked_T"):
                    one, other = getattr(host, name), getattr(device, name)
                    assert (one is None) == (other is None)
                    assert one is None or torch.equal(one, other), name
                if host.teacher_TCHW is not None:
                    assert torch.equal(host.teacher_TCHW, device.teacher_TCHW)


def test_parts_of_a_batch_ask_the_teacher_of_their_own_samples() -> None:
    weak = views("flip")
    for batch in shown(False, labelled=weak, teacher=weak, asks_unlabelled=True):
        parts = list(batch.split(2))
        assert torch.equal(torch.cat([part.teacher_TCHW for part in parts]), batch.teacher_TCHW)
        for part in parts:
            assert torch.equal(part.target_B[part.asked_T], torch.tensor([UNLABELLED]))
            assert part.samples == 4
