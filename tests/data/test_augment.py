"""Names of augmentations, and each augmentation against an independent account of it."""

from __future__ import annotations

import colorsys
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from distill_cli.counters import sample_key
from distill_cli.data.augment import check_names, parse, resolve
from distill_cli.data.colour import TO_YIQ, Grey, Jitter
from distill_cli.data.geometry import Affine, Downscale, ResizedCrop
from distill_cli.data.mixing import Cutmix, Mixer, Mixup
from distill_cli.errors import UsageError
from distill_cli.models.network import LUMINANCE


def images(batch: int = 6, channels: int = 3, height: int = 12, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def uniform(batch: int, draws: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, draws, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(
    ("names", "channels", "side", "files", "expected"),
    [
        (None, 1, 28, False, ("shift:2",)),
        (None, 1, 8, False, ("shift:1",)),
        (None, 3, 32, False, ("crop:4", "flip")),
        (None, 3, 224, True, ("rrc:scale=0.08:ratio=0.75", "flip")),
        (["none"], 3, 32, False, ()),
        (["light"], 3, 32, False, ("crop:4", "flip")),
        (["crop:2", "cutout:8"], 3, 32, False, ("crop:2", "cutout:8")),
        (["crop", "flip"], 3, 32, False, ("crop:4", "flip")),
        (["rotate"], 3, 32, False, ("rotate:degrees=15:translate=0:scale=0:shear=0",)),
        (["rotate:30"], 3, 32, False, ("rotate:degrees=30:translate=0:scale=0:shear=0",)),
        (
            ["jitter:0.2"],
            3,
            32,
            False,
            ("jitter:brightness=0.2:contrast=0.2:saturation=0.2:hue=0",),
        ),
        (["rrc:0.5:ratio=1"], 3, 32, False, ("rrc:scale=0.5:ratio=1",)),
        (["downscale", "grey"], 3, 28, False, ("downscale:7", "grey")),
        (["rrc:0.5", "downscale:64"], 3, 224, True, ("rrc:scale=0.5:ratio=0.75", "downscale:64")),
        (["mixup"], 3, 32, False, ("mixup:0.2",)),
        (["flip", "cutmix:0.5"], 3, 32, False, ("flip", "cutmix:0.5")),
        (["randaugment"], 3, 32, False, ("v2/RandAugment",)),
        (["strong"], 3, 224, True, ("rrc:scale=0.08:ratio=0.75", "flip", "v2/TrivialAugmentWide")),
    ],
)
def test_spellings(
    names: list[str] | None, channels: int, side: int, files: bool, expected: tuple[str, ...]
) -> None:
    full = resolve(names, channels=channels, height=side, width=side, files=files)
    assert full == expected
    again = resolve(list(full) or ["none"], channels=channels, height=side, width=side)
    assert again == full, "a full spelling stands for itself"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("files", [False, True])
def test_strong_is_more_than_light(channels: int, files: bool) -> None:
    sizes = {"channels": channels, "height": 64, "width": 64, "files": files}
    light, strong = resolve(["light"], **sizes), resolve(["strong"], **sizes)
    assert light == strong[: len(light)]
    assert len(strong) > len(light)


@pytest.mark.parametrize(
    "name",
    [
        *("crop:0", "crop:32", "crop:x", "crop:1.5", "flip:2", "flop", "shift:-1", "crop:2:3"),
        *("rotate:-3", "rotate:200", "affine:wide=3", "rrc:0", "rrc:1.5", "jitter:2", "jitter:x"),
        *("mixup:0", "cutmix:-1", "v2/Nonsense", "v2/RandAugment:no_such=1", "v2/RandAugment:9"),
        *("timm/nonsense", "jitter:hue=0.9", "affine:shear=95"),
        *("downscale:0", "downscale:32", "downscale:2.5", "grey:1"),
    ],
)
def test_wrong_augmentations(name: str) -> None:
    with pytest.raises(UsageError, match="augment"):
        parse(name, 32)


@pytest.mark.parametrize("names", [["none", "flip"], ["mixup", "flip"], ["mixup", "mixup:1"]])
def test_wrong_lists(names: list[str]) -> None:
    with pytest.raises(UsageError, match="augment"):
        resolve(names, channels=3, height=32, width=32)


def test_names_are_checked_without_a_size() -> None:
    check_names(["crop:4", "strong", "mixup", "trivialaugment"])
    with pytest.raises(UsageError, match="flip"):
        check_names(["flipp"])


def test_affine_at_rest_is_the_image() -> None:
    middle = torch.full((6, 5), 0.5, dtype=torch.float64)
    assert torch.equal(Affine()(images(), middle), images())
    wide = images(height=9, width=14)
    assert torch.equal(Affine()(wide, middle), wide)


def test_affine_turns_by_a_right_angle() -> None:
    full = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]] * 6, dtype=torch.float64)
    turned = Affine(degrees=90, translate=0, scale=0)(images(), full)
    assert torch.equal(turned, images().rot90(1, (2, 3))) or torch.equal(
        turned, images().rot90(-1, (2, 3))
    )


