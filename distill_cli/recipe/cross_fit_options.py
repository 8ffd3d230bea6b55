"""The option of labels by networks that have not seen them."""

from __future__ import annotations

from distill_cli.recipe.fields import TEACHERS, option
from distill_cli.recipe.left_out import LeavesOut


class CrossFitOptions(LeavesOut):
    """The options of dumps, by who labels which images."""

    cross_fit: int | None = option(
        None,
        "Train the teacher's recipe so many times anew, each without a fold of its training images, and have "
        "each network label the fold that it has not seen, and the mean of all the other images. For small "
        "data, whose labels a teacher knows by heart.",
        TEACHERS,
        unwritten=True,
        ge=2,
        le=100,
    )
