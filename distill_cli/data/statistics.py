"""Mean and standard deviation of the channels of images."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.counters import few_of
from distill_cli.data.split_images import ImageFiles, Images

FILES_FOR_STATISTICS = 1024


def channel_statistics(
    images: Images, rows: Tensor
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Mean and sd of each channel from exact counts of the 256 values, and the constant channels.

    Files are sampled: `FILES_FOR_STATISTICS` of them, by a hash of their sample keys.
    """
    if isinstance(images, ImageFiles):
        images = images.take(rows[few_of(images.key_N[rows], FILES_FOR_STATISTICS)])
        parts = images.iter_plain()
    else:
        parts = (images.images_NCHW[part] for part in rows.split(2048))
    counts = torch.zeros(images.size[0], 256, dtype=torch.float64)
    for part_BCHW in parts:
        for channel in range(images.size[0]):
            pixels = part_BCHW[:, channel].flatten().int()
            counts[channel] += torch.bincount(pixels, minlength=256)
    shares = counts / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    variance = (shares * (values[None] - mean[:, None]) ** 2).sum(dim=1)
    constant = ((counts > 0).sum(dim=1) == 1).nonzero()[:, 0]
    # A constant channel has no scale of its own.
    std = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
    return tuple(mean.tolist()), tuple(std.tolist()), tuple(constant.tolist())
