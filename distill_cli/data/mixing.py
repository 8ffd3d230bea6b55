"""Mixup and CutMix over the neighbouring pairs of a view's permutation. Shapes: B batch, N rows.

A view of a sample is mixed with the same view of its partner, and both get the same share or box.
Pairs, shares and boxes are functions of the view, so that a cache replays them in batches of any
size and order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from distill_cli.counters import Purpose, draw, permutation, uniform
from distill_cli.types import Share

# Views whose pairs are kept at hand; a batch rarely holds more than one.
KNOWN_VIEWS = 4


@dataclass(frozen=True)
class Mixup:
    """Blends two images: λ·x + (1 − λ)·x′, λ ~ Beta(alpha, alpha).

    Zhang et al. 2018, arXiv 1710.09412.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 100:
            raise ValueError("alpha from above 0 to 100")


@dataclass(frozen=True)
class Cutmix:
    """Pastes a box of area 1 − λ of one image into another, λ ~ Beta(alpha, alpha).

    Yun et al. 2019, arXiv 1905.04899; the box may hang over the border, and the share is that of
    the part inside.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 100:
            raise ValueError("alpha from above 0 to 100")


@dataclass(frozen=True, kw_only=True)
class MixPlan:
    """How each image of a request is mixed with its partner.

    Attributes:
        share_B: Share of the image's own content, fp32.
        cut_B: bool, whether a box is pasted rather than the two blended.
        box_B4: int64 top, bottom, left and right of the box, the ends excluded.
    """

    share_B: Tensor
    cut_B: Tensor
    box_B4: Tensor

    def mixed(self, images_BCHW: Tensor, others_BCHW: Tensor) -> Tensor:
        """Mixed images, on the plan's device.

        Args:
            images_BCHW: Images, fp32 in [0, 1].
            others_BCHW: Images of the partners.
        """
        height, width = images_BCHW.shape[-2:]
        inside_BHW = _inside(self.box_B4, height, width)
        weight_B1HW = torch.where(
            self.cut_B.view(-1, 1, 1), (~inside_BHW).float(), self.share_B.view(-1, 1, 1)
        )[:, None]
        # lerp's vectorised and scalar forms may differ by a bit.
        return images_BCHW * weight_B1HW + others_BCHW * (1 - weight_B1HW)

    def of(self, share: Share) -> MixPlan:
        """The plan of a rank's share of the images."""
        return self._each(share.of)

    def to(self, device: torch.device) -> MixPlan:
        """The same on a device."""
        return self._each(lambda column: column.to(device))

    def of_step(self, at_1: Tensor, batch_size: int) -> MixPlan:
        """The plan of one batch of many: that of number `at_1`, an int64 (1) on the plan's device."""
        return self._each(
            lambda column: column.unflatten(0, (-1, batch_size)).index_select(0, at_1)[0]
        )

    def of_batch(self, number: int, batch_size: int) -> MixPlan:
        """The same where the host knows the number: a view of it."""
        return self._each(lambda column: column.unflatten(0, (-1, batch_size))[number])

    def written_to(self, kept: MixPlan | None, device: torch.device) -> MixPlan:
        """The plan on a device: in the memory of one of as many images that is kept there, if any."""
        if kept is None:
            return self._each(lambda column: column.to(device, copy=True))
        kept.share_B.copy_(self.share_B)
        kept.cut_B.copy_(self.cut_B)
        kept.box_B4.copy_(self.box_B4)
        return kept

    def _each(self, change: Callable[[Tensor], Tensor]) -> MixPlan:
        share_B, cut_B, box_B4 = map(change, (self.share_B, self.cut_B, self.box_B4))
        return MixPlan(share_B=share_B, cut_B=cut_B, box_B4=box_B4)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixer:
    """Mixes pairs of training rows; with both mixup and cutmix, a coin chooses for each pair.

    Attributes:
        mixup: Setting of mixup, or None.
        cutmix: Setting of cutmix, or None.
        seed: Seed of the views.
        rows: int64 rows of the train split that are paired; other rows pair with themselves.
        key_N: Sample keys of the whole split.
    """

    draws: ClassVar[int] = 4
    mixup: Mixup | None
    cutmix: Cutmix | None
    seed: int
    rows: Tensor
    key_N: Tensor
    _known: dict[int, Tensor] = field(default_factory=dict)

    def partners(self, index_B: Tensor, view_B: Tensor) -> Tensor:
        """int64 (B): the row that each row is mixed with in its view."""
        partner_B = torch.empty_like(index_B)
        for view in view_B.unique().tolist():
            chosen_B = view_B == view
            partner_B[chosen_B] = self._partner_N(view)[index_B[chosen_B]]
        return partner_B

    def _partner_N(self, view: int) -> Tensor:
        """int64 (N): partners, neighbours in the view's permutation; an odd last row has none."""
        if view not in self._known:
            if len(self._known) > KNOWN_VIEWS:
                self._known.clear()
            first, second = self.pairs(view)
            partner_N = torch.arange(len(self.key_N))
            partner_N[first], partner_N[second] = second, first
            self._known[view] = partner_N
        return self._known[view]

    def pairs(self, view: int) -> tuple[Tensor, Tensor]:
        """The first and the second rows of all pairs of a view; an odd last row stands in both."""
        order = self.rows[permutation(self.seed, Purpose.PAIR, len(self.rows), view)]
        first, second = order[0::2], order[1::2]
        return first, torch.cat([second, first[len(second) :]])

    def plan(
        self, index_B: Tensor, partner_B: Tensor, view_B: Tensor, height: int, width: int
    ) -> MixPlan:
        """Shares and boxes of any rows and views, on the CPU: λ needs a library of the host's.

        Args:
            index_B: int64 rows, on the CPU.
            partner_B: int64 rows of the partners, on the CPU.
            view_B: int64 views, on the CPU.
            height: Height of a view in pixels.
            width: Width of a view in pixels.
        """
        # Both rows of a pair must draw the same: the key of the smaller row counts.
        key_B = self.key_N[torch.minimum(index_B, partner_B)]
        words = (view_B[:, None], key_B[:, None], torch.arange(self.draws))
        uniform_BD = uniform(draw(self.seed, Purpose.MIX, *words))
        cut_B = torch.full_like(index_B, self.mixup is None, dtype=torch.bool)
        if self.mixup is not None and self.cutmix is not None:
            cut_B = uniform_BD[:, 0] < 0.5
        alpha_B = torch.full((len(index_B),), self.mixup.alpha if self.mixup else 1.0).double()
        if self.cutmix is not None:
            alpha_B[cut_B] = self.cutmix.alpha
        share_B = _beta(uniform_BD[:, 1], alpha_B)
        box_B4 = _boxes(share_B, uniform_BD[:, 2:], height, width)
        side_B2 = box_B4[:, 1::2] - box_B4[:, 0::2]
        kept_B = 1 - side_B2.prod(dim=1).double() / (height * width)
        share_B = torch.where(cut_B, kept_B, share_B).float()
        return MixPlan(share_B=share_B, cut_B=cut_B, box_B4=box_B4)


