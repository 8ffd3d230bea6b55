"""Paths in a run's recipe that lead into the run's own folder, which may have been moved since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill_cli.files import real_path
from distill_cli.types import STAGES

# The key of `recorded` that says where the run was when its recipe was written.
FOLDER = "folder"
NO_PATHS = ("out", "about", "recorded")
# A list of mappings, as objectives have them; what people wrote may hold itself by an alias.
DEPTH = 3


def at_home(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run's recipe with the paths of its own stages, and of lists beside them, where they are now.

    Only what lay in the run's own folder is sought there: a path into another run stays as it is, whatever
    lies in this one. Versions up to 0.8.0 did not record where that was: of theirs, and of relative paths, one
    is the run's own where it ends as `out` does and is not there any more.

    Args:
        values: The recipe, as it was written when the run was in the folder that `recorded` names.
        folder: Where the run is.
    """
    recorded, out = values.get("recorded"), values.get("out")
    then = recorded.get(FOLDER) if isinstance(recorded, Mapping) else None
    root = _whole(real_path(folder))

    def moved(text: str) -> str:
        path = Path(text)
        if STAGES not in path.parts[:-1]:
            return text
        if isinstance(then, str) and path.is_absolute():
            inside = path.is_relative_to(_whole(Path(then)) / STAGES)
        elif _is_there(path):
            # Of two spellings of one place one is kept, by which recipes are compared.
            inside = real_path(path).is_relative_to(root / STAGES)
        else:
            inside = isinstance(out, str) and _ends_in(path, Path(out))
        own = root.joinpath(*path.parts[_last_stages(path) :])
        return str(own) if inside and _is_there(own) else text

    return {
        key: value if key in NO_PATHS else _each(value, moved, DEPTH)
        for key, value in values.items()
    }


def _whole(run: Path) -> Path:
    """The folder of all stages that a run is one of; its own where it is none."""
    return run.parent.parent if run.parent.name == STAGES else run


def _last_stages(path: Path) -> int:
    """Where the last `stages` stands among the parts of a path."""
    return len(path.parts) - 1 - path.parts[::-1].index(STAGES)


def _ends_in(path: Path, out: Path) -> bool:
    """Whether the run that a path leads into may be the one that was written to `out`."""
    end = tuple(part for part in _whole(out).parts if part != "..")
    start = _last_stages(path)
    return path.parts[max(0, start - len(end)) : start] == end


def _each(value: Any, change: Callable[[str], str], depth: int) -> Any:
    """A value with its texts changed."""
    if depth and isinstance(value, Mapping):
        return {key: _each(item, change, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list):
        return [_each(item, change, depth - 1) for item in value]
    return change(value) if isinstance(value, str) else value


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # A text that no path can be.
        return False
