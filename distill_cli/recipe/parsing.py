"""Text of recipes and flags, parsed: parts, requirements, codecs, lists by commas."""

from __future__ import annotations

import re
from typing import Any

from distill_cli.errors import nearest
from distill_cli.types import FIGURES


def split_commas(value: Any) -> Any:
    """`a,b` on a command line is a list of two."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def check_requirement(text: str) -> str:
    """The text, if it is a gate on a figure of result.json."""
    key, _, _ = parse_requirement(text)
    if key not in FIGURES:
        raise ValueError(f"result.json has no figure '{key}'. {nearest(key, FIGURES)}")
    return text


def parse_share(text: str) -> tuple[int, int]:
    """`3/8` is the third of eight parts.

    Raises:
        ValueError: It has another form, or there is no such part.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"'{text}' is not of the form 3/8, the third of eight parts")
    return int(match[1]), int(match[2])


def check_share(text: str) -> str:
    """The text, if it names one part of several."""
    parse_share(text)
    return text


CODECS = ("fp32", "fp16", "bf16", "topk:10")


def check_codec(name: str) -> str:
    """The name, if it spells a codec; topk takes any number of classes."""
    if name not in CODECS and re.fullmatch(r"topk:[1-9]\d{0,5}", name) is None:
        raise ValueError(f"unknown codec '{name}'. {nearest(name, CODECS)}")
    return name


def as_list(value: Any) -> Any:
    """One text is a list of one."""
    return [value] if isinstance(value, str) else value


REQUIREMENT = re.compile(r"^\s*([a-z][a-z0-9_]*)\s*(>=|<=|==|>|<)\s*([-+0-9.eE]+)\s*$")


def parse_requirement(text: str) -> tuple[str, str, float]:
    """Splits `test_top1>=0.97` into its key of result.json, comparison and bound.

    Raises:
        ValueError: It has another form.
    """
    match = REQUIREMENT.match(text)
    if match is None:
        raise ValueError(f"'{text}' is not of the form test_top1>=0.97")
    return match[1], match[2], float(match[3])
