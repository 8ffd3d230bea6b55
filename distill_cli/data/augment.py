"""Augmentations as pure, batched functions of counters.

Each takes uint8 images and its own uniform draws, one row a sample; none holds a generator.
Shapes: B batch, C channels, H height, W width, D draws of one augmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.errors import UsageError, nearest


class Augmentation(Protocol):
    """One random change of an image.

    Attributes:
        draws: How many uniform numbers a sample needs.
    """

    draws: ClassVar[int]

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Changed images of the same shape and dtype."""


@dataclass(frozen=True)
class Shift:
    """Moves the image by −pixels … +pixels each way, zeros come in from the border.

    Padding by `pixels` and cropping back at random is the same thing, hence its other name, crop.
    """

    draws: ClassVar[int] = 2
    pixels: int

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """One offset a sample."""
        height, width = images_BCHW.shape[-2:]
        span = 2 * self.pixels + 1
        offset_BD = (uniform_BD * span).long()
        padded_BCHW = F.pad(images_BCHW, (self.pixels,) * 4)
        # A view of all crops; indexing the two offset dimensions copies whole rows of pixels.
        crops = padded_BCHW.unfold(2, height, 1).unfold(3, width, 1)
        batch_B = torch.arange(len(images_BCHW), device=images_BCHW.device)
        shifted: Tensor = crops[batch_B, :, offset_BD[:, 0], offset_BD[:, 1]]
        return shifted


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right with probability ½."""

    draws: ClassVar[int] = 1

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """One coin a sample."""
        mirrored_B = (uniform_BD[:, 0] < 0.5).view(-1, 1, 1, 1)
        return torch.where(mirrored_B, images_BCHW.flip(-1), images_BCHW)


@dataclass(frozen=True)
class Cutout:
    """Blanks a square of `pixels` whose centre is anywhere in the image.

    DeVries & Taylor 2017, arXiv 1708.04552: the square may hang over the border.
    """

    draws: ClassVar[int] = 2
    pixels: int

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """One square a sample."""
        sides = images_BCHW.shape[-2:]
        inside = []
        for axis, side in enumerate(sides):
            start_B = (uniform_BD[:, axis] * side).long() - self.pixels // 2
            position_1S = torch.arange(side, device=images_BCHW.device)[None]
            start_B1 = start_B[:, None]
            inside.append((position_1S >= start_B1) & (position_1S < start_B1 + self.pixels))
        hole_B1HW = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return images_BCHW.masked_fill(hole_B1HW, 0)


WITH_PIXELS: dict[str, Callable[[int], Augmentation]] = {
    "crop": Shift,
    "shift": Shift,
    "cutout": Cutout,
}
PRESETS = ("none", "light")


def light(channels: int, height: int) -> tuple[str, ...]:
    """The preset that suits nearly all images: colour crops and flips, grey (writing) shifts."""
    if channels == 1:
        return (f"shift:{max(1, round(height / 14))}",)
    return (f"crop:{max(1, height // 8)}", "flip")


def parse(spelled: str, side: int) -> Augmentation:
    """`crop:4` as an augmentation.

    Raises:
        UsageError: No such augmentation, or pixels that are no number from 1 to `side` − 1.
    """
    name, separator, text = spelled.partition(":")
    if name == "flip" and not separator:
        return Flip()
    if name not in WITH_PIXELS:
        raise UsageError(
            f"augment: unknown '{spelled}'. {nearest(name, [*WITH_PIXELS, 'flip', *PRESETS])}"
        )
    if not text.isdigit() or not 1 <= int(text) < side:
        raise UsageError(
            f"augment: '{spelled}' needs pixels from 1 to {side - 1}, as {name}:{max(1, side // 8)}"
        )
    return WITH_PIXELS[name](int(text))


def check_names(names: list[str] | None) -> None:
    """Refuses misspelt augmentations before any image is decoded; sizes are checked later."""
    for name in names or []:
        if name not in PRESETS:
            parse(name, side=2**31)


def resolve(names: list[str] | None, channels: int, height: int, width: int) -> tuple[str, ...]:
    """Presets and defaults spelt out; every name checked against the image's size.

    Args:
        names: As typed; None for the default, which is `light`.
        channels: 1 or 3.
        height: Pixels.
        width: Pixels.
    """
    spelled: list[str] = []
    for name in ["light"] if names is None else names:
        if name == "none":
            if len(names or []) > 1:
                raise UsageError("augment: 'none' stands alone")
        elif name == "light":
            spelled.extend(light(channels, min(height, width)))
        else:
            spelled.append(name)
    for name in spelled:
        parse(name, min(height, width))
    return tuple(spelled)
