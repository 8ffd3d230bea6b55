"""A few views kept with a cache: whoever reads it makes them again and compares.

A label belongs to the pixels that the teacher saw. Another version of a library, another decoder or
processor may make other pixels of the same file; whether it does is seen by looking. Shapes: P
views of the probe, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.counters import Purpose, permutation

VIEWS = 8
# What rounding alone may differ by, in grey levels: kernels of another processor or a GPU.
TOLERANCE = 1


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Views as the dump made them.

    Attributes:
        index_P: int64 row of the train split.
        view_P: int64 view of each.
        images_PCHW: uint8, rounded.
    """

    index_P: Tensor
    view_P: Tensor
    images_PCHW: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """As stored beside the evaluation rows."""
        return {
            "probe.index": self.index_P,
            "probe.view": self.view_P,
            "probe.images": self.images_PCHW.contiguous(),
        }

    def difference(self, images_PCHW: Tensor) -> tuple[int, int]:
        """The largest difference from views made here, in grey levels, and the place in P.

        Args:
            images_PCHW: The same views, in [0, 1], on any device.
        """
        made_PCHW = as_grey_levels(images_PCHW).short()
        each_P = (made_PCHW - self.images_PCHW.short()).abs().flatten(1).amax(dim=1)
        worst = int(each_P.argmax())
        return int(each_P[worst]), worst


def chosen(samples: int, views: int) -> tuple[Tensor, Tensor]:
    """Rows and views of a probe, drawn from both by a hash: index_P and view_P, int64.

    Neither comes twice before all others have come once.
    """
    place_P = torch.arange(min(VIEWS, samples * views))
    index_N = permutation(0, Purpose.ROWS, samples, 0)
    view_V = permutation(0, Purpose.ROWS, views, 1)
    return index_N[place_P % samples], view_V[place_P % views]


def as_grey_levels(images_BCHW: Tensor) -> Tensor:
    """uint8 on the CPU from images in [0, 1]."""
    return (images_BCHW.detach().cpu().float() * 255).round().clamp(0, 255).byte()
