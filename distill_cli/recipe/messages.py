"""Validation errors in words for whoever types values: pydantic speaks to programmers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    "int_parsing_size": "has too many digits",
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    # Ours ask for one item at least, and nowhere for more.
    **dict.fromkeys(("string_too_short", "too_short"), "must not be empty"),
    "list_type": "must be a list",
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping of keys to values"),
}
# Parts of a place that are types, of which a value may have several.
TYPE = re.compile(r"str|bool|int|float|(list|dict|literal|constrained-).*")
# Characters of a value that a message repeats.
SHOWN = 80


def in_words(error: ErrorDetails) -> str:
    """The fault of a value, in lower case and without its name."""
    if error["type"] in WORDS:
        return WORDS[error["type"]]
    if error["type"] == "value_error":
        # Ours, and it may begin with a symbol.
        return error["msg"].removeprefix("Value error, ")
    text = error["msg"].replace("Input should be", "must be", 1)
    return text[:1].lower() + text[1:]


def fault(errors: Sequence[ErrorDetails]) -> str:
    """What is wrong with one value, of which several types were tried, and the value itself."""
    text = " or ".join(dict.fromkeys(map(in_words, errors)))
    text = text.replace(" or must be ", " or ")
    value = repr(errors[0]["input"])
    if errors[0]["type"] == "value_error" and value in text:
        # Our own sentence names it; the 0 of "greater than 0" is a bound.
        return text
    return f"{text} (got {value if len(value) <= SHOWN else value[:SHOWN] + '…'})"


def key_path(error: ErrorDetails) -> str:
    """The key of a value as a person types it: the types that were tried are no part of it."""
    first, *parts = map(str, error["loc"] or ("recipe",))
    return ".".join([first, *(part for part in parts if not TYPE.fullmatch(part))])
