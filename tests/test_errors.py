"""The phrases of messages: one visible line, reasons of libraries, suggestions."""

from __future__ import annotations

import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from distill_cli.errors import (
    DistillError,
    UsageError,
    fitting,
    nearest,
    reason,
    sentences,
    visible,
)

# Directions, line breaks of Unicode, marks without a width; half a surrogate pair is a byte of a name.
PLANTED = "a\x1b[31m\r\n\t\x07\x9b\u202e\u2028\u200b\udcff\ud800\U000e0041z"
SHOWN = "a\\x1b[31m\\r\\n\\t\\x07\\x9b\\u202e\\u2028\\u200b\\xff\\ud800\\U000e0041z"
# Letters and signs of many scripts, joiners of Persian and of a family of emoji among them.
WORDS = "Zoë · naïve · می\u200cخواهم · क्ष · 猫 · 👩\u200d👩\u200d👧 · \\x1b · é e\u0301 · ½"


def test_what_is_no_letter_is_shown_by_its_number() -> None:
    assert visible(PLANTED) == SHOWN
    assert visible(WORDS) == WORDS


@given(st.text(st.characters(), max_size=20))
def test_visible_is_one_printable_line_and_stays(text: str) -> None:
    shown = visible(text)
    assert len(f"{shown}.".splitlines()) == 1
    assert visible(shown) == shown
    shown.encode()
    assert not any(ord(character) < 32 or character in "\x7f\x9b\u202e" for character in shown)


def test_an_error_is_one_line_whatever_is_in_it() -> None:
    error = UsageError(f"{PLANTED} does not exist", hint=f"Give\n{PLANTED}")
    assert str(error) == f"{SHOWN} does not exist. Give\\n{SHOWN}"
    assert error.message == f"{SHOWN} does not exist"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("no such file", "Give another"), "no such file. Give another"),
        (("It failed.", "Try again"), "It failed. Try again"),
        (("Did you mean 'train'?", "See --help"), "Did you mean 'train'? See --help"),
        (("cannot use ..", "Give another"), "cannot use ... Give another"),
        (("alone",), "alone"),
    ],
)
def test_sentences_have_one_mark_at_their_end(parts: tuple[str, ...], text: str) -> None:
    assert sentences(*parts) == text
    if len(parts) == 2:
        assert str(DistillError(parts[0], hint=parts[1])) == text


def test_reasons_of_libraries_have_neither_addresses_nor_advice() -> None:
    with pytest.raises(UnidentifiedImageError) as pictures:
        Image.open(io.BytesIO(b"no picture"))
    assert "object at 0x" in str(pictures.value), "Pillow names its buffer"
    assert reason(pictures.value) == "cannot identify image file"
    assert "object at" not in str(DistillError(f"x cannot be read: {pictures.value}"))
    advice = pickle.UnpicklingError(
        "Weights only load failed. In PyTorch 2.6, we changed the default value of the `weights_only` "
        "argument. It has 3 bytes too many. Do it only if you got the file from a trusted source.\n"
        "Please file an issue"
    )
    assert reason(advice) == "It has 3 bytes too many"
    assert reason(ValueError("first.\nsecond")) == "first"
    assert reason(ValueError()) == "ValueError"


NAMES = [f"vit_{size}_patch{patch}" for size in ("tiny", "small", "base") for patch in (8, 16, 32)]
NAMES += [f"aaa{number}" for number in range(30)]


def test_suggestions_are_near_and_few() -> None:
    assert nearest("vit_tiny_patch61", NAMES) == "Did you mean 'vit_tiny_patch16'?"
    assert nearest("VIT_TINY_PATCH16", NAMES) == "Did you mean 'vit_tiny_patch16'?"
    listed = nearest("vit", NAMES)
    assert listed.startswith("Valid: vit_")
    assert "aaa" not in listed
    assert listed.endswith(f"… ({len(NAMES)} in all).")
    assert listed.count(", ") == 8
    assert nearest("zz", ["b", "a"]) == "Valid: a, b."
    # A name may come from a file.
    assert len(nearest("x" * 10**6, NAMES)) < 200


@pytest.mark.parametrize(
    ("hint", "left"),
    [
        ("Put it back, or leave --split out", "Put it back"),
        ("Use --lr, or give --int8", "Give --int8"),
        ("Go on with --resume --out r", "Go on with --resume --out r"),
        ("Train by `distill student --lr 1`", "Train by `distill student --lr 1`"),
        ("Use a smaller --size", None),
        ("pip install 'distill-cli[onnx]'", "pip install 'distill-cli[onnx]'"),
        (None, None),
    ],
)
def test_a_hint_keeps_what_a_verb_can_do(hint: str | None, left: str | None) -> None:
    assert fitting(hint, ["--int8"]) == left
