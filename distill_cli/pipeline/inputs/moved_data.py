"""Data that a run's or a cache's recipe names, and that are not there any more."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.data.open_splits import ALIASES
from distill_cli.errors import UsageError, nearest
from distill_cli.pipeline.inputs.located import locate
from distill_cli.pipeline.kept import kept_recipe

BUILT_IN = ("digits", *ALIASES)
NAMES = {"data": "data", "unlabelled": "unlabelled images", "teacher_data": "teacher's images"}


def check_moved(
    data: str | None,
    owners: Sequence[str],
    kept: Callable[[str], Mapping[str, Any]] = lambda name: kept_recipe(Path(name)),
    *,
    key: str = "data",
) -> None:
    """Refuses data that are nowhere, where a folder's recipe is what names them.

    Args:
        data: The value of `--data` or `--unlabelled`, typed or adopted.
        owners: Folders of runs, models and caches whose data are adopted.
        kept: The recipe of a folder.
        key: The option's key in a recipe.

    Raises:
        UsageError: With the folder whose data they were.
    """
    if data is None or data in BUILT_IN or data.startswith("torch/") or Path(locate(data)).exists():
        return
    owner = next((name for name in owners if kept(name).get(key) == data), None)
    if owner is not None:
        raise UsageError(
            f"the {NAMES[key]} of {owner} were at {data}, where there is nothing now",
            hint=f"Say where they are with --{key.replace('_', '-')}",
        )


def typed_place(data: str, flag: str = "--data") -> str:
    """Data that a person named, as `locate` has them.

    Raises:
        UsageError: A path that is nowhere, with the folders in which it was looked for. A slip in the
            name of a dataset is left to whoever opens it.
    """
    place = locate(data)
    if data in BUILT_IN or data.startswith("torch/") or Path(place).exists():
        return place
    if "/" not in data and nearest(data, BUILT_IN).startswith("Did you"):
        return place
    if Path(data).is_absolute():
        hint = "Give a folder, an archive, a .csv or digits"
    else:
        root = os.environ.get("DISTILL_DATA")
        second = f"in $DISTILL_DATA ({root})" if root else "nowhere else: $DISTILL_DATA is not set"
        hint = f"It was looked for in the current folder ({Path.cwd()}) and {second}"
    raise UsageError(f"{flag} {data} does not exist", hint=hint)
