"""A view is a function of (sample, view): whoever asks, in whatever batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.counters import sample_key
from distill_cli.data.augment import Cutout, Flip, Shift, parse, resolve
from distill_cli.data.decode import ImageTable
from distill_cli.data.views import Views
from distill_cli.errors import UsageError
from distill_cli.types import ViewSpec

CPU = torch.device("cpu")
N, C, H, W = 12, 3, 10, 8


def table() -> ImageTable:
    ids = tuple(f"class/{index:02}.png" for index in range(N))
    generator = torch.Generator().manual_seed(0)
    return ImageTable(
        images_NCHW=torch.randint(0, 256, (N, C, H, W), dtype=torch.uint8, generator=generator),
        label_N=torch.arange(N) % 3,
        key_N=torch.tensor([sample_key(name) for name in ids]),
        sample_ids=ids,
    )


def views(*augment: str, seed: int = 0) -> Views:
    spec = ViewSpec(augment=augment, channels=C, height=H, width=W, seed=seed)
    return Views(table(), spec, CPU)


FULL = ("crop:2", "flip", "cutout:3")


@given(
    rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=20),
    data=st.data(),
    seed=st.integers(0, 3),
)
def test_a_view_does_not_depend_on_its_batch(
    rows: list[int], data: st.DataObject, seed: int
) -> None:
    view_list = data.draw(st.lists(st.integers(0, 50), min_size=len(rows), max_size=len(rows)))
    maker = views(*FULL, seed=seed)
    together = maker.batch(torch.tensor(rows), torch.tensor(view_list))
    for position, (row, view) in enumerate(zip(rows, view_list, strict=True)):
        alone = views(*FULL, seed=seed).batch(torch.tensor([row]), torch.tensor([view]))
        assert torch.equal(together[position], alone[0])


def test_views_and_seeds_differ() -> None:
    rows = torch.arange(N)
    first = views(*FULL).batch(rows, torch.zeros(N, dtype=torch.int64))
    assert not torch.equal(first, views(*FULL).batch(rows, torch.ones(N, dtype=torch.int64)))
    assert not torch.equal(
        first, views(*FULL, seed=1).batch(rows, torch.zeros(N, dtype=torch.int64))
    )


def test_no_augmentation_is_the_image() -> None:
    images = views().batch(torch.arange(N), torch.zeros(N, dtype=torch.int64))
    assert images.dtype == torch.float32
    assert torch.equal(images, table().images_NCHW.float() / 255)


def by_hand(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Zero-pads and crops in numpy."""
    pad = max(abs(dy), abs(dx))
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    return padded[:, pad + dy : pad + dy + H, pad + dx : pad + dx + W]


def test_shift_moves_by_every_offset() -> None:
    images = table().images_NCHW
    spread = torch.linspace(0, 0.999, N, dtype=torch.float64)
    uniform_BD = torch.stack([spread, spread.flip(0)], 1)
    shifted = Shift(2)(images, uniform_BD)
    offsets = (uniform_BD * 5).long() - 2
    assert set(offsets[:, 0].tolist()) == {-2, -1, 0, 1, 2}
    for image, moved, (dy, dx) in zip(images, shifted, offsets.tolist(), strict=True):
        assert np.array_equal(moved.numpy(), by_hand(image.numpy(), dy, dx))


def test_flip_mirrors_half() -> None:
    images = table().images_NCHW
    uniform_BD = torch.tensor([[0.1], [0.9]] * (N // 2), dtype=torch.float64)
    flipped = Flip()(images, uniform_BD)
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1], images[1])


def test_cutout_blanks_a_square() -> None:
    images = torch.full((1, 1, 9, 9), 7, dtype=torch.uint8)
    middle = Cutout(3)(images, torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    assert int((middle == 0).sum()) == 9
    assert int(middle[0, 0, 3:6, 3:6].sum()) == 0
    corner = Cutout(3)(images, torch.tensor([[0.0, 0.0]], dtype=torch.float64))
    assert int((corner == 0).sum()) == 4


@pytest.mark.parametrize(
    ("names", "channels", "side", "expected"),
    [
        (None, 1, 28, ("shift:2",)),
        (None, 1, 8, ("shift:1",)),
        (None, 3, 32, ("crop:4", "flip")),
        (["none"], 3, 32, ()),
        (["light"], 3, 32, ("crop:4", "flip")),
        (["crop:2", "cutout:8"], 3, 32, ("crop:2", "cutout:8")),
    ],
)
def test_presets(names: list[str] | None, channels: int, side: int, expected: tuple[str]) -> None:
    assert resolve(names, channels, side, side) == expected


@pytest.mark.parametrize(
    "name", ["crop", "crop:0", "crop:32", "crop:x", "flip:2", "flop", "shift:-1"]
)
def test_wrong_augmentations(name: str) -> None:
    with pytest.raises(UsageError, match="augment"):
        parse(name, 32)
    with pytest.raises(UsageError):
        resolve(["none", "flip"], 3, 32, 32)
