"""The options of a student that learns from images without labels, and of what its teacher is shown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from distill_cli.recipe.fields import DATA, TEACHERS, TRAINING, Names, option

UNLABELLED_SHARE: Any = option(
    None,
    "Share of unlabelled images in every batch, as 0.875: labelled and unlabelled ones are two "
    "streams, and an epoch is one pass over the unlabelled ones. Default: one order of all.",
    TRAINING,
    gt=0,
    lt=1,
)


class StreamOptions(BaseModel):
    """The composition of a batch, and its views; by default one order of all rows, shown to both alike."""

    unlabelled_share: float | None = UNLABELLED_SHARE
    teacher_augment: Names | None = option(
        None,
        "A view of its own for the teacher, spelt as --augment and drawn apart from the student's; "
        "`cache`: the views of the cache, whatever --augment says. Default: the student's.",
        DATA,
    )
    labelled_augment: Names | None = option(
        None,
        "Views of labelled images, with --unlabelled-share. Default: --teacher-augment, else --augment.",
        DATA,
    )
    self: dict[Literal["mode"], Literal["train", "eval"]] = option(
        {},
        "How the teacher `self` is asked: train, in the student's own forward, or eval, as --set "
        "self.mode=eval.",
        TEACHERS,
        advanced=True,
    )
