"""The options of a training that several ranks do together."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from distill_cli.recipe.fields import RUN, TRAINING, Time, option
from distill_cli.recipe.parsing import parse_duration


class RankOptions(BaseModel):
    """What ranks do in every verb that trains; of one process, nothing."""

    sync_bn: bool = option(
        False,
        "With --ranks: batch norm over the samples of all ranks, to the curve of one process; else "
        "each rank normalises by its own.",
        TRAINING,
    )
    shard: Literal["none", "student", "teachers", "both"] = option(
        "none",
        "With --ranks, for networks that do not fit on one device: whose weights lie in parts on the "
        "ranks and are gathered block by block.",
        TRAINING,
    )
    rank_timeout: Time = option(
        parse_duration("2m"),
        "With --ranks: time that a rank waits for the others in a step, before it takes their machine "
        "for lost.",
        RUN,
        advanced=True,
    )
