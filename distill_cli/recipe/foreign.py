"""The options of `distill cache import`."""

from __future__ import annotations

from typing import ClassVar, Literal

from distill_cli.recipe.fields import DATA, RUN, TEACHERS, Device, Names, Text, option
from distill_cli.recipe.schema import Recipe, StoredLabels

Kind = Literal["votes", "probabilities", "logits"]


class ImportRecipe(Recipe, StoredLabels):
    """`distill cache import`: labels that other people or tools made, as a cache."""

    COMMAND: ClassVar[str] = "cache import"

    labels: Text | None = option(
        None, "The file, where it is not the command's argument.", DATA, advanced=True
    )
    kind: Kind | None = option(
        None,
        "What the numbers are: votes, probabilities or logits. Default: votes in a .csv, the name "
        "of the array in an .npz.",
        TEACHERS,
    )
    smoothing: float = option(
        0.0, "Votes that are added to every class of every image.", TEACHERS, ge=0, le=1e6
    )
    force: bool = option(
        False, "Go on with labels that are no better than chance.", TEACHERS, advanced=True
    )
    augment: Names | None = option(
        None,
        "Views of an image that its label also holds for, as `cache-soft-labels` has them; none "
        "that mixes images. Default: none, the image as it is.",
        DATA,
    )
    device: Device = option(
        "cpu", "Where the few views are made that pixels are compared with.", RUN, advanced=True
    )
