"""Augmentations that move pixels, as pure, batched functions of their draws.

They take uint8 images and uniform draws, one row a sample; none holds a generator. The result of a
sample does not depend on the other samples of the batch, nor on their number.
Shapes: B batch, C channels, H height, W width, D draws of one augmentation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shift:
    """Moves the image by −pixels … +pixels each way, zeros come in from the border.

    Padding by `pixels` and cropping back at random is the same, hence the other name, crop.
    """

    draws: ClassVar[int] = 2
    pixels: int

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Shifts each sample by its offset."""
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
        """Tosses one coin for each sample."""
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
        """Blanks one square in each sample."""
        sides = images_BCHW.shape[-2:]
        inside = []
        for axis, side in enumerate(sides):
            start_B = (uniform_BD[:, axis] * side).long() - self.pixels // 2
            position_1S = torch.arange(side, device=images_BCHW.device)[None]
            start_B1 = start_B[:, None]
            inside.append((position_1S >= start_B1) & (position_1S < start_B1 + self.pixels))
        hole_B1HW = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return images_BCHW.masked_fill(hole_B1HW, 0)


@dataclass(frozen=True)
class Affine:
    """Turns, moves, scales and shears about the centre; bilinear, zeros come in from outside.

    Attributes:
        degrees: Turn by up to this much either way.
        translate: Move by up to this share of the side either way.
        scale: Enlarge or shrink by up to this share.
        shear: Slant by up to this many degrees, along x.
    """

    draws: ClassVar[int] = 5
    degrees: float = 10.0
    translate: float = 0.1
    scale: float = 0.1
    shear: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise ValueError("degrees from 0 to 180")
        if not 0 <= self.translate <= 1:
            raise ValueError("translate from 0 to 1")
        if not 0 <= self.scale < 1:
            raise ValueError("scale from 0 to below 1")
        if not 0 <= self.shear < 90:
            raise ValueError("shear from 0 to below 90")

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Draws one matrix for each sample, which maps new pixels back to old ones."""
        height, width = images_BCHW.shape[-2:]
        # Contiguous, because strided tensors take other kernels whose sine may differ by a bit.
        either_DB = (2 * uniform_BD.T - 1).contiguous()
        turn_B = either_DB[0] * math.radians(self.degrees)
        size_B = 1 + either_DB[1] * self.scale
        slant_B = torch.tan(either_DB[2] * math.radians(self.shear))
        cosine_B, sine_B = turn_B.cos() / size_B, turn_B.sin() / size_B
        x_11W, y_1H1 = _centred(width, images_BCHW.device), _centred(height, images_BCHW.device)
        x_BHW = x_11W + _per_image(slant_B) * y_1H1.mT
        from_x_BHW = _per_image(cosine_B) * x_BHW - _per_image(sine_B) * y_1H1.mT
        from_y_BHW = _per_image(sine_B) * x_BHW + _per_image(cosine_B) * y_1H1.mT
        from_x_BHW = from_x_BHW + _per_image(either_DB[3] * self.translate * width)
        from_y_BHW = from_y_BHW + _per_image(either_DB[4] * self.translate * height)
        return _sampled(images_BCHW, from_x_BHW, from_y_BHW, outside="zeros")


@dataclass(frozen=True)
class ResizedCrop:
    """Cuts out a box of random area and shape and resizes it to the view.

    Szegedy et al. 2015, arXiv 1409.4842, with torchvision's numbers: an area of `scale` … 1 of
    the image, width over height of `ratio` … 1/ratio, ten tries, else the largest centred box.

    Attributes:
        scale: Smallest share of the area.
        ratio: Smallest width over height.
    """

    TRIES: ClassVar[int] = 10
    draws: ClassVar[int] = 2 * TRIES + 2
    scale: float = 0.08
    ratio: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError("scale from above 0 to 1")
        if not 0 < self.ratio <= 1:
            raise ValueError("ratio from above 0 to 1")

    def boxes(self, uniform_BD: Tensor, height_B: Tensor, width_B: Tensor) -> Tensor:
        """Left, top, width and height in pixels, int64 (B, 4), within images of these sizes."""
        area_BT = uniform_BD[:, : self.TRIES].contiguous() * (1 - self.scale) + self.scale
        # log-uniform between ratio and 1/ratio
        shape_BT = torch.exp(
            (1 - 2 * uniform_BD[:, self.TRIES : 2 * self.TRIES].contiguous()) * math.log(self.ratio)
        )
        height_B1, width_B1 = height_B[:, None], width_B[:, None]
        area_BT = area_BT * (height_B1 * width_B1)
        wide_BT = (area_BT * shape_BT).sqrt().round().long()
        high_BT = (area_BT / shape_BT).sqrt().round().long()
        fits_BT = (wide_BT >= 1) & (high_BT >= 1) & (wide_BT <= width_B1) & (high_BT <= height_B1)
        first_B1 = fits_BT.int().argmax(dim=1, keepdim=True)
        ever_B = fits_BT.any(dim=1)
        widest_B = torch.minimum(width_B, (height_B / self.ratio).round().long())
        highest_B = torch.minimum(height_B, (width_B / self.ratio).round().long())
        wide_B = torch.where(ever_B, wide_BT.gather(1, first_B1)[:, 0], widest_B)
        high_B = torch.where(ever_B, high_BT.gather(1, first_B1)[:, 0], highest_B)
        left_B = (uniform_BD[:, -2] * (width_B - wide_B + 1)).long()
        top_B = (uniform_BD[:, -1] * (height_B - high_B + 1)).long()
        left_B = torch.where(ever_B, left_B, (width_B - wide_B) // 2)
        top_B = torch.where(ever_B, top_B, (height_B - high_B) // 2)
        return torch.stack([left_B, top_B, wide_B, high_B], dim=1)

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Cuts one box out of each sample; bilinear, without any pixel outside the box."""
        height, width = images_BCHW.shape[-2:]
        size_B = torch.ones(len(images_BCHW), dtype=torch.int64, device=images_BCHW.device)
        box_B4 = self.boxes(uniform_BD, size_B * height, size_B * width).double()
        left, top, wide, high = (_per_image(side_B) for side_B in box_B4.T.contiguous())
        device = images_BCHW.device
        from_x_BHW = left + (_centred(width, device) / width + 0.5) * wide - 0.5
        from_y_BHW = top + (_centred(height, device).mT / height + 0.5) * high - 0.5
        from_x_BHW = torch.minimum(torch.maximum(from_x_BHW, left), left + wide - 1)
        from_y_BHW = torch.minimum(torch.maximum(from_y_BHW, top), top + high - 1)
        return _sampled(
            images_BCHW,
            from_x_BHW - (width - 1) / 2,
            from_y_BHW - (height - 1) / 2,
            outside="border",
        )


