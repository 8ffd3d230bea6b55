"""The options of the rules by which data are read."""

from __future__ import annotations

from typing import Any

from distill_cli.recipe.fields import DATA, option

# The keys of the rules by which data are read. Versions up to 0.3.0 had none of them, and where a run
# of theirs is gone on with it keeps none: absent, they mean what these versions did.
RULE_KEYS = frozenset(("dedupe", "channels", "split_by", "data_rules"))

DEDUPE: Any = option(
    False,
    "Leave out copies: of train and held-out images those that are in test, all but the first of "
    "equal images of one class, and all of those in several classes.",
    DATA,
    advanced=True,
)
CHANNELS: Any = option(
    None,
    "1 for grey views, 3 for colour. Default: grey where more than half of the training images "
    "are.",
    DATA,
    advanced=True,
)
SPLIT_BY: Any = option(
    None,
    "content keeps images of equal content on one side of seeded splits, id goes by sample ids "
    "alone (content).",
    DATA,
    advanced=True,
)
MAX_MEGAPIXELS: Any = option(
    None,
    "Pictures of more pixels are refused, as files that could fill the memory (200).",
    DATA,
    advanced=True,
    ge=1,
    le=10_000,
)
DATA_RULES: Any = option(
    None,
    "The version of distill by whose rules files are images, folders splits and views grey "
    "(0.4.0; the earlier runs' that are gone on with or learnt from: 0.3.0).",
    DATA,
    advanced=True,
)
