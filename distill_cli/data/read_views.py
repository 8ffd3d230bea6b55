"""Views of images that are read from files, before anything is changed: each file is read once.

Shapes: B batch, C channels, H height, W width, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from distill_cli.data.geometry import ResizedCrop
from distill_cli.data.split_images import ImageFiles, to_batch
from distill_cli.data.upright import shown_size

# Left, top, width and height in pixels of the upright image.
Box = list[int]


def read_views(
    files: ImageFiles, index_B: Tensor, crop: ResizedCrop | None, uniform_BD: Tensor
) -> Tensor:
    """Whole images cut to the size of a view, uint8 (B, C, H, W) on the CPU.

    Args:
        files: The split.
        index_B: int64 rows; views of one row are cut out of one read.
        crop: Where each view is cut; None for the centre crop.
        uniform_BD: Uniform numbers of each view, those of the crop first.

    Raises:
        ArtifactError: An image cannot be read.
    """
    positions: dict[int, list[int]] = {}
    for position, row in enumerate(index_B.tolist()):
        positions.setdefault(row, []).append(position)
    opened = {row: files.opened(row) for row in positions}
    boxes = None if crop is None else _boxes(files, crop, index_B, opened, uniform_BD)
    made: dict[int, Image.Image] = {}
    for row, alike in positions.items():
        # Decoded images are large: each goes once its views are made.
        image = opened.pop(row)
        if boxes is None:
            pictures = [files.plain(row, image)] * len(alike)
        else:
            pictures = files.cut(row, image, [boxes[position] for position in alike])
        made |= zip(alike, pictures, strict=True)
    return to_batch([made[position] for position in range(len(made))])


def _boxes(
    files: ImageFiles,
    crop: ResizedCrop,
    index_B: Tensor,
    opened: Mapping[int, Image.Image],
    uniform_BD: Tensor,
) -> list[Box]:
    """The part of its image that each view shows."""
    orientation = files.framing.orientation
    sizes = {row: shown_size(image, orientation) for row, image in opened.items()}
    width_B, height_B = torch.tensor([sizes[row] for row in index_B.tolist()]).T
    boxes: list[Box] = crop.boxes(uniform_BD[:, : crop.draws], height_B, width_B).tolist()
    return boxes
