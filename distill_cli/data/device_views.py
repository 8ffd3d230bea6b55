"""Views made of tensors on the device alone: the same pixels as `Views` makes, to the bit.

Shapes: B batch, C channels, H height, W width, N rows of the split.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from distill_cli.data.mixing import MixPlan
from distill_cli.data.views import Views, neighbours


class DeviceViews:
    """Views of rows that are named on the device.

    Args:
        views: The views; where it reads images, or changes them one by one, `pictures` are given.
    """

    def __init__(self, views: Views) -> None:
        self.views, self.device = views, views.device

    @cached_property
    def _key_N(self) -> Tensor:
        return self.views.images.key_N.to(self.device)

    def draws(self, index_B: Tensor, view_B: Tensor) -> Tensor | None:
        """The numbers (B, D) that `plain` draws for rows, fp64; None where it changes nothing."""
        if not self.changes:
            return None
        return self.views.uniform(self._key_N.index_select(0, index_B), view_B)

    @property
    def changes(self) -> bool:
        """Whether any of a view's steps are taken here."""
        return self.views.per_image_steps < len(self.views.steps)

    def plain(
        self,
        index_B: Tensor,
        view_B: Tensor,
        pictures_BCHW: Tensor | None = None,
        uniform_BD: Tensor | None = None,
    ) -> Tensor:
        """Whole views before any mixing, fp32 in [0, 1].

        Args:
            index_B: int64 rows, on the device.
            view_B: int64 view of each, on the device.
            pictures_BCHW: The rows' `Views.pictures`, on the device; None where images lie there.
            uniform_BD: The rows' `draws`, made before; None to draw them now.
        """
        views = self.views
        if pictures_BCHW is None:
            # index_select copies whole rows: many times faster than indexing on uint8.
            pictures_BCHW = views.images_NCHW.index_select(0, index_B)
        if uniform_BD is None:
            uniform_BD = self.draws(index_B, view_B)
        if uniform_BD is not None:
            pictures_BCHW = views.changed(pictures_BCHW, uniform_BD, views.per_image_steps)
        return (pictures_BCHW / 255).contiguous()

    def mixed(
        self,
        index_B: Tensor,
        view_B: Tensor,
        partner_B: Tensor,
        plan: MixPlan,
        pictures_BCHW: Tensor | None = None,
        uniform_BD: Tensor | None = None,
        *,
        beside: bool = False,
    ) -> Tensor:
        """Mixed views, fp32 in [0, 1].

        Args:
            index_B: int64 rows, on the device.
            view_B: int64 view of each, on the device.
            partner_B: int64 row that each is mixed with, on the device.
            plan: How they are mixed, on the device.
            pictures_BCHW: The `Views.pictures` of rows and, behind them, partners.
            uniform_BD: The rows' `draws`; used where partners stand next to their images.
            beside: Whether partners stand next to their images: then each view is made once.
        """
        if beside:
            images_BCHW = self.plain(index_B, view_B, pictures_BCHW, uniform_BD)
            return plan.mixed(images_BCHW, neighbours(images_BCHW))
        both_2B, view_2B = torch.cat([index_B, partner_B]), torch.cat([view_B, view_B])
        made_2BCHW = self.plain(both_2B, view_2B, pictures_BCHW)
        return plan.mixed(*made_2BCHW.split(len(index_B)))
