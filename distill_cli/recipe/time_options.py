"""The options of how long a training may take, and when its state is kept."""

from __future__ import annotations

from typing import Any

from distill_cli.recipe.fields import RUN, option
from distill_cli.recipe.parsing import parse_duration

CHECKPOINT_EVERY: Any = option(
    parse_duration("10m"),
    "Time between two checkpoints within an epoch, as 90s, 5m or 1h30m; each epoch ends with one "
    "too. The last two are kept.",
    RUN,
)
MAX_TIME: Any = option(
    None,
    "Time that this command may take, as 2h: after the step in which it is up, the state is kept, "
    "for --resume to go on from, and the exit code is 0.",
    RUN,
)
GRACE: Any = option(
    parse_duration("30s"),
    "Time in which SIGTERM ends the run: with a checkpoint where the step under way is over by "
    "then, else as the last one left it.",
    RUN,
)
