"""The option of which parts of a network do not learn."""

from __future__ import annotations

from distill_cli.recipe.fields import MODEL, ClassNames, option
from distill_cli.recipe.left_out import LeavesOut

# A number is a name too, of a module of a sequence.
PartNames = ClassNames


class FreezeOptions(LeavesOut):
    """The option of every verb that trains, by which parts of its network stay as they are."""

    freeze: PartNames | None = option(
        None,
        "Parts of the network that do not learn, as conv1,layer1: their weights and the statistics of "
        "their batch norm stay; backbone: all but the classifier.",
        MODEL,
        unwritten=True,
    )
