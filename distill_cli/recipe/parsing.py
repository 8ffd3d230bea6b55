"""Text of recipes and flags, parsed: parts, requirements, times, codecs, lists by commas."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, NamedTuple

from distill_cli.errors import nearest
from distill_cli.types import FIGURES


def split_commas(value: Any) -> Any:
    """`a,b` on a command line is a list of two."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def as_names(value: Any) -> Any:
    """The same of names that may be numbers: 7 is as good as `7`, alone or in a list."""
    listed = split_commas(str(value) if type(value) is int else value)
    if not isinstance(listed, list):
        return listed
    return [str(one) if type(one) is int else one for one in listed]


class NoiseSpec(NamedTuple):
    """Label noise by chance, such as `sym:0.4`.

    Attributes:
        kind: sym: any other class; pair: the next one.
        rate: Share of the labels that it changes.
    """

    kind: Literal["sym", "pair"]
    rate: float


NOISE = re.compile(r"\s*(sym|pair):\s*([-+0-9.eE]+)\s*")


def parse_noise(text: str) -> NoiseSpec | None:
    """The noise that a text spells; None of a file.

    Raises:
        ValueError: The share is no number between 0 and 1.
    """
    match = NOISE.fullmatch(text)
    if match is None:
        return None
    try:
        rate = float(match[2])
    except ValueError:
        rate = -1.0
    if not 0 < rate < 1:
        raise ValueError(f"'{text}' should have a share between 0 and 1, as {match[1]}:0.4")
    return NoiseSpec("sym" if match[1] == "sym" else "pair", rate)


# A number of samples, or where it is no whole number a share of them.
Amount = int | float


def parse_amount(text: str) -> Amount:
    """`100` samples, or `0.05` of them.

    Raises:
        ValueError: It is neither a number from 1 on nor a share between 0 and 1.
    """
    if re.fullmatch(r"\s*\+?\d+\s*", text) and int(text) >= 1:
        return int(text)
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ValueError(f"'{text}' is neither a number of samples nor a share between 0 and 1")
    return share


def check_noise(text: str) -> str:
    """The text, if it may spell noise or a file of labels."""
    if parse_noise(text) is None and re.fullmatch(r"[a-z]+:[-+0-9.eE]+", text):
        raise ValueError(f"'{text}' is neither sym:0.4, pair:0.2, nor a CSV of sample_id,label")
    return text


class Part(NamedTuple):
    """One part of a cache that several processes dump: `3/8` is the third of eight parts.

    Attributes:
        number: The part, from 1.
        parts: The number of parts.
    """

    number: int
    parts: int

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"


def parse_part(value: Any) -> Part:
    """A part, spelt as `3/8` in recipes and flags.

    Raises:
        ValueError: It has another form, or there is no such part.
    """
    if isinstance(value, Part):
        return value
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", str(value))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"'{value}' is not of the form 3/8, the third of eight parts")
    return Part(int(match[1]), int(match[2]))


def parse_fold(value: Any) -> Part:
    """A fold of several, spelt as `2/5`.

    Raises:
        ValueError: It has another form, there is no such fold, or it is the only one.
    """
    try:
        fold = parse_part(value)
    except ValueError:
        fold = Part(1, 1)
    if fold.parts < 2:
        raise ValueError(f"'{value}' is not of the form 2/5, the second of five folds")
    return fold


class Duration(NamedTuple):
    """A length of time such as `1h30m`.

    Attributes:
        text: The time as it was written.
        seconds: Its length.
    """

    text: str
    seconds: int

    def __str__(self) -> str:
        return self.text


