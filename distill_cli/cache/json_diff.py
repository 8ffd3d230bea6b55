"""Two JSON values side by side, in words. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_cli.errors import counted

_SHOWN = 12


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys joined by dots."""
    entries: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            entries |= flat(item, f"{prefix}{key}.")
        else:
            entries[prefix + key] = item
    return entries


def contrast(expected: Any, actual: Any) -> str:
    """Both values; long lists (a thousand class names) by length or by their first difference."""
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) > _SHOWN // 2:
        if len(expected) != len(actual):
            return f"expected {counted(len(expected), 'entry', 'entries')}, found {len(actual):,}"
        pairs = enumerate(zip(expected, actual, strict=True))
        index, (left, right) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        return f"expected {left!r} at place {index}, found {right!r}"
    return f"expected {_shown(expected)}, found {_shown(actual)}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str) and len(value) > 2 * _SHOWN:
        return repr(value[:_SHOWN] + "…")
    return repr(value)
