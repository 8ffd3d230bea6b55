"""JSON from anywhere, within bounds."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError, counted
from distill_cli.readers.bounds import USUAL, Bounds, check_depth, read_bounded

# Whole numbers of our files fit into 64 bits.
_DIGITS = 20
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def json_value(content: bytes, bounds: Bounds = USUAL) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        ValueError: It is none, or beyond the bounds; a number is not finite or not of 64 bits, a key
            stands twice, or a text is no Unicode.
    """
    if len(content) > bounds.size:
        raise ValueError(f"it has more than {counted(bounds.size, 'byte')}")
    if sum(content.count(mark) for mark in (b",", b"[", b"{")) > bounds.values:
        raise ValueError(f"it has more than {counted(bounds.values, 'value')}")
    try:
        value = json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_mapping,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    check_depth(value)
    if _SURROGATE.search(content):
        # Half of a surrogate pair can be spelt, and is no text.
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a text in it is no Unicode: half of a surrogate pair") from None
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}, which is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {text:.20}, which is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {max(times, key=times.__getitem__)!r:.80} stands twice")
    return mapping


def read_json(path: Path, bounds: Bounds = USUAL) -> Any:
    """Reads a JSON file.

    Raises:
        ArtifactError: It is missing, is not JSON, or is beyond the bounds.
    """
    try:
        return json_value(read_bounded(path, bounds.size), bounds)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is malformed: {error}") from None
