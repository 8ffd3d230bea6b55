"""Several views of one read of a file: their order, their pixels, and how often files are decoded."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from distill_cli.data import pillow_io
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.formats import open_image
from distill_cli.data.loader import Loader
from distill_cli.data.order import epoch_order, read_order
from distill_cli.data.picture_files import read_picture
from distill_cli.data.pillow_io import SCALES, scale_for, to_pixels
from distill_cli.data.source import FileSource, Source
from distill_cli.data.split_images import ImageFiles, ImageTable
from distill_cli.data.views import Views
from distill_cli.recipe.earlier import FRAMING
from distill_cli.types import Framing, ViewSpec
from tests.data.odd_pictures import noise, tagged

CPU, SIDE, COUNT = torch.device("cpu"), 130, 10
SCALED = replace(FRAMING, decoding="scaled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 150 to 690 pixels: JPEGs, some of them turned, and a PNG."""
    root = tmp_path_factory.mktemp("reads")
    for split, count in (("train", COUNT), ("test", 2)):
        for number in range(count):
            suffix = "png" if number == 3 else "jpg"
            path = root / split / "ab"[number % 2] / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = noise(24, 32, 3, seed=number)
            size = (150 + 60 * number, 150 + 55 * number) if split == "train" else (640, 480)
            options = {"exif": tagged(6)} if number % 3 == 1 else {}
            coarse.resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return root


def data(folder: Path, framing: Framing = FRAMING) -> Dataset:
    return open_dataset(str(folder), size=SIDE, framing=framing, val_fraction=0.2)


def views(dataset: Dataset, *augment: str, workers: int = 0) -> Views:
    spec = ViewSpec(
        augment=augment,
        channels=3,
        height=SIDE,
        width=SIDE,
        seed=1,
        source="files",
        framing=dataset.framing,
    )
    return Views(dataset.train, spec, CPU, workers=workers)


