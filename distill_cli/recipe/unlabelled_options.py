"""The option of images without labels, from a source of their own."""

from __future__ import annotations

from typing import Any

from distill_cli.recipe.fields import DATA, option

UNLABELLED: Any = option(
    None,
    "More images to learn from without labels, from any source that --data can be, or a folder of "
    "images; what labels they have are not looked at, and of splits only train is. Default: those "
    "of the cache that teaches.",
    DATA,
)
