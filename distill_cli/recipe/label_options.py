"""The options of what a run may know of labels, and which images it learns from.

They are no part of the data's identity: caches and teachers of all labels serve a run that knows few.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from distill_cli.recipe.fields import DATA, ClassNames, option
from distill_cli.recipe.left_out import LeavesOut
from distill_cli.recipe.parsing import check_noise

NoiseText = Annotated[str, Field(min_length=1), AfterValidator(check_noise)]
FileName = Annotated[str, Field(min_length=1)]


class LabelOptions(LeavesOut):
    """The options of every verb that trains, by which labels are known."""

    labels_fraction: float | None = option(
        None,
        "Share of the labels that the run knows, as 0.03, of every class alike and one at least; the "
        "others are hidden, and their images unlabelled. Those held out are taken from it.",
        DATA,
        unwritten=True,
        gt=0,
        le=1,
    )
    labels_per_class: int | None = option(
        None,
        "The same as a number of labels of each class. Of fewer than five none is held out, and the "
        "last epoch is kept.",
        DATA,
        unwritten=True,
        ge=1,
    )
    label_noise: NoiseText | None = option(
        None,
        "Wrong labels in train and held out: sym:0.4 (40 % of each class, exactly, are any other "
        "class), pair:0.2 (20 % are the next class), or a CSV of sample_id,label.",
        DATA,
        unwritten=True,
    )
    coarse_labels: FileName | None = option(
        None,
        "A YAML file of groups, as `animal: [cat, dog]`, with every class in one: labels then say the "
        "group alone.",
        DATA,
        unwritten=True,
    )
    omit_class: ClassNames | None = option(
        None,
        "Classes that are not trained on, by name or number; held-out and test images keep them.",
        DATA,
        unwritten=True,
    )
    only_classes: ClassNames | None = option(
        None, "The only classes that are trained on, likewise.", DATA, unwritten=True
    )
    limit: int | None = option(
        None,
        "Images to train on, of every class in proportion, and as many at most of --unlabelled: a quick "
        "try of anything.",
        DATA,
        unwritten=True,
        ge=1,
    )
    without: FileName | None = option(
        None,
        "A CSV with a column sample_id, as distill audit writes it: images that are neither trained on nor "
        "held out. Rows of test are passed over.",
        DATA,
        unwritten=True,
    )
    relabel: FileName | None = option(
        None,
        "A CSV of sample_id and label, or suggested: labels that stand above all others, of images too "
        "whose label is hidden or that have none.",
        DATA,
        unwritten=True,
    )
    label_seed: int = option(
        0,
        "Seed of which labels are known, wrong or taken; separate from --seed, so that --seeds "
        "compares the same labels.",
        DATA,
        advanced=True,
        unwritten=True,
        ge=0,
        lt=2**63,
    )
