"""A view is a function: (sample, view index) → pixels, under a spec that says all the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.data.augment import parse
from distill_cli.data.decode import ImageTable
from distill_cli.types import ViewSpec


class Views:
    """Views of a table of images that is held in memory, made in batches on the device.

    Every random number is a hash of (view seed, view, sample key, draw), so a view is the same
    whoever asks for it, in whatever batch.

    Args:
        table: The decoded images.
        spec: What is done to them.
        device: Where the images lie and the views are made.
    """

    def __init__(self, table: ImageTable, spec: ViewSpec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.key_N = table.key_N
        self.images_NCHW = table.images_NCHW.to(device)
        self.augmentations = [parse(name, min(spec.height, spec.width)) for name in spec.augment]
        self.draws = sum(augmentation.draws for augmentation in self.augmentations)

    def batch(self, index_B: Tensor, view_B: Tensor) -> Tensor:
        """Images in [0, 1], un-normalised fp32, (B, C, H, W) on the device.

        Args:
            index_B: int64 rows of the table, on the CPU.
            view_B: int64 view of each sample, on the CPU.
        """
        images_BCHW = self.images_NCHW[index_B.to(self.device)]
        if self.augmentations:
            words = (view_B[:, None], self.key_N[index_B][:, None], torch.arange(self.draws))
            uniform_BD = uniform(draw(self.spec.seed, Purpose.AUGMENT, *words)).to(self.device)
            used = 0
            for augmentation in self.augmentations:
                mine_BD = uniform_BD[:, used : used + augmentation.draws]
                images_BCHW = augmentation(images_BCHW, mine_BD)
                used += augmentation.draws
        return images_BCHW.float() / 255
