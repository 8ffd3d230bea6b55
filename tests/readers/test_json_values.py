from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.errors import ArtifactError
from distill_cli.readers.bounds import DEPTH, Bounds, check_depth
from distill_cli.readers.json_values import json_value, read_json

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=12,
)


@given(PLAIN, st.booleans())
def test_what_our_files_hold_is_read_as_it_is(value: object, plain: bool) -> None:
    assert json_value(json.dumps(value, ensure_ascii=plain).encode()) == value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": NaN}', "NaN, which is no number"),
        (b"[-Infinity]", "-Infinity, which is no number"),
        (b"[1e999]", "the number 1e999, which is too large"),
        (b"[" + b"9" * 21 + b"]", "a number of 21 digits"),
        (b"[" + b"9" * 5000 + b"]", "a number of 5000 digits"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
        (rb'["\ud800"]', "half of a surrogate pair"),
        (rb'{"\uDFFF": 1}', "half of a surrogate pair"),
        (b'["\xff"]', "can't decode byte 0xff"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 levels deep"),
        ("[1]".encode("utf-16"), "can't decode"),
        (b"", "Expecting value"),
        (b"[0" + b",0" * 200 + b"]", "more than 100 values"),
        (b" " * 2000, "more than 1,000 bytes"),
    ],
)
def test_what_none_holds_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    bounds = (
        Bounds(size=1000, values=100)
        if said.startswith("more")
        else Bounds(size=200_000, values=200_000)
    )
    with pytest.raises(ValueError, match=said):
        json_value(content, bounds)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json is malformed: ") as refused:
        read_json(tmp_path / "a.json", bounds)
    assert len(str(refused.value).splitlines()) == 1


def test_a_whole_pair_of_surrogates_is_a_letter() -> None:
    assert json_value(rb'["\ud83d\ude00"]') == ["\U0001f600"]


def test_depth_is_that_of_lists_and_mappings() -> None:
    value: object = 1
    for _ in range(DEPTH):
        value = [value]
    check_depth(value)
    with pytest.raises(ValueError, match="nested"):
        check_depth({"a": value})


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    """Counting each key took 28 s for 40,000 of them."""
    keys = ",".join(f'"{number}":0' for number in range(200_000))
    with pytest.raises(ValueError, match="the key '199999' stands twice"):
        json_value(f'{{{keys},"199999":0}}'.encode())