def test_affine_moves_by_whole_pixels() -> None:
    right = torch.tensor([[0.5, 0.5, 0.5, 1.0, 0.5]] * 6, dtype=torch.float64)
    moved = Affine(degrees=0, translate=0.25, scale=0)(images(), right)
    assert torch.equal(moved[..., :-3], images()[..., 3:])
    assert int(moved[..., -3:].sum()) == 0


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 60))
def test_boxes_are_inside_and_of_the_area_asked_for(seed: int, height: int, width: int) -> None:
    crop = ResizedCrop()
    size = torch.ones(16, dtype=torch.int64)
    boxes = crop.boxes(uniform(16, crop.draws, seed), size * height, size * width)
    for left, top, wide, high in boxes.tolist():
        assert 0 <= left <= left + wide <= width
        assert 0 <= top <= top + high <= height
        assert wide >= 1
        assert high >= 1


def test_boxes_have_torchvisions_distribution() -> None:
    """Area and shape of 20,000 boxes against torchvision's own, by Kolmogorov and Smirnov."""
    from torchvision.transforms import RandomResizedCrop

    crop, count = ResizedCrop(), 20_000
    size = torch.ones(count, dtype=torch.int64)
    ours = crop.boxes(uniform(count, crop.draws), size * 300, size * 400).double().numpy()
    torch.manual_seed(0)
    blank = torch.zeros(1, 300, 400)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, [0.08, 1.0], [0.75, 4 / 3]) for _ in range(count)],
        dtype=np.float64,
    )
    left, top, wide, high = ours.T
    their_top, their_left, their_high, their_wide = theirs.T
    for a, b in (
        (wide * high, their_wide * their_high),
        (wide / high, their_wide / their_high),
        (left, their_left),
        (top, their_top),
    ):
        assert stats.ks_2samp(a, b).pvalue > 1e-4


def test_the_whole_box_is_the_image() -> None:
    crop = ResizedCrop(scale=1.0, ratio=1.0)
    assert torch.equal(crop(images(), uniform(6, crop.draws)), images())


def test_a_crop_is_the_box_resized_by_torch() -> None:
    crop = ResizedCrop()
    draws = uniform(6, crop.draws)
    size = torch.full((6,), 12)
    made = crop(images(), draws)
    for image, said, (left, top, wide, high) in zip(
        images(), made, crop.boxes(draws, size, size).tolist(), strict=True
    ):
        cut = image[None, :, top : top + high, left : left + wide].double()
        expected = torch.nn.functional.interpolate(
            cut, (12, 12), mode="bilinear", align_corners=False
        )[0]
        assert (said - expected).abs().max() <= 0.51


