"""The options of how a device takes the steps of a training."""

from __future__ import annotations

from typing import Any

from distill_cli.recipe.fields import TEACHERS, TRAINING, option

COMPILE: Any = option(
    "auto",
    "Compile the network, on GPUs live teachers too: auto only on a GPU, in a training of 50,000 "
    "steps or more, which pays for it. On a CPU small resnets gained a fifth, for 40–80 s; an MLP nothing.",
    TRAINING,
)
GRAPHS: Any = option(
    "auto",
    "CUDA graphs, which launch a whole step at once, to the same bits: auto where a step can be "
    "recorded and it pays, on to refuse what cannot.",
    TRAINING,
)
DUMP_GRAPHS: Any = option(
    "auto",
    "CUDA graphs, which launch views and teachers of a batch at once, to the same bits: auto where images "
    "lie on a GPU, on to refuse where they cannot.",
    TEACHERS,
    advanced=True,
)
