"""Declarations of options: panels, help, and the kinds of values that flags can spell."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator

from distill_cli.recipe.parsing import (
    Duration,
    Part,
    Requirement,
    as_names,
    as_number,
    check_codec,
    check_device,
    parse_duration,
    parse_part,
    parse_requirement,
    parse_seeds,
    split_commas,
)

# The verbs that recipes are for.
Command = Literal[
    "teacher train", "student", "hint-init", "self-train", "cache-soft-labels", "cache import"
]
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
    unwritten: bool = False,
    **constraints: Any,
) -> Any:
    """A field with what the command line needs to know of it.

    Args:
        default: The value where nothing else is said; `...` makes the key required.
        description: Help text: what it does and, where it is computed, its default.
        panel: The help panel it stands in.
        flags: Spellings other than `--the-key`.
        advanced: Reached by `--set` and listed by `--help-all`, not by `--help`.
        unwritten: A recipe with the default is written as if there were no such key (`LeavesOut`).
        constraints: pydantic's (`gt=0`, `le=1`, …).
    """
    extra: Any = {"panel": panel, "flags": flags, "advanced": advanced, "unwritten": unwritten}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


Names = Annotated[list[str], BeforeValidator(split_commas)]
# Classes: a number in YAML is a name too.
ClassNames = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1), BeforeValidator(as_names)
]
Numbers = Annotated[list[Annotated[float, Field(ge=0)]], BeforeValidator(split_commas)]
# Parsed when the recipe is read, and written as the text that they came from.
Gate = Annotated[Requirement, PlainValidator(parse_requirement), PlainSerializer(str)]
# A count, or a list.
Seeds = Annotated[int | list[int], BeforeValidator(parse_seeds)]
Device = Annotated[str, AfterValidator(check_device)]


Channels = Annotated[Literal[1, 3], BeforeValidator(as_number)]
Text = Annotated[str, Field(min_length=1)]
CodecName = Annotated[str, AfterValidator(check_codec)]
Time = Annotated[Duration, PlainValidator(parse_duration), PlainSerializer(str)]
PartOfDump = Annotated[Part, PlainValidator(parse_part), PlainSerializer(str)]