@dataclass(frozen=True)
class Downscale:
    """Shows the image at `pixels` × `pixels`, enlarged to its size again: what a coarse sensor sees.

    Each coarse pixel is the mean over the area that it covers, with the pixels that it covers in part
    weighed by that part, and rounded half up; it is enlarged by repeating it. All sums are of whole
    numbers, so that every device makes the same pixels.
    """

    draws: ClassVar[int] = 0
    pixels: int

    def __call__(self, images_BCHW: Tensor, uniform_BD: Tensor) -> Tensor:
        """Draws nothing: all views of a sample are alike."""
        height, width = images_BCHW.shape[-2:]
        high_KH, wide_KW = (
            _covers(self.pixels, side, images_BCHW.device) for side in (height, width)
        )
        # fp64 holds these sums exactly, in whatever order a kernel takes them.
        sum_BCKK = (high_KH @ images_BCHW.double() @ wide_KW.T).long()
        area = height * width
        coarse_BCKK = ((2 * sum_BCKK + area) // (2 * area)).to(torch.uint8)
        row_H, column_W = (
            torch.arange(side, device=images_BCHW.device) * self.pixels // side
            for side in (height, width)
        )
        return coarse_BCKK.index_select(2, row_H).index_select(3, column_W)


def _covers(coarse: int, side: int, device: torch.device) -> Tensor:
    """How much of each pixel a coarse pixel covers, in parts of 1/coarse: whole numbers of sum `side`, fp64 (K, side)."""
    from_K1 = torch.arange(coarse, device=device)[:, None] * side
    from_S = torch.arange(side, device=device) * coarse
    overlap_KS = torch.minimum(from_K1 + side, from_S + coarse) - torch.maximum(from_K1, from_S)
    return overlap_KS.clamp(min=0).double()


def _centred(side: int, device: torch.device) -> Tensor:
    """Positions of pixel centres relative to the image's centre, fp64 (1, 1, side)."""
    position = torch.arange(side, device=device, dtype=torch.float64)
    return (position - (side - 1) / 2)[None, None]


def _per_image(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1)


def _sampled(images_BCHW: Tensor, x_BHW: Tensor, y_BHW: Tensor, *, outside: str) -> Tensor:
    """Pixels at positions relative to the centre, bilinear, rounded back to uint8."""
    height, width = images_BCHW.shape[-2:]
    grid_BHW2 = torch.stack(
        torch.broadcast_tensors(x_BHW * (2 / width), y_BHW * (2 / height)), dim=-1
    )
    sampled_BCHW = F.grid_sample(
        images_BCHW.float(), grid_BHW2.float(), padding_mode=outside, align_corners=False
    )
    return sampled_BCHW.round().clamp(0, 255).to(torch.uint8)
