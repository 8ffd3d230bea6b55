"""From a layer of the student to the shape of a layer of the teacher. Shapes: see `types`."""

from __future__ import annotations

import torch
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
        normalised: Batch norm stands between the convolution and the non-linearity, as in public
            benchmarks and not in the paper. It normalises by the batch that it sees, which must
            hold two values of a channel.
        gradient_scale: What the gradient that goes back into the student is multiplied by; the
            regressor's own is as it is.
    """

    def __init__(
        self,
        guided: tuple[int, int, int],
        hint: tuple[int, int, int],
        *,
        rectified: bool,
        normalised: bool = False,
        gradient_scale: float = 1.0,
    ) -> None:
        super().__init__()
        sides = [own - other + 1 for own, other in zip(guided[1:], hint[1:], strict=True)]
        self.size = (hint[1], hint[2])
        self.resizes = min(sides) < 1 or max(sides) > LARGEST_KERNEL
        self.kernel = (1, 1) if self.resizes else (sides[0], sides[1])
        self.rectified = rectified
        self.gradient_scale = gradient_scale
        # A bias before batch norm would be subtracted again.
        self.conv = nn.Conv2d(guided[0], hint[0], self.kernel, bias=not normalised)
        self.norm = nn.BatchNorm2d(hint[0]) if normalised else None
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu" if rectified else "linear")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    @property
    def description(self) -> str:
        """In words: how it gets from one shape to the other."""
        height, width = self.kernel
        words = f"{height}×{width} convolution" + (", batch norm" if self.norm is not None else "")
        if self.gradient_scale != 1:
            words += f", {100 * self.gradient_scale:g} % of its gradient to the student"
        return f"resized to {self.size[0]}×{self.size[1]}, {words}" if self.resizes else words

    def forward(self, feat_BCHW: Tensor) -> Tensor:
        """The prediction, (B, C, H, W) of the teacher's layer."""
        if self.gradient_scale != 1:
            # The same features, and a share of their gradient.
            feat_BCHW = torch.lerp(feat_BCHW.detach(), feat_BCHW, self.gradient_scale)
        if self.resizes and feat_BCHW.shape[2:] != self.size:
            feat_BCHW = F.interpolate(feat_BCHW, self.size, mode="bilinear", antialias=True)
        predicted_BCHW: Tensor = self.conv(feat_BCHW)
        if self.norm is not None:
            predicted_BCHW = self.norm(predicted_BCHW)
        return F.relu(predicted_BCHW) if self.rectified else predicted_BCHW
