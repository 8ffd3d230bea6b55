"""Pixels as they stand in the files; what cannot be read is named, never replaced."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.counters import sample_key
from distill_cli.data import decode as module
from distill_cli.data.decode import Decoded, decode
from distill_cli.data.picture_files import picture_files, read_for_network, read_picture
from distill_cli.data.pillow_io import centre_crop, to_pixels
from distill_cli.errors import ArtifactError, InternalError, UsageError
from distill_cli.recipe.earlier import FRAMING
from distill_cli.types import PlainView


def noise(*shape: int, seed: int = 0, top: int = 256) -> np.ndarray:
    dtype = np.uint8 if top == 256 else np.uint16
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GREY, COLOUR = Image.fromarray(noise(9, 7)), Image.fromarray(noise(9, 7, 3))


@dataclass
class Made:
    """Encoded images as a source, two classes."""

    contents: Sequence[bytes]
    labels: Sequence[int] = ()
    class_names: tuple[str, ...] = ("cat", "dog")
    fetched: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.contents)

    def sample_id(self, index: int) -> str:
        return f"cat/{index:04}.png"

    def where(self, index: int) -> str:
        return f"made.zip!cat/{index:04}.png"

    def label(self, index: int) -> int:
        return self.labels[index] if self.labels else index % 2

    def fetch(self, index: int) -> tuple[Image.Image, bytes]:
        self.fetched.append(index)
        return Image.open(io.BytesIO(self.contents[index])), bytes([index % 256])


def decoded(
    *contents: bytes, test: bytes | None = None, size: int | None = None, skip_bad: bool = False
) -> Decoded:
    splits = {"train": Made(contents), "test": Made([test or contents[0]])}
    return decode(splits, size=size, skip_bad=skip_bad)


def test_a_table() -> None:
    result = decoded(encoded(COLOUR), encoded(COLOUR))
    table = result.tables["train"]
    assert table.images_NCHW.dtype == torch.uint8
    assert table.images_NCHW.is_contiguous()
    assert np.array_equal(table.images_NCHW[1].permute(1, 2, 0).numpy(), np.asarray(COLOUR))
    assert table.sample_ids == ("cat/0000.png", "cat/0001.png")
    assert table.label_N.tolist() == [0, 1]
    assert table.key_N.tolist() == [sample_key(name) for name in table.sample_ids]
    assert (result.digests, result.skipped) == ((b"\0", b"\1"), 0)


def test_grey_stays_one_channel_unless_any_split_has_colour() -> None:
    assert decoded(encoded(GREY)).tables["train"].images_NCHW.shape == (1, 1, 9, 7)
    mixed = decoded(encoded(GREY), test=encoded(COLOUR))
    images_NCHW = mixed.tables["train"].images_NCHW
    assert images_NCHW.shape == (1, 3, 9, 7)
    assert all(np.array_equal(images_NCHW[0, c].numpy(), np.asarray(GREY)) for c in range(3))


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (GREY, "PNG", GREY),
        (GREY, "PPM", GREY),
        (GREY, "TIFF", GREY),
        (GREY.point(lambda value: 255 * (value > 99), "1"), "PNG", None),
        (Image.merge("LA", [GREY, GREY.rotate(180)]), "PNG", GREY),
        (COLOUR, "BMP", COLOUR),
        (Image.merge("RGBA", [*COLOUR.split(), GREY]), "PNG", COLOUR),
        (COLOUR.convert("P"), "GIF", COLOUR.convert("P").convert("RGB")),
        (Image.merge("CMYK", [GREY] * 4), "TIFF", Image.merge("CMYK", [GREY] * 4).convert("RGB")),
    ],
)
def test_modes(image: Image.Image, kind: str, expected: Image.Image | None) -> None:
    pixels = to_pixels(Image.open(io.BytesIO(encoded(image, kind))), None)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(expected or image.convert("L")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight(kind: str) -> None:
    deep = noise(9, 7, top=65536)
    deep[0, :3] = (0, 257, 65535)
    pixels = to_pixels(Image.open(io.BytesIO(encoded(Image.fromarray(deep), kind))), None)
    assert pixels[0, :3].tolist() == [0, 1, 255]
    assert np.abs(pixels - deep / 257).max() <= 0.5


def test_jpeg_is_as_pillow_decodes_it() -> None:
    content = encoded(COLOUR, "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(to_pixels(Image.open(io.BytesIO(content)), None), expected)


def test_size() -> None:
    wide = encoded(Image.fromarray(noise(20, 40, 3)))
    assert decoded(wide, size=8).tables["train"].images_NCHW.shape == (1, 3, 8, 8)
    step = Image.fromarray(np.repeat(np.uint8([0, 100, 200, 255]), 10)[None].repeat(20, 0))
    middle = np.asarray(centre_crop(step, 20, 20))
    assert (middle[:, :10].mean(), middle[:, 10:].mean()) == (100, 200)
    assert centre_crop(step, 7, 5).size == (5, 7)


def test_sizes_that_differ_need_a_size() -> None:
    small, large = encoded(GREY), encoded(Image.fromarray(noise(30, 30)))
    with pytest.raises(module.SizesDifferError):
        decoded(small, small, test=large)
    result = decoded(small, small, test=large, size=6)
    assert {table.images_NCHW.shape[1:] for table in result.tables.values()} == {(1, 6, 6)}


JPEG = encoded(Image.fromarray(noise(40, 40, 3)), "JPEG")
BAD = {
    "truncated JPEG": JPEG[: len(JPEG) // 2],
    "truncated PNG": encoded(COLOUR)[:-30],
    "empty": b"",
    "text": b"this is no image",
    "flipped PNG": encoded(COLOUR)[:60] + b"\0\0\0\0" + encoded(COLOUR)[64:],
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_bad_image_is_named(content: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"made\.zip!cat/0001\.png.*--skip-bad"):
        decoded(encoded(COLOUR), content)


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("side", [20, 90])
def test_a_bad_image_is_left_out_and_counted(content: bytes, side: int) -> None:
    good = [encoded(Image.fromarray(noise(side, side, 3, seed=seed))) for seed in range(2)]
    result = decoded(good[0], content, good[1], skip_bad=True)
    table = result.tables["train"]
    assert result.skipped == 1
    assert table.sample_ids == ("cat/0000.png", "cat/0002.png")
    assert result.digests == (b"\0", b"\2")
    assert torch.equal(table.images_NCHW, decoded(*good).tables["train"].images_NCHW)


def test_a_split_of_bad_images_only() -> None:
    with pytest.raises(ArtifactError, match="split"):
        decoded(encoded(COLOUR), test=b"x", skip_bad=True)


@pytest.mark.parametrize("label", [2, 99, -2])
def test_a_label_out_of_range_is_named(label: int) -> None:
    source = Made([encoded(GREY)] * 3, labels=[0, label, 1])
    with pytest.raises(ArtifactError, match=rf"cat/0001\.png.*{label}"):
        decode({"train": source}, size=None, skip_bad=True)


def test_unlabelled_is_minus_one() -> None:
    source = Made([encoded(GREY)] * 2, labels=[-1, 1])
    result = decode({"train": source}, size=None, skip_bad=False)
    assert result.tables["train"].label_N.tolist() == [-1, 1]


@pytest.mark.parametrize("side", [8, 80])
def test_rows_keep_their_order(side: int) -> None:
    contents = [encoded(Image.fromarray(noise(side, side, seed=seed))) for seed in range(150)]
    images_NCHW = decoded(*contents).tables["train"].images_NCHW
    for seed in range(150):
        assert np.array_equal(images_NCHW[seed, 0].numpy(), noise(side, side, seed=seed))


def test_what_does_not_fit_into_memory_is_refused() -> None:
    class Endless(Made):
        def __len__(self) -> int:
            return 10**12

    with pytest.raises(InternalError, match="memory"):
        decode({"train": Endless([encoded(GREY)])}, size=224, skip_bad=False)


def test_picture_files(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    first, second = tmp_path / "folder" / "deep" / "1.png", tmp_path / "2.jpg"
    COLOUR.save(first)
    GREY.save(second)
    (tmp_path / "folder" / "notes.txt").write_text("x")
    assert picture_files([tmp_path / "folder", second]) == [first, second]
    for channels, mode in ((1, "L"), (3, "RGB")):
        view = PlainView(channels=channels, height=6, width=4)
        for path in (first, second):
            assert (read_picture(path, view).mode, read_picture(path, view).size) == (mode, (4, 6))
            assert read_for_network(path, channels, 6, 4).mode == mode


def test_an_image_is_predicted_on_as_it_was_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    Image.fromarray(noise(30, 20, 3)).save(path)
    pixels = np.asarray(read_picture(path, PlainView(channels=3, height=8, width=8)))
    table = decoded(path.read_bytes(), size=8).tables["train"]
    assert np.array_equal(pixels, table.images_NCHW[0].permute(1, 2, 0))


def test_bad_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty"):
        picture_files([tmp_path / "empty"])


def test_a_folder_is_searched_as_data_are(tmp_path: Path) -> None:
    GREY.save(tmp_path / "1.png")
    (tmp_path / "._1.png").write_bytes(b"a resource fork")
    (tmp_path / "folder.png").mkdir()
    assert picture_files([tmp_path]) == [tmp_path / "1.png"]


def test_no_paths() -> None:
    with pytest.raises(UsageError, match="None is given"):
        picture_files([])


def test_transparent_palettes_do_not_warn() -> None:
    content = encoded(COLOUR.convert("P"), transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_pixels(Image.open(io.BytesIO(content)), None).shape == (9, 7, 3)


def test_the_split_of_bad_images_is_named() -> None:
    with pytest.raises(ArtifactError, match="test split"):
        decoded(encoded(COLOUR), test=b"x", skip_bad=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
def test_damage_raises_what_is_expected_of_damage(kind: str) -> None:
    content, random = encoded(COLOUR, kind), Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[random.randrange(min(200, len(damaged)))] = random.randrange(256)
        with contextlib.suppress(*module.BAD_IMAGE), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            to_pixels(Image.open(io.BytesIO(bytes(damaged))), 6, FRAMING)


def test_systems_that_do_not_tell_our_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    large = encoded(Image.fromarray(noise(80, 80)))
    assert decoded(large).tables["train"].images_NCHW.shape == (1, 1, 80, 80)


def test_an_error_does_not_wait_for_the_rest() -> None:
    large = encoded(Image.fromarray(noise(80, 80)))
    source = Made([b"x", *[large] * 4999])
    with pytest.raises(ArtifactError, match="0000"):
        decode({"train": source}, size=None, skip_bad=False)
    assert len(source.fetched) < 2500