def parse_duration(value: Any) -> Duration:
    """A length of time, spelt as `90s`, `5m`, `2h` or `1h30m` in recipes and flags.

    Raises:
        ValueError: It has another form, is nothing, or is longer than a year or so.
    """
    if isinstance(value, Duration):
        return value
    match = re.fullmatch(r"\s*(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?\s*", str(value))
    parts = [int(part or 0) for part in match.groups()] if match else [0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds == 0:
        raise ValueError(f"'{value}' is no time such as 90s, 5m, 2h or 1h30m")
    return Duration(str(value).strip(), seconds)


CODECS = ("fp32", "fp16", "bf16", "topk:10")


def check_codec(name: str) -> str:
    """The name, if it spells a codec; topk takes any number of classes."""
    if name not in CODECS and re.fullmatch(r"topk:[1-9]\d{0,5}", name) is None:
        raise ValueError(f"unknown codec '{name}'. {nearest(name, CODECS)}")
    return name


DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def check_device(name: str) -> str:
    """The name, if it spells a device, perhaps with its number."""
    if re.fullmatch(rf"({'|'.join(DEVICES)})(:[0-9]+)?", name) is None:
        raise ValueError(
            f"'{name}' is none of {', '.join(DEVICES)}, nor one with a number, as cuda:1"
        )
    return name


def as_list(value: Any) -> Any:
    """One text is a list of one."""
    return [value] if isinstance(value, str) else value


# A count of seeds is a slip beyond this.
MOST_SEEDS = 1000
SEED_LIMIT = 2**63


def is_seed_list(value: Any) -> bool:
    """Whether seeds are named one by one, and not counted."""
    return isinstance(value, list) or (isinstance(value, str) and "," in value)


def parse_seeds(value: Any) -> int | list[int] | None:
    """Seeds, spelt as a count (`5`) or one by one (`3,7` or `3,` of text, else a list).

    Raises:
        ValueError: It is neither, or a seed is named twice.
    """
    if value is None:
        return None
    parts = split_commas(value) if is_seed_list(value) else [value]
    whole = [str(part).strip() for part in parts]
    if not whole or not all(re.fullmatch(r"\d{1,19}", part) for part in whole):
        raise ValueError(f"'{value}' is neither a count of seeds, as 5, nor a list, as 3,7,9")
    numbers = [int(part) for part in whole]
    if not is_seed_list(value):
        if not 1 <= numbers[0] <= MOST_SEEDS:
            raise ValueError(
                f"a single number is a count, of 1 to {MOST_SEEDS:,}; seed {numbers[0]} alone is "
                f"--seed {numbers[0]}"
            )
        return numbers[0]
    if len(set(numbers)) < len(numbers) or len(numbers) > MOST_SEEDS or max(numbers) >= SEED_LIMIT:
        raise ValueError(f"'{value}' are not distinct seeds below 2^63, {MOST_SEEDS:,} at most")
    return numbers


REQUIREMENT = re.compile(r"^\s*(each:)?\s*([a-z][a-z0-9_]*)\s*(>=|<=|==|>|<)\s*([-+0-9.eE]+)\s*$")


class Requirement(NamedTuple):
    """A gate on a figure of result.json, such as `test_top1>=0.97`.

    Attributes:
        text: The gate as it was written.
        key: The figure.
        comparison: One of >=, <=, ==, > and <.
        bound: The number that the figure is compared with.
        of_each: Whether every run of several seeds must meet it, and not their mean.
    """

    text: str
    key: str
    comparison: str
    bound: float
    of_each: bool = False

    def __str__(self) -> str:
        return self.text


def parse_requirement(value: Any) -> Requirement:
    """A requirement, spelt as `test_top1>=0.97` or `each:test_top1>=0.97` in recipes and flags.

    Raises:
        ValueError: It has another form, or result.json has no such figure.
    """
    if isinstance(value, Requirement):
        return value
    text = str(value)
    match = REQUIREMENT.match(text)
    if match is None:
        raise ValueError(f"'{text}' is not of the form test_top1>=0.97")
    if match[2] not in FIGURES:
        raise ValueError(f"result.json has no figure '{match[2]}'. {nearest(match[2], FIGURES)}")
    return Requirement(text, match[2], match[3], float(match[4]), of_each=match[1] is not None)


def as_number(value: Any) -> Any:
    """A whole number that a flag has as text; anything else as it is."""
    return int(value) if isinstance(value, str) and value.isdigit() else value