@given(
    count=st.integers(1, 12),
    views_per_read=st.integers(1, 5),
    epochs=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_a_training_shows_every_row_once_in_each_view(
    count: int, views_per_read: int, epochs: int, seed: int
) -> None:
    """As without, in another order: the last block is as short as the epochs that are left."""
    rows = torch.arange(count) * 3
    made = [read_order(rows, views_per_read, seed, epoch, epochs) for epoch in range(epochs)]
    assert all(len(row) == count for row, _ in made)
    shown = [pair for row, view in made for pair in zip(row.tolist(), view.tolist(), strict=True)]
    assert Counter(shown) == Counter((row, view) for row in rows.tolist() for view in range(epochs))
    start = 0
    while start < len(shown):
        block = start // (count * views_per_read) * views_per_read
        width = min(views_per_read, epochs - block)
        read = shown[start : start + width]
        assert read == [(read[0][0], block + number) for number in range(width)]
        start += width


def test_one_view_a_read_is_the_order_as_it_was() -> None:
    rows = torch.arange(30, 50)
    for epoch in range(3):
        order, view = read_order(rows, 1, 5, epoch)
        assert torch.equal(order, epoch_order(rows, 5, epoch))
        assert view.tolist() == [epoch] * 20


def loader(
    dataset: Dataset, views_per_read: int, *, stored: int | None = None, workers: int = 0
) -> Loader:
    return Loader(
        views=views(dataset, "rrc", "flip", workers=workers),
        target_N=dataset.train.label_N,
        rows=torch.arange(COUNT),
        batch_size=4,
        seed=2,
        stored_views=stored,
        views_per_read=views_per_read,
        epochs=6,
    )


def by_row_and_view(made: Loader) -> dict[tuple[int, int], Tensor]:
    shown: dict[tuple[int, int], Tensor] = {}
    for epoch in range(6):
        for batch in made.epoch(epoch):
            keys = zip(batch.index_B.tolist(), batch.view_B.tolist(), strict=True)
            shown |= zip(keys, batch.images_BCHW, strict=True)
    return shown


@pytest.mark.parametrize("framing", [FRAMING, SCALED], ids=["full", "scaled"])
def test_the_views_are_those_of_reads_one_by_one(folder: Path, framing: Framing) -> None:
    dataset = data(folder, framing)
    alone = by_row_and_view(loader(dataset, 1))
    for workers in (0, 1):
        together = by_row_and_view(loader(dataset, 4, workers=workers))
        assert len(together.keys() & alone.keys()) > 30
        for key in together.keys() & alone.keys():
            assert torch.equal(together[key], alone[key]), key


def test_going_on_in_mid_epoch_gives_the_same_batches(folder: Path) -> None:
    dataset = data(folder)
    whole, rest = list(loader(dataset, 3).epoch(4)), list(loader(dataset, 3).epoch(4, first=1))
    assert len(whole) == len(rest) + 1 == 2
    for before, after in zip(whole[1:], rest, strict=True):
        assert torch.equal(before.images_BCHW, after.images_BCHW)
        assert before.step == after.step
        assert torch.equal(before.view_B, after.view_B)


def test_views_of_a_cache_are_cycled_through(folder: Path) -> None:
    dataset = data(folder)
    shown = Counter(
        pair
        for epoch in range(6)
        for pair in zip(
            *(column.tolist() for column in loader(dataset, 2, stored=3).shown(epoch)[::2]),
            strict=True,
        )
    )
    assert shown == Counter({(row, view): 2 for row in range(COUNT) for view in range(3)})


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many files are read, and how many images decoded."""
    counted: Counter[str] = Counter()
    read, decode = FileSource.image, pillow_io.to_eight_bits

    def reading(self: FileSource, index: int) -> Image.Image:
        counted["read"] += 1
        return read(self, index)

    def decoding(image: Image.Image, *args: Any) -> Image.Image:
        counted["decoded"] += 1
        return decode(image, *args)

    monkeypatch.setattr(FileSource, "image", reading)
    monkeypatch.setattr(pillow_io, "to_eight_bits", decoding)
    return counted


@pytest.mark.parametrize("augment", [("rrc", "flip"), ("flip",)])
def test_a_file_is_read_and_decoded_once_for_its_views(
    folder: Path, work: Counter[str], augment: tuple[str, ...]
) -> None:
    maker = views(data(folder), *augment)
    work.clear()
    maker.batch(torch.tensor([5, 5, 5, 5, 2, 2, 2, 2]), torch.arange(4).repeat(2))
    assert work == {"read": 2, "decoded": 2}
    work.clear()
    for view in range(4):
        maker.batch(torch.tensor([5, 2]), torch.full((2,), view))
    assert work == {"read": 8, "decoded": 8}


def test_a_file_is_decoded_once_for_each_scale(folder: Path, work: Counter[str]) -> None:
    """The largest picture, whose crops allow several."""
    maker = views(data(folder, SCALED), "rrc")
    work.clear()
    index_B = torch.full((16,), maker.images.sample_ids.index("b/9.jpg"))
    maker.batch(index_B, torch.arange(16))
    assert 1 < work["decoded"] <= len(SCALES)


def saved(image: Image.Image, suffix: str, **options: object) -> Image.Image:
    """The image, opened again from a file of this format."""
    content = io.BytesIO()
    image.save(content, suffix, **options)
    return open_image(content.getvalue())


@given(
    part=st.tuples(st.integers(8, 2000), st.integers(8, 2000)),
    view=st.tuples(st.integers(4, 300), st.integers(4, 300)),
)
def test_the_scale_is_the_largest_that_enlarges_nothing(
    part: tuple[int, int], view: tuple[int, int]
) -> None:
    scale = scale_for(saved(noise(9, 9, 3), "JPEG"), part, view)
    room = min(part[0] / view[0], part[1] / view[1])
    assert scale == 1 or room >= scale
    assert all(room < other for other in SCALES if other > scale)
    assert scale_for(saved(noise(9, 9, 3), "PNG"), part, view) == 1


@pytest.mark.parametrize("suffix", ["JPEG", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_pixels_are_nearly_the_full_ones(suffix: str, orientation: int) -> None:
    """Of a smooth picture, whole and in part, whichever way up it lies; others are as they are."""
    picture = noise(401, 523, 3)
    framings = FRAMING, SCALED
    full, scaled = (
        to_pixels(saved(picture, suffix, quality=95, exif=tagged(orientation)), 64, framing)
        for framing in framings
    )
    difference = np.abs(full.astype(int) - scaled)
    assert 0 < difference.max() <= 12
    assert difference.mean() < 0.8
    wide, high = (523, 401) if orientation < 5 else (401, 523)
    files = [
        ImageFiles(
            source=cast("Source", None),
            row_N=torch.zeros(1, dtype=torch.int64),
            size=(3, 64, 64),
            workers=0,
            label_N=torch.zeros(1, dtype=torch.int64),
            key_N=torch.zeros(1, dtype=torch.int64),
            sample_ids=("x",),
            framing=framing,
        )
        for framing in framings
    ]
    for box in ([0, 0, wide, high], [wide - 300, high - 280, 300, 280]):
        parts = [
            np.asarray(
                one.cut(0, saved(picture, suffix, quality=95, exif=tagged(orientation)), [box])[0]
            )
            for one in files
        ]
        difference = np.abs(parts[0].astype(int) - parts[1])
        assert 0 < difference.max() <= 12
        assert difference.mean() < 0.8
    for other in ("PNG", "WEBP"):
        opened = [to_pixels(saved(picture, other), 64, framing) for framing in framings]
        assert np.array_equal(*opened)


def test_plain_images_are_scaled_alike_wherever_they_are_read(folder: Path) -> None:
    """In evaluation, of a single file, and where small views are decoded once."""
    dataset, full = data(folder, SCALED), data(folder)
    assert dataset.identity == full.identity
    test, before = (torch.cat(list(one.test.iter_plain())) for one in (dataset, full))
    assert not torch.equal(test, before)
    for name, pixels in zip(dataset.test.sample_ids, test, strict=True):
        picture = read_picture(folder / "test" / name, dataset.plain_view)
        assert np.array_equal(np.asarray(picture), pixels.permute(1, 2, 0)), name
    small, small_full = (
        open_dataset(str(folder), size=32, framing=framing, val_fraction=0.2).train
        for framing in (SCALED, FRAMING)
    )
    assert isinstance(small, ImageTable)
    assert isinstance(small_full, ImageTable)
    alike = [
        bool(torch.equal(*pair))
        for pair in zip(small.images_NCHW, small_full.images_NCHW, strict=True)
    ]
    assert [name for name, same in zip(small.sample_ids, alike, strict=True) if same] == ["b/3.png"]


def test_the_view_spec_says_it_where_it_is_scaled(folder: Path) -> None:
    spec = views(data(folder), "rrc").spec
    assert "decoding" not in spec.to_json(), "old caches and new ones alike"
    scaled = replace(spec, framing=SCALED)
    assert scaled.to_json() == {**spec.to_json(), "decoding": "scaled"}
    assert ViewSpec.from_json(scaled.to_json()) == scaled
    with pytest.raises(ValueError, match="'decoding' should be one of full, scaled"):
        ViewSpec.from_json({**spec.to_json(), "decoding": "half"})