def test_jitter_by_hand() -> None:
    """The formula in plain Python, pixel by pixel."""
    jitter = Jitter(brightness=0.5, contrast=0.4, saturation=0.3, hue=0.1)
    draws, source = uniform(2, 4), images(2, 3, 3, 3)
    made = jitter(source, draws)
    back = np.linalg.inv(np.array(TO_YIQ))
    for image, said, draw in zip(source.double().numpy(), made.numpy(), draws.numpy(), strict=True):
        bright, contrast, saturation, hue = 2 * draw - 1
        luma = np.array([0.299, 0.587, 0.114])
        mean = (luma[:, None, None] * image).sum(0).mean() * (1 + 0.5 * bright)
        angle = hue * 2 * np.pi * 0.1
        turn = np.array(
            [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
        )
        for y in range(3):
            for x in range(3):
                colour = image[:, y, x] * (1 + 0.5 * bright)
                colour = (colour - mean) * (1 + 0.4 * contrast) + mean
                grey = luma @ colour
                colour = (colour - grey) * (1 + 0.3 * saturation) + grey
                colour = back @ turn @ np.array(TO_YIQ) @ colour
                assert np.abs(np.clip(colour, 0, 255) - said[:, y, x]).max() <= 0.51


def test_a_hue_turned_by_a_third_goes_the_way_of_hsv() -> None:
    red = torch.tensor([200, 40, 40], dtype=torch.uint8).view(1, 3, 1, 1)
    third = torch.tensor([[0.5, 0.5, 0.5, 1.0]], dtype=torch.float64)
    turned = Jitter(brightness=0, contrast=0, saturation=0, hue=1 / 3)(red, third).flatten()
    hue = colorsys.rgb_to_hsv(*(turned.double() / 255).tolist())[0]
    assert min(abs(hue - 1 / 3), abs(hue - 2 / 3)) < 0.06


def test_grey_images_keep_one_channel() -> None:
    for step in (Jitter(), Affine(), ResizedCrop()):
        assert step(images(2, 1), uniform(2, step.draws)).shape == (2, 1, 12, 12)


def mixer(count: int, mixup: Mixup | None, cutmix: Cutmix | None) -> Mixer:
    keys = torch.tensor([sample_key(str(row)) for row in range(count + 2)])
    return Mixer(mixup=mixup, cutmix=cutmix, seed=0, rows=torch.arange(count), key_N=keys)


@pytest.mark.parametrize(
    ("pixels", "height", "width"),
    [(7, 28, 28), (4, 12, 20), (1, 9, 6), (7, 32, 32), (5, 12, 8), (6, 7, 13)],
)
def test_downscale_is_the_mean_over_areas(pixels: int, height: int, width: int) -> None:
    """Beside a loop that spreads each pixel over the coarse ones it lies in, by fractions."""
    shown = images(2, 3, height, width)
    coarse = np.full((2, 3, pixels, pixels), Fraction(0))
    for row, column in np.ndindex(height, width):
        for (down, high), (across, wide) in product(
            parts_of(row, height, pixels), parts_of(column, width, pixels)
        ):
            share = high * wide * pixels * pixels / (height * width)
            for image, channel in np.ndindex(2, 3):
                value = int(shown[image, channel, row, column])
                coarse[image, channel, down, across] += share * value
    step = parse(f"downscale:{pixels}", min(height, width))
    assert isinstance(step, Downscale)
    found = step(shown, uniform(2, 0))
    assert (found.dtype, found.shape) == (torch.uint8, shown.shape)
    for place in np.ndindex(*shown.shape):
        image, channel, row, column = place
        value = coarse[image, channel, row * pixels // height, column * pixels // width]
        assert int(found[place]) == math.floor(value + Fraction(1, 2))


def parts_of(pixel: int, side: int, coarse: int) -> list[tuple[int, Fraction]]:
    """The coarse pixels that a pixel lies in, and how much of it lies in each."""
    width = Fraction(side, coarse)
    found = []
    for number in range(coarse):
        inside = min((number + 1) * width, Fraction(pixel + 1)) - max(
            number * width, Fraction(pixel)
        )
        if inside > 0:
            found.append((number, inside))
    return found


def test_downscale_where_it_divides_keeps_what_is_coarse() -> None:
    """Blocks of one value stay, so that twice is as once; and no draw changes anything."""
    step = Downscale(pixels=4)
    once = step(images(), uniform(6, 0))
    assert torch.equal(step(once, uniform(6, 3)), once)
    blocks = once.unflatten(2, (4, 3)).unflatten(4, (4, 3))
    assert torch.equal(blocks[:, :, :, :1, :, :1].expand_as(blocks), blocks)


def test_grey_is_the_luminance_in_three_channels() -> None:
    shown = images(2, 3, 5, 4)
    shown[0, :, 0, 0] = torch.tensor([255, 255, 255])
    found = Grey()(shown, uniform(2, 0))
    assert (found.dtype, found.shape) == (torch.uint8, shown.shape)
    for image, row, column in np.ndindex(2, 5, 4):
        red, green, blue = (int(value) for value in shown[image, :, row, column])
        value = Fraction(299 * red + 587 * green + 114 * blue, 1000)
        expected = math.floor(value + Fraction(1, 2))
        assert found[image, :, row, column].tolist() == [expected] * 3
    assert int(found[0, 0, 0, 0]) == 255
    assert torch.equal(Grey()(images(channels=1), uniform(6, 0)), images(channels=1))
    # The network's own weights, of fp32 and not rounded.
    floats = torch.einsum("bchw,c->bhw", shown.double(), torch.tensor(LUMINANCE).double())
    assert float((found[:, 0].double() - floats).abs().max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_pairs_are_mutual_and_change_with_the_view(count: int) -> None:
    mix = mixer(count, Mixup(), None)
    rows = torch.arange(count + 2)
    for view in range(3):
        partner = mix.partners(rows, torch.full_like(rows, view))
        assert torch.equal(partner[partner], rows)
        alone = rows[partner == rows].tolist()
        assert {count, count + 1} <= set(alone), "rows that are not trained on stay alone"
        assert len(alone) == 2 + count % 2
    if count == 40:
        first, second = (mix.partners(rows, torch.full_like(rows, view)) for view in (0, 1))
        assert not torch.equal(first, second)


def both(count: int, mix: Mixer, side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Images whose value is their row, mixed with their partners."""
    rows = torch.arange(count)
    partner = mix.partners(rows, torch.zeros_like(rows))
    own = (rows / count).float().view(-1, 1, 1, 1).expand(-1, 1, side, side)
    plan = mix.plan(rows, partner, torch.zeros_like(rows), side, side)
    return plan.mixed(own, own[partner]), plan.share_B, partner


def test_mixup_blends_by_its_share() -> None:
    mixed, share, partner = both(4000, mixer(4000, Mixup(0.4), None))
    rows = torch.arange(4000)
    expected = share * rows / 4000 + (1 - share) * partner / 4000
    assert torch.allclose(mixed, expected.view(-1, 1, 1, 1).expand_as(mixed), atol=1e-6)
    assert torch.equal(share, share[partner])
    once = share[rows < partner].double().numpy()
    assert stats.kstest(once, stats.beta(0.4, 0.4).cdf).pvalue > 1e-4


def test_cutmix_pastes_a_box_of_its_share() -> None:
    mixed, share, partner = both(2000, mixer(2000, None, Cutmix()), side=32)
    for row in range(2000):
        own, other = row / 2000, int(partner[row]) / 2000
        values = mixed[row, 0]
        is_own = (values - own).abs() < 1e-6
        assert (is_own | ((values - other).abs() < 1e-6)).all()
        assert float(share[row]) == pytest.approx(float(is_own.double().mean()), abs=1e-6)
        pasted = (~is_own).nonzero()
        if len(pasted):
            top, left = pasted.amin(0).tolist()
            bottom, right = pasted.amax(0).tolist()
            assert len(pasted) == (bottom - top + 1) * (right - left + 1), "a box"
    assert 0.4 < float(share.mean()) < 0.75


def test_both_ways_take_turns() -> None:
    mixed, share, partner = both(2000, mixer(2000, Mixup(1.0), Cutmix(1.0)))
    pasted = sum(len(image.unique()) > 1 for image in mixed)
    assert 0.35 < pasted / 2000 < 0.65
    assert torch.equal(share, share[partner])
