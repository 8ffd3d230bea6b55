"""Numbers and names as people read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from distill_cli.errors import visible

NOTHING = "–"


def natural(name: str) -> list[tuple[int, str]]:
    """A key that orders student-2 before student-10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def count(number: float) -> str:
    """1.2 M, 14.3 K, 810: three digits that count."""
    return _scaled(number, digits=3)


def size(number: float) -> str:
    """Bytes: 1.2 MB, 57 KB, 810 B (powers of 1000)."""
    text = _scaled(number, digits=2)
    return f"{text}B" if " " in text else f"{text} B"


def _scaled(number: float, *, digits: int) -> str:
    units = ("", " K", " M", " G", " T")
    for unit in units:
        shown = _significant(number, digits if unit else 3)
        # 999,950 is 1 M, not 1000 K: what counts is the rounded number.
        if abs(float(shown)) < 1000 or unit == units[-1]:
            return f"{shown}{unit}"
        number /= 1000
    raise AssertionError("the last unit takes every number")


def _significant(number: float, digits: int) -> str:
    """At least `digits` digits, never an exponent: 1.2, 57, 810; no trailing zeros after a point."""
    decimals = max(0, digits - len(str(int(abs(number)))))
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def signed(number: float) -> str:
    """+1.2, −0.04, 0: one decimal, more only where one would hide the sign; a true minus."""
    text = f"{number:+.1f}"
    if float(text) == 0:
        text = f"{number:+.1g}" if number else "0"
    return text.replace("-", "−")


def plus_minus(mean: float | None, sd: float | None, *, decimals: int, scale: float = 1) -> str:
    """`8.4 ± 1.1`; the mean alone where there is no spread, a dash where there is nothing."""
    if mean is None:
        return NOTHING
    shown = f"{scale * mean:.{decimals}f}"
    return shown if sd is None else f"{shown} ± {scale * sd:.{decimals}f}"


def exactly(number: float) -> str:
    """0.9, 1, 0.9999999: every digit that was typed."""
    return f"{number:.15g}"


def share_below(value: float, bound: float) -> str:
    """43.96 %, 99.99999 %: a share with as many decimals as show on which side of a bound it is."""
    for decimals in range(2, 15):
        text = f"{100 * value:.{decimals}f}"
        if (Decimal(text) / 100 < Decimal(str(bound))) == (value < bound):
            break
    return f"{text} %"


def milliseconds(number: float | None) -> str:
    """0.054 ms, 1.2 ms, 85 ms."""
    if number is None:
        return NOTHING
    return f"{number:.3f} ms" if number < 1 else f"{_significant(number, 2)} ms"


def share(number: float | None, *, decimals: int = 2) -> str:
    """0.9766 as 97.66 %."""
    return NOTHING if number is None else f"{100 * number:.{decimals}f} %"


def short_name(text: str) -> str:
    """The last part of a path on this or another machine; other text as it is.

    `torch/mnist`, `timm/resnet18` and `runs/a` name no machine and stay.
    """
    is_path = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    if not is_path and not text.startswith((".", "~", "\\")):
        return text
    return PureWindowsPath(text).name or text


def without_paths(value: Any) -> Any:
    """The same value with `short_name` in place of every text in it."""
    if isinstance(value, str):
        return short_name(value)
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [without_paths(item) for item in value]
    return value


def plain(value: Any) -> str:
    """A recipe's value in one line: `a, b`, `yes`, `x=1 y=2`; no path of any machine."""
    value = without_paths(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return NOTHING if value is None else str(value)


def markdown(value: Any) -> str:
    """A value in Markdown that it cannot break out of, in tables too."""
    text = visible(" ".join(plain(value).split()))
    for character in "\\`*_<>[]|#":
        text = text.replace(character, f"\\{character}")
    return text


def markdown_code(value: Any) -> str:
    """A value as code; a backtick would end it, a bar a table's cell."""
    text = visible(" ".join(plain(value).split())).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"
