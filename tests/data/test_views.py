"""A view is a function of (sample, view): whoever asks, in whatever batch."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.counters import sample_key
from distill_cli.data.augment import resolve
from distill_cli.data.device_views import DeviceViews
from distill_cli.data.geometry import Cutout, Flip, Shift
from distill_cli.data.split_images import ImageTable
from distill_cli.data.views import Views
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
    names = resolve(augment or ["none"], channels=C, height=H, width=W)
    spec = ViewSpec(augment=names, channels=C, height=H, width=W, seed=seed)
    return Views(table(), spec, CPU, rows=torch.arange(N - 1))


ALL = (
    "crop:2",
    "flip",
    "rotate:40",
    "affine:20:shear=15",
    "rrc",
    "jitter:0.5:hue=0.3",
    "cutout:3",
)
# They draw nothing.
STILL = ("downscale:3", "grey")


def pixels(maker: Views, rows: list[int], view_list: list[int]) -> torch.Tensor:
    return maker.batch(torch.tensor(rows), torch.tensor(view_list)).images_BCHW


@given(
    augment=st.lists(st.sampled_from((*ALL, *STILL)), unique=True, max_size=4),
    mixed=st.sampled_from([(), ("mixup:0.4",), ("cutmix",), ("mixup", "cutmix")]),
    rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=20),
    data=st.data(),
    seed=st.integers(0, 3),
)
def test_a_view_does_not_depend_on_its_batch(
    augment: list[str], mixed: tuple[str], rows: list[int], data: st.DataObject, seed: int
) -> None:
    view_list = data.draw(st.lists(st.integers(0, 50), min_size=len(rows), max_size=len(rows)))
    names = (*augment, *mixed)
    together = pixels(views(*names, seed=seed), rows, view_list)
    for position, (row, view) in enumerate(zip(rows, view_list, strict=True)):
        alone = pixels(views(*names, seed=seed), [row], [view])
        assert torch.equal(together[position], alone[0])


def test_a_neighbour_in_another_view_is_no_partner() -> None:
    """Rows 6 and 9 are partners in views 0 and 4: next to each other each was mixed with the other's."""
    maker = views("crop:2", "mixup:0.4")
    assert maker.mixer is not None
    rows, view_list = [6, 9], [0, 4]
    assert maker.mixer.partners(torch.tensor(rows), torch.tensor(view_list)).tolist() == [9, 6]
    together = pixels(maker, rows, view_list)
    for position in (0, 1):
        alone = pixels(maker, rows[position : position + 1], view_list[position : position + 1])
        assert torch.equal(together[position], alone[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_view_does_not_depend_on_threads(threads: int) -> None:
    """Larger images, which kernels split over threads."""
    spec = ViewSpec(augment=ALL, channels=3, height=120, width=100, seed=0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, 120, 100), dtype=torch.uint8, generator=generator)
    maker = Views(replace(table(), images_NCHW=images), spec, CPU)
    rows, before = list(range(N)), torch.get_num_threads()
    torch.set_num_threads(1)
    expected = torch.stack([pixels(maker, [row], [5])[0] for row in rows])
    try:
        torch.set_num_threads(threads)
        assert torch.equal(pixels(maker, rows, [5] * N), expected)
        assert torch.equal(pixels(maker, rows[:1], [5]), expected[:1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "names",
    [
        ("v2/RandAugment",),
        ("trivialaugment", "crop:2"),
        ("flip", "autoaugment", "cutout:3"),
        ("timm/rand-m9-mstd0.5-inc1", "jitter"),
        ("timm/augmix-m5-w4-d2",),
        ("v2/RandomPerspective:p=1.0:distortion_scale=0.3", "mixup"),
    ],
)
def test_library_transforms_are_functions_of_sample_and_view(names: tuple[str, ...]) -> None:
    requests = [(torch.arange(N), torch.full((N,), view)) for view in range(3)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    alone = [views(*names).batch(*request).images_BCHW for request in requests]
    assert random.getstate() == states[0], "Python's generator was touched"
    assert np.random.get_state()[1].tolist() == states[1], "NumPy's generator was touched"
    assert torch.equal(torch.get_rng_state(), states[2]), "torch's generator was touched"
    assert not torch.equal(alone[0], alone[1])
    torch.manual_seed(99)
    for workers in (0, 1, 2):
        made = list(views(*names).stream(requests, workers=workers))
        assert all(torch.equal(a, b.images_BCHW) for a, b in zip(alone, made, strict=True))
    shuffled = torch.randperm(N)
    again = views(*names).batch(shuffled, torch.zeros(N, dtype=torch.int64)).images_BCHW
    assert torch.equal(again, alone[0][shuffled])


@pytest.mark.parametrize("names", [ALL, (*ALL, "mixup"), ("flip", "cutmix")])
def test_a_stream_equals_its_batches(names: tuple[str, ...]) -> None:
    """Draws of many requests are hashed together; uneven ones, too."""
    requests = [
        (torch.arange(start, min(start + 5, N)), torch.full((min(5, N - start),), view))
        for view in range(30)
        for start in range(0, N, 5)
    ]
    for request, made in zip(requests, views(*names).stream(requests), strict=True):
        assert torch.equal(made.images_BCHW, views(*names).batch(*request).images_BCHW)


@pytest.mark.parametrize("names", [("downscale:3",), ("grey",), ("crop:2", *STILL, "flip")])
def test_what_draws_nothing_is_the_same_everywhere(names: tuple[str, ...]) -> None:
    """In tables on a device too, before and after what does draw."""
    maker = views(*names)
    rows, view = torch.arange(N), torch.arange(N) % 4
    shown = maker.batch(rows, view).images_BCHW
    device = DeviceViews(maker)
    assert torch.equal(device.plain(rows, view), shown)
    assert torch.equal(device.plain(rows, view, uniform_BD=device.draws(rows, view)), shown)
    assert not torch.equal(shown, views("none").batch(rows, view).images_BCHW)
    still = len(names) == 1
    assert still == torch.equal(shown, maker.batch(rows, view + 1).images_BCHW)


def test_views_and_seeds_differ() -> None:
    for name in ALL:
        first = pixels(views(name), list(range(N)), [0] * N)
        assert first.amin() >= 0
        assert first.amax() <= 1
        assert not torch.equal(first, pixels(views(name), list(range(N)), [1] * N)), name
        assert not torch.equal(first, pixels(views(name, seed=1), list(range(N)), [0] * N)), name


def test_no_augmentation_is_the_image() -> None:
    images = pixels(views(), list(range(N)), [0] * N)
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


def test_views_of_one_split_share_its_images_on_a_device() -> None:
    """As runs of several seeds do: on a device that is not the images' own."""
    meta, split = torch.device("meta"), table()
    spec = ViewSpec(channels=3, height=8, width=8, augment=(), seed=0)
    one, other = (Views(split, spec, meta) for _ in range(2))
    assert one.images_NCHW is other.images_NCHW
    apart = Views(replace(split, images_NCHW=split.images_NCHW.clone()), spec, meta)
    assert apart.images_NCHW is not one.images_NCHW
