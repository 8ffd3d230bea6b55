"""Paths in a run's recipe that lead into the run's own folder, which may have been moved since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_cli.files import real_path
from distill_cli.types import STAGES

NO_PATHS = ("out", "about", "recorded")
# A list of mappings, as objectives have them; what people wrote may hold itself by an alias.
DEPTH = 3


def at_home(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run's recipe with the paths of its own stages, and of lists beside them, where they are now.

    Args:
        values: The recipe, as it was written when the run was in the folder that its key `out` names.
        folder: Where the run is.
    """
    out = values.get("out")
    then = _whole(Path(out)) if isinstance(out, str) else None
    root = _whole(real_path(folder))
    return {
        key: value if key in NO_PATHS else _located(value, then, root)
        for key, value in values.items()
    }


def _whole(run: Path) -> Path:
    """The folder of all stages that a run is one of; its own where it is none."""
    return run.parent.parent if run.parent.name == STAGES else run


def _located(value: Any, then: Path | None, root: Path, depth: int = DEPTH) -> Any:
    if depth and isinstance(value, Mapping):
        return {key: _located(item, then, root, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list):
        return [_located(item, then, root, depth - 1) for item in value]
    if not isinstance(value, str) or STAGES not in (parts := Path(value).parts)[:-1]:
        return value
    start = len(parts) - 1 - parts[::-1].index(STAGES)
    own = root.joinpath(*parts[start:])
    # A relative folder is known by its end; one that was reached by a link by what is not there any more.
    end = () if then is None else tuple(part for part in then.parts if part != "..")
    inside = then is not None and parts[max(0, start - len(end)) : start] == end
    return str(own) if (inside or not _is_there(Path(value))) and _is_there(own) else value


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # A text that no path can be.
        return False
