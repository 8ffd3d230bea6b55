"""Several teachers, by every way of teaching with them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli import stopping
from distill_cli.data.loader import Loader
from distill_cli.models import InputSpec, create_network, load_model, save_model
from tests.conftest import Made, Outcome
from tests.data.test_views import N, table, views
from tests.saved import same, weights

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "--quiet")


def stop_after(monkeypatch: pytest.MonkeyPatch, looks: int) -> Callable[[], None]:
    """Has the next runs ask to stop when that was looked at often enough; undone by the result."""
    plain = stopping.StopRequest

    class AfterSteps(plain):
        seen = 0

        @property
        def signal_number(self) -> int | None:
            self.seen += 1
            return signal.SIGTERM if self.seen > looks else None

        @signal_number.setter
        def signal_number(self, value: int | None) -> None:
            pass

    monkeypatch.setattr(stopping, "StopRequest", AfterSteps)
    return lambda: monkeypatch.setattr(stopping, "StopRequest", plain)


def loader(copies: int, batch: int, *augment: str, stored: int | None = None) -> Loader:
    return Loader(
        views=views(*augment),
        target_N=table().label_N,
        rows=torch.arange(N - 1),
        batch_size=batch,
        seed=3,
        stored_views=stored,
        copies=copies,
    )


@given(
    copies=st.integers(2, 4),
    batch=st.integers(1, N - 1),
    block=st.integers(0, 3),
    mixed=st.sampled_from([(), ("mixup",), ("cutmix",)]),
)
def test_a_block_shows_every_copy_once(
    copies: int, batch: int, block: int, mixed: tuple[str, ...]
) -> None:
    made = loader(copies, batch, *mixed)
    epochs = range(block * copies, (block + 1) * copies)
    orders = [made.order(epoch) for epoch in epochs]
    assert [len(rows) for rows, _ in orders] == [N - 1] * copies, "epochs as long as others'"
    together = [
        (int(row), int(copy))
        for rows, numbers in orders
        for row, copy in zip(rows, numbers, strict=True)
    ]
    assert sorted(together) == [(row, copy) for row in range(N - 1) for copy in range(copies)]
    shown = []
    for place, epoch in enumerate(epochs):
        batches = list(made.epoch(epoch))
        assert len(batches) == made.steps == (N - 1) // batch
        for step, each in enumerate(batches):
            assert each.step == epoch * made.steps + step
            assert each.epoch == epoch
            assert torch.equal(each.view_B, block * copies + each.copy_B)
            assert torch.equal(each.target_B, table().label_N[each.index_B])
            shown += list(zip(each.index_B.tolist(), each.copy_B.tolist(), strict=True))
        kept = together[place * (N - 1) :][: made.steps * batch]
        assert shown[-len(kept) :] == kept, "only the remainder is dropped"
    assert len(shown) == len(set(shown))


@given(copies=st.integers(2, 4), block=st.integers(0, 3))
def test_what_is_mixed_stands_together(copies: int, block: int) -> None:
    made = loader(copies, 2, "mixup")
    assert made.views.mixer is not None
    orders = [made.order(block * copies + place) for place in range(copies)]
    rows = torch.cat([row for row, _ in orders])
    copy = torch.cat([number for _, number in orders])
    whole = (N - 1) // 2 * 2 * copies
    assert torch.equal(copy[0:whole:2], copy[1:whole:2])
    partner = made.views.mixer.partners(rows, block * copies + copy)
    assert torch.equal(partner[0:whole:2], rows[1:whole:2])
    assert torch.equal(partner[1:whole:2], rows[0:whole:2])
    assert torch.equal(partner[whole:], rows[whole:]), "an odd one is alone, and last"


def test_blocks_and_seeds_differ() -> None:
    made = loader(2, 4)
    assert not torch.equal(made.order(0)[0], made.order(2)[0])
    other = loader(2, 4)
    other.seed = 4
    assert not torch.equal(made.order(0)[0], other.order(0)[0])


def test_stored_views_are_cycled_through_by_copy() -> None:
    made = loader(2, 4, stored=3)
    seen = {
        epoch: {int(v) for b in made.epoch(epoch) for v in b.view_B[b.copy_B == 1]}
        for epoch in range(6)
    }
    assert [seen[epoch] for epoch in range(6)] == [{1}, {1}, {0}, {0}, {2}, {2}]


@pytest.mark.parametrize("stored", [1, 2, 3, 4])
def test_every_copy_is_shown_in_every_stored_view(stored: int) -> None:
    """Or labels that were paid for would lie unused."""
    made = loader(2, 4, stored=stored)
    for copy in range(2):
        seen = {
            int(v)
            for e in range(4 * stored)
            for b in made.epoch(e)
            for v in b.view_B[b.copy_B == copy]
        }
        assert seen == set(range(stored))


def test_going_on_in_mid_block_gives_the_same_batches() -> None:
    whole = list(loader(3, 2, "mixup").epoch(4))
    rest = list(loader(3, 2, "mixup").epoch(4, first=2))
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.images_BCHW, b.images_BCHW)
        assert torch.equal(a.copy_B, b.copy_B)
        assert a.step == b.step


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(("--mode", "relabel"), marks=pytest.mark.slow),
        ("--mode", "random", "--random-per", "sample"),
    ],
    ids=["relabel", "random"],
)
def test_stopped_in_mid_block_and_resumed_to_the_same_bits(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, mode: tuple[str, ...]
) -> None:
    args = ("student", "--teachers", f"{made.teacher},{made.other}", *mode, *TINY)
    args = (
        *args,
        "--augment",
        "shift:1,mixup",
        "--epochs",
        3,
        "--dropout",
        0.2,
        "-b",
        128,
        "--out",
    )
    assert distill(*args, "whole").code == 0
    undo = stop_after(monkeypatch, 14)
    assert distill(*args, "run").code == 143
    undo()
    state = torch.load(here / "run/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "state"
    ]
    assert state["epoch"] == 1, "the second epoch of the first block"
    assert state["step"] > 0
    assert distill("student", "--resume", "--out", "run", "--quiet").code == 0
    assert same(here / "whole", here / "run")


@pytest.mark.parametrize(
    "mode",
    [
        ("--mode", "random", "--random-per", "sample", "--teacher-weights", "3,1"),
        ("--mode", "random"),
        ("--mode", "relabel"),
        ("--ensemble-of", "logits", "--teacher-weights", "3,1"),
    ],
    ids=["sample", "batch", "relabel", "logits"],
)
def test_live_teachers_teach_what_their_caches_do(
    made: Made, here: Path, distill: Distill, mode: tuple[str, ...]
) -> None:
    live = ("--augment", "shift:1", "--set", "view_seed=0")
    common = (*TINY, *mode, "--epochs", 2, "--seed", 1)
    teachers = f"{made.teacher},{made.other}"
    outcome = distill("student", "--teachers", teachers, "--out", "live", *common, *live)
    assert outcome.code == 0, outcome.err
    outcome = distill("student", "--teachers", made.labels, "--out", "cached", *common)
    assert outcome.code == 0, outcome.err
    one, two = weights(here / "live"), weights(here / "cached")
    for key in one:
        assert torch.allclose(one[key], two[key], rtol=0, atol=1e-5), key


@pytest.mark.slow
def test_modes_are_different_ways(made: Made, here: Path, distill: Distill) -> None:
    teachers = f"{made.teacher},{made.other}"
    modes = {
        "a": ("--mode", "ensemble"),
        "b": ("--ensemble-of", "logits"),
        "c": ("--mode", "random"),
        "d": ("--mode", "random", "--random-per", "sample"),
        "e": ("--mode", "relabel"),
    }
    for name, mode in modes.items():
        args = ("student", "--teachers", teachers, *TINY, *mode, "--epochs", 1, "--out", name)
        assert distill(*args).code == 0
    digests = {
        name: b"".join(v.numpy().tobytes() for v in weights(here / name).values()) for name in modes
    }
    assert len(set(digests.values())) == len(modes)
    # One draw a batch is what random means where nothing is said.
    args = ("student", "--teachers", teachers, *TINY, "--mode", "random", "--random-per", "batch")
    assert distill(*args, "--epochs", 1, "--out", "f").code == 0
    assert same(here / "c", here / "f")


@pytest.mark.slow
def test_teachers_of_other_sizes_and_normalisations_together(
    made: Made, here: Path, distill: Distill
) -> None:
    names = load_model(made.teacher).class_names
    for name, channels, side, mean in (
        ("cifar_resnet8", 3, 32, 0.4),
        ("test_vit", 3, 32, 0.5),
        ("mlp_16x1", 1, 8, 0.3),
    ):
        view = InputSpec(
            channels=channels,
            height=side,
            width=side,
            mean=(mean,) * channels,
            std=(0.3,) * channels,
        )
        torch.manual_seed(0)
        args = {"img_size": 32} if name == "test_vit" else None
        save_model(create_network(name, class_names=names, view=view, args=args), here / name)
    teachers = "cifar_resnet8,test_vit,mlp_16x1"
    for mode in (
        ("--mode", "ensemble"),
        ("--mode", "random", "--random-per", "sample"),
        ("--mode", "relabel"),
    ):
        outcome = distill(
            *("student", "--data", "digits", "--teachers", teachers, "--force", *mode, *TINY),
            *("--epochs", 1, "--out", mode[1]),
        )
        assert outcome.code == 0, outcome.err
        assert json.loads((here / mode[1] / "result.json").read_text())["teacher_kl"] > 0
