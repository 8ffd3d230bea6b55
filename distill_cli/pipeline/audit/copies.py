"""Images that are there twice: equal pixels, and pixels that correlate. Shapes: N images, D pixels, P pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.counters import few_of
from distill_cli.data.source import digest
from distill_cli.models.network import LUMINANCE

# Larger images are compared on a grid of so many means a side.
GRID = 32
# Rows that are compared with all before them at once, earlier ones in a product, pairs that are looked at
# closely at once, and axes on which it is seen that most pairs are no copies.
BLOCK, CHUNK, CLOSELY, AXES = 1024, 16384, 8192, 48
SAMPLED = 8192
# The product of two unit vectors in fp32 is this far from the true one at most.
SLACK = 1e-4


class Looks:
    """The looks of images, as a network is shown them: kept while their batches go by."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self._looks: list[Tensor] = []

    def watch(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same batches, uint8 (B, C, H, W)."""
        for images_BCHW in batches:
            self.digests += [digest(image.numpy().tobytes()) for image in images_BCHW.contiguous()]
            self._looks.append(looks_of(images_BCHW))
            yield images_BCHW

    @property
    def look_ND(self) -> Tensor:
        """fp32 looks of all."""
        return torch.cat(self._looks) if self._looks else torch.empty(0, 1)


def looks_of(images_BCHW: Tensor) -> Tensor:
    """Grey pixels minus their mean, of length 1, fp32 (B, D): their product is the correlation of pixels.

    Brightness and contrast do not count. An image of one grey is 0 throughout and correlates with none.

    Args:
        images_BCHW: uint8 images.
    """
    grey_B1HW = images_BCHW.float()
    if grey_B1HW.shape[1] == 3:
        grey_B1HW = (grey_B1HW * torch.tensor(LUMINANCE)[:, None, None]).sum(dim=1, keepdim=True)
    if max(grey_B1HW.shape[2:]) > GRID:
        grey_B1HW = F.adaptive_avg_pool2d(grey_B1HW, GRID)
    look_BD = grey_B1HW.flatten(1)
    look_BD = look_BD - look_BD.mean(dim=1, keepdim=True)
    length_B1 = look_BD.norm(dim=1, keepdim=True)
    # Less than a hundredth of a grey level a pixel is rounding of one grey.
    flat_B1 = length_B1 <= 0.01 * look_BD.shape[1] ** 0.5
    return torch.where(flat_B1, 0.0, look_BD / length_B1)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An image that is there already.

    Attributes:
        row: Its number.
        partner: The number of the image that it is like, which stays.
        similarity: Correlation of their pixels; 1 where they are equal.
        equal: Whether all pixels are equal.
    """

    row: int
    partner: int
    similarity: float
    equal: bool


def copies(digests: Sequence[bytes], look_ND: Tensor, threshold: float, fixed: int) -> list[Copy]:
    """The images that are like one before them, each with the most alike that stays.

    Of images that are alike the first stays; an image is compared with those that stay alone, so that
    no chain of small changes joins what is not alike.

    Args:
        digests: Digest of the pixels of each image; in order, those that rather stay first.
        look_ND: As `looks_of` makes them.
        threshold: Correlation from which on images are alike; above 1 only equal ones are.
        fixed: So many of the first images all stay, and are compared with all the same.
    """
    first: dict[bytes, int] = {}
    equal = [
        (row, first[content])
        for row, content in enumerate(digests)
        if first.setdefault(content, row) != row
    ]
    alone = sorted(first.values())
    near: list[Copy] = []
    if threshold <= 1:
        stays = sum(row < fixed for row in alone)
        near = [
            Copy(row=alone[row], partner=alone[partner], similarity=similarity, equal=False)
            for row, partner, similarity in _alike(look_ND[alone], threshold, stays)
        ]
    moved = {copy.row: copy for copy in near if copy.row >= fixed}
    for row, partner in equal:
        known = moved.get(partner)
        near.append(
            Copy(row=row, partner=partner, similarity=1.0, equal=True)
            if known is None
            else Copy(row=row, partner=known.partner, similarity=known.similarity, equal=False)
        )
    return sorted(near, key=lambda copy: copy.row)


def _alike(look_ND: Tensor, threshold: float, fixed: int) -> Iterator[tuple[int, int, float]]:
    """(row, partner, similarity) of the rows that are like one before them that stays."""
    axis_DA = _axes(look_ND)
    low_NA = look_ND @ axis_DA
    stays_N = torch.ones(len(look_ND), dtype=torch.bool)
    for start in range(0, len(look_ND), BLOCK):
        stop = min(start + BLOCK, len(look_ND))
        best = _best_before(look_ND, low_NA, stays_N, range(start, stop), threshold)
        inner_PP = (look_ND[start:stop] @ look_ND[start:stop].T).tril(diagonal=-1)
        for row in sorted({*best, *(start + r for r in _rows_of(inner_PP >= threshold))}):
            partner, similarity = best.get(row, (-1, -1.0))
            among_P = torch.where(stays_N[start:row], inner_PP[row - start, : row - start], -1.0)
            if len(among_P) and float(among_P.max()) > similarity:
                partner, similarity = start + int(among_P.argmax()), float(among_P.max())
            if similarity >= threshold:
                stays_N[row] = row < fixed
                yield row, partner, min(similarity, 1.0)


def _rows_of(mask_PP: Tensor) -> list[int]:
    rows: list[int] = mask_PP.any(dim=1).nonzero()[:, 0].tolist()
    return rows


def _axes(look_ND: Tensor) -> Tensor:
    """Orthonormal axes (D, A) along which looks differ most."""
    some_PD = look_ND[few_of(torch.arange(len(look_ND)), SAMPLED)].double()
    axis_DD: Tensor = torch.linalg.eigh(some_PD.T @ some_PD).eigenvectors
    return axis_DD[:, -AXES:].float()


def _best_before(
    look_ND: Tensor, low_NA: Tensor, stays_N: Tensor, rows: range, threshold: float
) -> dict[int, tuple[int, float]]:
    """The most alike row before a block that stays, and its similarity, of rows that have one.

    |x − y|² is 2 − 2·similarity, and no less than its part along any axes: pairs that are too far apart
    along these need no closer look.
    """
    best: dict[int, tuple[int, float]] = {}
    block_BA, block_BD = low_NA[rows.start : rows.stop], look_ND[rows.start : rows.stop]
    farthest = 2 * (1 - threshold) + SLACK
    before = stays_N[: rows.start].nonzero()[:, 0]
    for number_C in before.split(CHUNK):
        chunk_CA = low_NA[number_C]
        apart_BC = -2 * (block_BA @ chunk_CA.T)
        apart_BC += (block_BA**2).sum(dim=1)[:, None] + (chunk_CA**2).sum(dim=1)
        for pair_P2 in (apart_BC <= farthest).nonzero().split(CLOSELY):
            near_PD = look_ND[number_C[pair_P2[:, 1]]]
            similarity_P = (block_BD[pair_P2[:, 0]] * near_PD).sum(dim=1)
            for pair in (similarity_P >= threshold).nonzero()[:, 0].tolist():
                row = rows.start + int(pair_P2[pair, 0])
                similarity = float(similarity_P[pair])
                if similarity > best.get(row, (-1, -1.0))[1]:
                    best[row] = int(number_C[pair_P2[pair, 1]]), similarity
    return best
