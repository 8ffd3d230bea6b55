"""The options of self-training: how many rounds, and which of its own labels a network goes on from."""

from __future__ import annotations

from pydantic import BaseModel

from distill_cli.recipe.fields import LABELS, RUN, option


class RoundOptions(BaseModel):
    """The options of `distill self-train` alone."""

    rounds: int = option(
        3,
        "Networks that are trained one after the other: the first on labels alone, each later one on those that "
        "the one before it gives too.",
        RUN,
        ge=2,
        le=100,
    )
    threshold: float = option(
        0.9,
        "Least probability of its likeliest class at which an image is chosen.",
        LABELS,
        ge=0,
        le=1,
    )
    balance: bool = option(
        False,
        "Choose as many images of every class, the most probable ones: as many as there are of the rarest.",
        LABELS,
    )
    soft: bool = option(
        False,
        "Learn all probabilities of the chosen images, as the round before says them, in place of the likeliest "
        "class.",
        LABELS,
    )
