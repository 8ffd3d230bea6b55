"""A few views kept with a cache: whoever reads the cache makes them again and compares.

A label belongs to the pixels that the teacher saw. Another version of a library, another decoder or
processor may make other pixels of the same file; comparing shows whether it does. Shapes: P views
of the probe, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill_cli.counters import Purpose, permutation

VIEWS = 8
# Grey levels that rounding alone may differ by: kernels of another processor or a GPU.
TOLERANCE = 1


@dataclass(frozen=True, kw_only=True)
class PixelProbe:
    """Views as the dump made them.

    Attributes:
        index_P: int64 rows of the train split.
        view_P: int64 view of each row.
        images_PCHW: The views, rounded to uint8.
    """

    index_P: Tensor
    view_P: Tensor
    images_PCHW: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in eval.safetensors."""
        return {
            "probe.index": self.index_P,
            "probe.view": self.view_P,
            "probe.images": self.images_PCHW.contiguous(),
        }

    def difference(self, images_PCHW: Tensor) -> tuple[int, int]:
        """The largest difference from the same views made again, in grey levels, and its index.

        Args:
            images_PCHW: The views made again, in [0, 1], on any device.
        """
        made_PCHW = as_grey_levels(images_PCHW).short()
        difference_P = (made_PCHW - self.images_PCHW.short()).abs().flatten(1).amax(dim=1)
        worst = int(difference_P.argmax())
        return int(difference_P[worst]), worst


def chosen(samples: int, views: int) -> tuple[Tensor, Tensor]:
    """Rows and views of a probe, drawn by a hash: index_P and view_P, int64.

    No row, and no view, comes twice before all others have come once.
    """
    number_P = torch.arange(min(VIEWS, samples * views))
    index_N = permutation(0, Purpose.ROWS, samples, 0)
    view_V = permutation(0, Purpose.ROWS, views, 1)
    return index_N[number_P % samples], view_V[number_P % views]


def as_grey_levels(images_BCHW: Tensor) -> Tensor:
    """uint8 on the CPU from images in [0, 1]."""
    return (images_BCHW.detach().cpu().float() * 255).round().clamp(0, 255).byte()
