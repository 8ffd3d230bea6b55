"""From a layer of the student to the shape of a layer of the teacher. Shapes: see `types`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Beyond this side the paper's kernel has more weights than the students that it is for.
LARGEST_KERNEL = 9


class Regressor(nn.Module):
    """Predicts the teacher's map from the student's (Romero et al. 2015, section 2.2).

    Convolutional as in the paper, of kernel N_g − N_h + 1, unpadded, where the student's map is at
    least as large as the teacher's and not by far larger; else the map is resized and the kernel
    is 1×1. It ends in the teacher layer's own non-linearity where that is a rectifier.

    Args:
        guided: Channels, height and width of the student's map.
        hint: Channels, height and width of the teacher's.
        rectified: The teacher's map is never negative.
    """

    def __init__(
        self, guided: tuple[int, int, int], hint: tuple[int, int, int], *, rectified: bool
    ) -> None:
        super().__init__()
        sides = [own - other + 1 for own, other in zip(guided[1:], hint[1:], strict=True)]
        self.size = (hint[1], hint[2])
        self.resizes = min(sides) < 1 or max(sides) > LARGEST_KERNEL
        self.kernel = (1, 1) if self.resizes else (sides[0], sides[1])
        self.rectified = rectified
        self.conv = nn.Conv2d(guided[0], hint[0], self.kernel)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu" if rectified else "linear")
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    @property
    def description(self) -> str:
        """In words: how it gets from one shape to the other."""
        height, width = self.kernel
        how = f"{height}×{width} convolution"
        return f"resized to {self.size[0]}×{self.size[1]}, {how}" if self.resizes else how

    def forward(self, feat_BCHW: Tensor) -> Tensor:
        """The prediction, (B, C, H, W) of the teacher's layer."""
        if self.resizes and feat_BCHW.shape[2:] != self.size:
            feat_BCHW = F.interpolate(feat_BCHW, self.size, mode="bilinear", antialias=True)
        predicted_BCHW: Tensor = self.conv(feat_BCHW)
        return F.relu(predicted_BCHW) if self.rectified else predicted_BCHW
