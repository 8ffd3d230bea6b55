"""Augmentations that change colours, as pure, batched functions of their draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

# ITU-R 601 luminance in thousandths: whole numbers sum to the same whatever their order.
LUMINANCE = (299, 587, 114)
# RGB → YIQ, whose second and third axes span the plane of hues, and back.
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True)
class Jitter:
    """Changes brightness, contrast, saturation and hue, in this order.

    The factors are 1 ± up to the value given; the hue turns in the plane of YIQ. Only brightness
    and contrast of grey images change.

    Attributes:
        brightness: Range of the factor on all pixels, in [0, 1].
        contrast: Range of the factor on the distance from the image's mean luminance, in [0, 1].
        saturation: Range of the factor on the distance from each pixel's luminance, in [0, 1].
        hue: Range of the hue as a share of the full circle, in [0, 0.5].
    """

    draws: ClassVar[int] = 4
    BARE: ClassVar[tuple[str, ...]] = ("brightness", "contrast", "saturation")
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= v <= 1 for v in (self.brightness, self.contrast, self.saturation)):
            raise ValueError("brightness, contrast and saturation from 0 to 1")
        if not 0 <= self.hue <= 0.5:
            raise ValueError("hue from 0 to 0.5")

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Applies one set of factors to each sample; rounded back to uint8."""
        # Contiguous, because strided tensors take other kernels that may differ by a bit.
        either_D111B = (2 * uniform_BD.T - 1).contiguous()[:, None, None, None]
        bright, contrast, saturation, hue = either_D111B.movedim(-1, 1).float()
        pixels_BCHW = images_BCHW.float() * (1 + self.brightness * bright)
        if self.contrast:
            mean = _mean_luminance(images_BCHW) * (1 + self.brightness * bright)
            pixels_BCHW = (pixels_BCHW - mean) * (1 + self.contrast * contrast) + mean
        if images_BCHW.shape[1] == 3 and self.saturation:
            grey = _mixed(pixels_BCHW, [share / 1000 for share in LUMINANCE])
            pixels_BCHW = (pixels_BCHW - grey) * (1 + self.saturation * saturation) + grey
        if images_BCHW.shape[1] == 3 and self.hue:
            pixels_BCHW = _turned(pixels_BCHW, hue * (2 * math.pi * self.hue))
        changed: Tensor = pixels_BCHW.round().clamp(0, 255).to(torch.uint8)
        return changed


@dataclass(frozen=True)
class Grey:
    """Shows the luminance alone, in all three channels; grey images stay as they are."""

    draws: ClassVar[int] = 0

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Draws nothing. Rounded half up, from whole numbers: the same pixels on every device."""
        if images_BCHW.shape[1] != 3:
            return images_BCHW
        parts = zip(images_BCHW.int().split(1, dim=1), LUMINANCE, strict=True)
        total_B1HW = torch.cat([channel * share for channel, share in parts], dim=1).sum(
            dim=1, keepdim=True
        )
        grey_B1HW = ((total_B1HW + 500) // 1000).to(torch.uint8)
        return grey_B1HW.expand_as(images_BCHW).contiguous()


def _mean_luminance(images_BCHW: Tensor) -> Tensor:
    """(B, 1, 1, 1), fp32, exact up to its rounding: summed as whole numbers."""
    sum_BC = images_BCHW.sum(dim=(2, 3), dtype=torch.int64)
    shares = LUMINANCE if images_BCHW.shape[1] == 3 else (1000,)
    total_B = sum(sum_BC[:, channel] * share for channel, share in enumerate(shares))
    assert isinstance(total_B, Tensor)
    pixels = images_BCHW.shape[2] * images_BCHW.shape[3]
    return (total_B.float() / (1000 * pixels)).view(-1, 1, 1, 1)


def _mixed(pixels_BCHW: Tensor, shares: list[float]) -> Tensor:
    """A weighted sum of the channels, in a fixed order."""
    red, green, blue = pixels_BCHW.split(1, dim=1)
    mixed: Tensor = red * shares[0] + green * shares[1] + blue * shares[2]
    return mixed


def _turned(pixels_BCHW: Tensor, angle_B111: Tensor) -> Tensor:
    """Hues turned by an angle."""
    luma, i, q = (_mixed(pixels_BCHW, list(row)) for row in TO_YIQ)
    cosine, sine = angle_B111.cos(), angle_B111.sin()
    turned = torch.cat([luma, cosine * i - sine * q, sine * i + cosine * q], dim=1)
    return torch.cat([_mixed(turned, row) for row in _from_yiq()], dim=1)


@cache
def _from_yiq() -> list[list[float]]:
    """YIQ → RGB."""
    back: list[list[float]] = torch.tensor(TO_YIQ, dtype=torch.float64).inverse().tolist()
    return back
