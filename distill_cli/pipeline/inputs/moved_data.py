"""Data that a run's or a cache's recipe names, and that are not there any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.data.open_splits import ALIASES
from distill_cli.errors import UsageError
from distill_cli.pipeline.folders import kept_recipe
from distill_cli.pipeline.inputs.located import locate

BUILT_IN = ("digits", *ALIASES)


def check_moved(
    data: str | None,
    owners: Sequence[str],
    kept: Callable[[str], Mapping[str, Any]] = lambda name: kept_recipe(Path(name)),
) -> None:
    """Refuses data that are nowhere, where a folder's recipe is what names them.

    Args:
        data: The value of `--data`, typed or adopted.
        owners: Folders of runs, models and caches whose data are adopted.
        kept: The recipe of a folder.

    Raises:
        UsageError: With the folder whose data they were.
    """
    if data is None or data in BUILT_IN or data.startswith("torch/") or Path(locate(data)).exists():
        return
    owner = next((name for name in owners if kept(name).get("data") == data), None)
    if owner is not None:
        raise UsageError(
            f"the data of {owner} were at {data}, where there is nothing now",
            hint="Say where they are with --data",
        )
