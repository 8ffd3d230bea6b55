"""What options are declared with: panels, help, and the kinds of values that flags can spell."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from distill_cli.errors import nearest
from distill_cli.types import FIGURES

RateName = Literal["constant", "linear", "cosine", "step", "poly", "tanh"]

DATA, MODEL, LABELS, TEACHERS, HINTS, TRAINING, RUN = (
    "Data",
    "Model",
    "Objective",
    "Teachers",
    "Hints",
    "Training",
    "Run",
)
PANELS = (DATA, TEACHERS, LABELS, HINTS, MODEL, TRAINING, RUN)


def option(
    default: Any,
    description: str,
    panel: str,
    *,
    flags: tuple[str, ...] = (),
    advanced: bool = False,
    **constraints: Any,
) -> Any:
    """A field with what the command line needs to know of it.

    Args:
        default: The value where nothing else is said; `...` makes the key required.
        description: Help text: what it does and, where it is computed, its default.
        panel: The help panel it stands in.
        flags: Spellings other than `--the-key`.
        advanced: Reached by `--set` and listed by `--help-all`, not by `--help`.
        constraints: pydantic's (`gt=0`, `le=1`, …).
    """
    extra: Any = {"panel": panel, "flags": flags, "advanced": advanced}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


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


Names = Annotated[list[str], BeforeValidator(split_commas)]
Numbers = Annotated[list[Annotated[float, Field(ge=0)]], BeforeValidator(split_commas)]
Requirement = Annotated[str, AfterValidator(check_requirement)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|xpu|cuda)(:\d+)?$")]


Text = Annotated[str, Field(min_length=1)]
CodecName = Annotated[str, AfterValidator(check_codec)]
Share = Annotated[str, AfterValidator(check_share)]