def _beta(uniform_B: Tensor, alpha_B: Tensor) -> Tensor:
    """Beta(α, α) by its inverse distribution function, fp64."""
    from scipy.special import betaincinv

    values = betaincinv(alpha_B.numpy(), alpha_B.numpy(), uniform_B.contiguous().numpy())
    return torch.from_numpy(values)


def _boxes(share_B: Tensor, uniform_B2: Tensor, height: int, width: int) -> Tensor:
    """Boxes of area 1 − share about a uniform centre, cut at the border: int64 (B, 4)."""
    side_B = (1 - share_B).sqrt()
    bounds = []
    for axis, length in enumerate((height, width)):
        cut_B = (length * side_B).long()
        start_B = (uniform_B2[:, axis] * length).long() - cut_B // 2
        bounds += [start_B.clamp(0, length), (start_B + cut_B).clamp(0, length)]
    return torch.stack(bounds, dim=1)


def _inside(box_B4: Tensor, height: int, width: int) -> Tensor:
    """bool (B, H, W): the pixels inside the boxes."""
    inside = []
    for axis, length in enumerate((height, width)):
        position_1S = torch.arange(length, device=box_B4.device)[None]
        start_B1, stop_B1 = box_B4[:, 2 * axis, None], box_B4[:, 2 * axis + 1, None]
        inside.append((position_1S >= start_B1) & (position_1S < stop_B1))
    return inside[0][:, :, None] & inside[1][:, None, :]
