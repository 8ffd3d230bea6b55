"""How a data spec is read: what runs record, so that a later version reads the same of it."""

from __future__ import annotations

from dataclasses import dataclass

from distill_cli.data.formats import MEGAPIXELS
from distill_cli.types import DataVersion, SplitBy


@dataclass(frozen=True, kw_only=True)
class DataRules:
    """The choices that decide images, splits and channels.

    Attributes:
        version: The version of distill by whose rules files are images, folders are splits, and
            views are grey: up to 0.3.0, where every image of every split is stored as grey; since,
            where more than half of the training images are grey.
        split_by: Whether seeded splits keep images of equal content on one side.
        channels: 1 for grey views, 3 for colour; None to decide by the images.
        dedupe: Leave out copies.
        megapixels: Pictures of more are refused.
    """

    version: DataVersion = "0.4.0"
    split_by: SplitBy = "content"
    channels: int | None = None
    dedupe: bool = False
    megapixels: int = MEGAPIXELS


TODAY = DataRules()
