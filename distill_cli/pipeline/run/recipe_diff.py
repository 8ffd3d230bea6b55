"""What a run was started from beside what it is asked to go on from, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.cache.json_diff import flat

SHOWN = 40


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, each with both values: `epochs 3 → 6`."""
    before, after = flat(_named(then)), flat(_named(now))
    return [
        f"{key} {_shown(before.get(key))} → {_shown(after.get(key))}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def way_on(
    run: Path, then: Mapping[str, Any], now: Mapping[str, Any], teachers: Sequence[str] | None
) -> str:
    """A hint for whoever resumes a run with other values: what can be done in their place.

    Args:
        run: The run.
        then: What it was started with.
        now: What is asked for.
        teachers: Its teachers; none of a teacher.
    """
    hint = "Resume with the options it was started with, or choose another --out"
    before, after = then.get("epochs"), now.get("epochs")
    if isinstance(before, int) and isinstance(after, int) and before < after:
        # A schedule of rates and weights runs over all epochs: more of them are another training.
        taught = f"--teachers {','.join(teachers)} " if teachers else ""
        hint += f"; for a longer training: {taught}--init {run} --out NEW --epochs {after}"
    return hint


def _named(values: Any) -> Any:
    """Lists of objectives as mappings by name, so that their parameters are keys."""
    if isinstance(values, Mapping):
        return {key: _named(value) for key, value in values.items()}
    entries = values if isinstance(values, list) else []
    if entries and all(isinstance(entry, Mapping) and "name" in entry for entry in entries):
        return {
            str(entry["name"]): {k: entry[k] for k in entry if k != "name"} for entry in entries
        }
    return values


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
