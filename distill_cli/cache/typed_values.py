"""Values of JSON objects, each of the type that it should have. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def typed(value: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """`value[key]`, which must be of exactly this type: a bool is no int, an int is a float.

    Raises:
        ValueError: The entry is missing, of another type, or a number that is not finite.
    """
    entry: Any = value.get(key)
    if kind is float and type(entry) is int:
        entry = float(entry)
    if type(entry) is not kind or (kind is float and not math.isfinite(value[key])):
        raise ValueError(f"'{key}' should be of type {kind.__name__}, is {entry!r:.40}")
    return entry


def count_of(value: Mapping[str, Any], key: str) -> int:
    """`value[key]`, a whole number from 1.

    Raises:
        ValueError: It is none.
    """
    count = typed(value, key, int)
    if count < 1:
        raise ValueError(f"'{key}' should be at least 1, is {count}")
    return count
