"""How pictures become pixels: rounding as timm's, EXIF orientation, a background behind alpha."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config

from distill_cli.data.dataset import open_dataset
from distill_cli.data.disk_cache import key_of
from distill_cli.data.picture_files import read_picture
from distill_cli.data.pillow_io import framed, has_alpha, to_pixels
from distill_cli.data.rules import DataRules
from distill_cli.data.upright import upright
from distill_cli.data.views import Views
from distill_cli.models import InputSpec, create_network, save_model
from distill_cli.recipe.earlier import FRAMING
from distill_cli.types import EARLIER_FRAMING, FRAMINGS, Framing, PlainView, ViewSpec
from tests.data.odd_pictures import half_seen, noise, odd_data, odd_pictures, tagged


def test_pixels_are_those_of_timms_transform(tmp_path: Path) -> None:
    """timm's transform, built from our config.json, gives our uint8 pixels on 360 odd sizes."""
    view = InputSpec(channels=3, height=28, width=28, mean=(0.5,) * 3, std=(0.2,) * 3)
    network = create_network("mlp_2x1", class_names=("a", "b"), view=view)
    save_model(network, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    options = resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
    transform = create_transform(**options, normalize=False)
    differing = dict.fromkeys(("floor", "round"), 0)
    sizes = np.random.default_rng(0).integers(18, 90, (360, 2)).tolist()
    for number, (height, width) in enumerate(sizes):
        picture = noise(height, width, 3, seed=number)
        theirs = transform(picture).permute(1, 2, 0).numpy()
        for resize in ("floor", "round"):
            ours = to_pixels(picture, 28, Framing(resize=resize))
            differing[resize] += not np.array_equal(ours, theirs)
    assert differing["floor"] == 0
    assert differing["round"] > 100, "the sizes are odd enough to tell"


def test_a_view_that_is_no_square_is_cropped_as_timm_crops_it() -> None:
    transform = create_transform(
        (3, 20, 32), crop_pct=1.0, interpolation="bilinear", normalize=False
    )
    for number in range(40):
        height, width = np.random.default_rng(number).integers(15, 80, 2).tolist()
        picture = noise(height, width, 3, seed=number)
        ours = to_pixels(picture, (20, 32), Framing(resize="floor"))
        assert np.array_equal(ours, transform(picture).permute(1, 2, 0).numpy()), picture.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_pictures_are_turned_as_their_tag_says(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    picture, path = noise(13, 9, 3), tmp_path / f"x.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    picture.save(path, exif=tagged(orientation), **options)
    expected = ImageOps.exif_transpose(Image.open(path))
    shown = upright(Image.open(path), "exif")
    assert np.array_equal(np.asarray(shown), np.asarray(expected))
    assert (shown.size == picture.size) == (orientation < 5)
    if suffix != "tiff":
        # Pillow turns a TIFF by itself.
        assert np.array_equal(to_pixels(Image.open(path), None), np.asarray(picture))


def test_a_damaged_tag_stops_nobody(tmp_path: Path) -> None:
    picture = noise(13, 9, 3)
    picture.save(tmp_path / "x.png", exif=b"Exif\0\0nonsense")
    pixels = to_pixels(Image.open(tmp_path / "x.png"), None, FRAMING)
    assert np.array_equal(pixels, np.asarray(picture))


@pytest.mark.parametrize("side", [12, 130], ids=["decoded once", "read from files"])
def test_a_turned_picture_is_the_upright_one_in_every_view(tmp_path: Path, side: int) -> None:
    for folder in ("upright", "turned"):
        for split, count in (("train", 6), ("test", 1)):
            for number in range(2 * count):
                path = tmp_path / folder / split / "ab"[number % 2] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = noise(20 + number, 31, 3, seed=number)
                turned = picture.transpose(Image.Transpose.ROTATE_90)
                if folder == "turned":
                    turned.save(path, exif=tagged(6))
                else:
                    picture.save(path)
    made = []
    for folder, framing in (("upright", FRAMING), ("turned", FRAMING), ("turned", EARLIER_FRAMING)):
        data = open_dataset(str(tmp_path / folder), size=side, framing=framing, val_fraction=0.2)
        augment = ("rrc", "flip") if data.from_files else ("crop:2", "flip")
        spec = ViewSpec(
            augment=augment,
            channels=3,
            height=side,
            width=side,
            seed=0,
            source="files" if data.from_files else "table",
            framing=framing,
        )
        views = Views(data.train, spec, torch.device("cpu"))
        rows = torch.arange(len(data.train.sample_ids))
        test = torch.cat(list(data.test.iter_plain()))
        made.append((views.batch(rows, rows).images_BCHW, test.float(), data.identity))
    upright_ones, turned_ones, stored = made
    for ours, expected, before in zip(turned_ones[:2], upright_ones[:2], stored[:2], strict=True):
        assert torch.equal(ours, expected)
        assert not torch.equal(before, expected)
    assert turned_ones[2] == stored[2], "the identity is that of the files"


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_images_own_size_is_that_of_upright_ones(tmp_path: Path, orientation: int) -> None:
    for split in ("train", "test"):
        for number in range(6):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(140, 150, 3, seed=number).save(path, exif=tagged(orientation))
    options = {"framing": FRAMING, "val_fraction": 0.4}
    for _ in range(2):
        # The second time as remembered.
        data = open_dataset(str(tmp_path), **options)
        assert (data.height, data.width) == ((140, 150) if orientation == 1 else (150, 140))
        stored = open_dataset(str(tmp_path), val_fraction=0.4)
        assert (stored.height, stored.width) == (140, 150)
    assert next(data.test.iter_plain()).shape[2:] == (data.height, data.width)


def test_what_is_transparent_shows_the_background(tmp_path: Path) -> None:
    for image in (noise(9, 12, 3), noise(9, 12)):
        half_seen(image).save(tmp_path / "x.png")
        pixels = np.asarray(image).astype(int)
        seen = [
            to_pixels(Image.open(tmp_path / "x.png"), None, replace(FRAMING, background=b))
            for b in ("white", "black", "none")
        ]
        white, black, dropped = (np.asarray(level).astype(int) for level in seen)
        assert white.shape == pixels.shape
        assert (white[:, :4] == 255).all()
        assert (black[:, :4] == 0).all()
        assert np.abs(white[:, 6:] - (255 + (pixels[:, 6:] - 255) * 120 / 255)).max() <= 1
        assert np.abs(black[:, 6:] - pixels[:, 6:] * 120 / 255).max() <= 1
        for level in (white, black, dropped):
            assert np.array_equal(level[:, 4:6], pixels[:, 4:6])
        assert np.array_equal(dropped, pixels)


def test_every_way_of_being_transparent(tmp_path: Path) -> None:
    """A palette's entry, one colour of all, and an alpha channel."""
    square = Image.new("RGB", (8, 8), (10, 200, 30))
    square.paste((200, 10, 30), (4, 0, 8, 8))
    palette = square.quantize(2)
    left = palette.getpixel((0, 0))
    palette.save(tmp_path / "index.png", transparency=left)
    palette.save(
        tmp_path / "table.png", transparency=bytes(0 if n == left else 255 for n in (0, 1))
    )
    palette.save(tmp_path / "index.gif", transparency=left)
    square.save(tmp_path / "colour.png", transparency=(10, 200, 30))
    square.convert("L").save(
        tmp_path / "grey.png", transparency=square.convert("L").getpixel((0, 0))
    )
    for path in sorted(tmp_path.iterdir()):
        image = Image.open(path)
        image.load()
        assert has_alpha(image), path
        pixels = to_pixels(Image.open(path), None, FRAMING)
        assert (pixels[:, :4] == 255).all(), path
        assert (pixels[:, 4:] != 255).all(), path
        before = to_pixels(Image.open(path), None, EARLIER_FRAMING)
        assert (before[:, :4] != 255).any(), path


@pytest.mark.parametrize("side", [20, 132], ids=["decoded once", "read from files"])
@pytest.mark.parametrize("framing", [FRAMING, EARLIER_FRAMING], ids=["today", "before"])
def test_a_single_file_is_read_as_the_data_are(tmp_path: Path, side: int, framing: Framing) -> None:
    data = open_dataset(str(odd_data(tmp_path)), size=side, framing=framing)
    assert data.from_files == (side > 128)
    rows = torch.cat(list(data.test.iter_plain()))
    for name, pixels in zip(data.test.sample_ids, rows, strict=True):
        picture = np.asarray(read_picture(tmp_path / "test" / name, data.plain_view))
        assert np.array_equal(picture, pixels.permute(1, 2, 0)), name


GREY = DataRules(channels=1)


def test_grey_views_of_colour_files_are_pillows(tmp_path: Path) -> None:
    data = open_dataset(str(odd_data(tmp_path)), size=20, framing=FRAMING, rules=GREY)
    assert data.channels == 1
    view = PlainView(channels=1, height=20, width=20, framing=FRAMING)
    for name, pixels in zip(data.test.sample_ids, data.test.images_NCHW, strict=True):
        assert np.array_equal(read_picture(tmp_path / "test" / name, view), pixels[0]), name
    files = open_dataset(str(tmp_path), size=132, framing=FRAMING, rules=GREY)
    assert files.test.take(torch.arange(2)).size == (1, 132, 132)
    assert next(files.test.iter_plain()).shape[1:] == (1, 132, 132)


def test_no_two_framings_share_decoded_images(tmp_path: Path) -> None:
    odd_data(tmp_path)
    framings = [
        EARLIER_FRAMING,
        *(Framing(**{key: value}) for key, known in FRAMINGS.items() for value in known[1:]),
    ]
    keys = [key_of("stamp", size=12, skip_bad=False, framing=framing) for framing in framings]
    assert len(set(keys)) == len(framings)
    fresh = [open_dataset(str(tmp_path), size=12, framing=f).train.images_NCHW for f in framings]
    known = [open_dataset(str(tmp_path), size=12, framing=f).train.images_NCHW for f in framings]
    for number, images_NCHW in enumerate(fresh):
        assert torch.equal(images_NCHW, known[number])
        for other in fresh[:number]:
            assert not torch.equal(images_NCHW, other), framings[number]


def test_constant_channels_are_known(tmp_path: Path) -> None:
    """Shapes that are drawn in alpha alone, white on nothing."""
    for split in ("train", "test"):
        for number in range(8):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            alpha = noise(16, 16, seed=number)
            picture = Image.new("RGB", (16, 16), (255, 255, 255))
            picture.putalpha(alpha)
            picture.save(path)
    white = open_dataset(str(tmp_path), framing=FRAMING)
    assert (white.channels, white.constant) == (1, (0,)), "red, green and blue are equal"
    black = open_dataset(str(tmp_path), framing=replace(FRAMING, background="black"))
    assert black.constant == ()
    red = tmp_path / "train/a/0.png"
    for path in tmp_path.rglob("*.png"):
        blue = np.zeros((16, 16, 3), np.uint8)
        blue[..., 2] = np.asarray(noise(16, 16, seed=len(path.stem)))
        blue[0, 0, 0] = 1 if path == red else 0
        Image.fromarray(blue).save(path)
    by_id = DataRules(split_by="id")
    assert open_dataset(str(tmp_path), framing=FRAMING, rules=by_id).constant == (1,)


def test_a_spec_says_what_is_new_alone() -> None:
    spec = ViewSpec(augment=("flip",), channels=3, height=8, width=8, seed=0)
    assert not spec.to_json().keys() & {*FRAMINGS, "framing"}
    new = replace(spec, framing=FRAMING)
    assert {key: new.to_json()[key] for key in new.to_json() if key in FRAMINGS} == {
        "resize": "floor",
        "orientation": "exif",
        "background": "white",
    }
    for one in (spec, new):
        assert ViewSpec.from_json(json.loads(json.dumps(one.to_json()))) == one
    with pytest.raises(ValueError, match="resize"):
        ViewSpec.from_json({**spec.to_json(), "resize": "ceil"})
    view = PlainView(channels=3, height=8, width=9, framing=FRAMING)
    assert PlainView.from_json(json.loads(json.dumps(view.to_json()))) == view


def test_odd_pictures_are_odd(tmp_path: Path) -> None:
    modes = {path.name: Image.open(path).mode for path in odd_pictures(tmp_path)}
    assert {"CMYK", "I;16", "1", "P", "LA", "RGBA", "L", "RGB"} == set(modes.values())
    colour = framed(Image.open(tmp_path / "cmyk.jpg"), 20, FRAMING)
    assert colour.mode == "RGB"
