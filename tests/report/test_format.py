"""Numbers and names as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.report import format as words


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (810, "810"),
        (999, "999"),
        (1_000, "1 K"),
        (14_300, "14.3 K"),
        (999_949, "1 M"),
        (1_200_000, "1.2 M"),
        (2_395_210, "2.4 M"),
        (61_100_840, "61.1 M"),
        (86_567_656, "86.6 M"),
        (1_500_000_000, "1.5 G"),
        (7e15, "7000 T"),
    ],
)
def test_count(number: float, said: str) -> None:
    assert words.count(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (810, "810 B"),
        (5_160, "5.2 KB"),
        (57_300, "57 KB"),
        (319_000, "319 KB"),
        (999_999, "1 MB"),
        (1_204_000, "1.2 MB"),
        (346_000_000, "346 MB"),
    ],
)
def test_size(number: float, said: str) -> None:
    assert words.size(number) == said


@given(st.integers(0, 10**13))
def test_count_never_needs_an_exponent_and_is_close(number: int) -> None:
    text = words.count(number)
    shown, _, unit = text.partition(" ")
    value = float(shown) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[unit]
    assert "e" not in text
    assert value == pytest.approx(number, rel=0.006)
    assert float(shown) < 1000


@pytest.mark.parametrize(
    ("number", "said"),
    [(1.24, "+1.2"), (-14.1, "−14.1"), (0, "0"), (-0.04, "−0.04"), (0.003, "+0.003"), (-0.0, "0")],
)
def test_signed(number: float, said: str) -> None:
    assert words.signed(number) == said


def test_plus_minus() -> None:
    assert words.plus_minus(8.44, 1.06, decimals=1) == "8.4 ± 1.1"
    assert words.plus_minus(0.9766, 0.0012, decimals=2, scale=100) == "97.66 ± 0.12"
    assert words.plus_minus(12, None, decimals=0) == "12"
    assert words.plus_minus(None, None, decimals=0) == words.NOTHING


@pytest.mark.parametrize(
    ("number", "said"), [(0.0544, "0.054 ms"), (1.23, "1.2 ms"), (85.4, "85 ms"), (None, "–")]
)
def test_milliseconds(number: float | None, said: str) -> None:
    assert words.milliseconds(number) == said


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/someone/runs/a", "a"),
        ("/home/someone/runs/a/", "a"),
        ("C:\\Users\\someone\\runs\\a", "a"),
        ("../somewhere/a", "a"),
        ("~/runs/a", "a"),
        ("runs/a", "runs/a"),
        ("torch/mnist", "torch/mnist"),
        ("timm/resnet18", "timm/resnet18"),
        ("digits", "digits"),
        ("crop:4", "crop:4"),
    ],
)
def test_short_name(path: str, name: str) -> None:
    assert words.short_name(path) == name


def test_plain() -> None:
    assert words.plain(True) == "yes"
    assert words.plain(0.00005) == "5e-05"
    assert words.plain(["/x/a", "/x/b"]) == "a, b"
    assert words.plain({"x": {"y": "/home/me/z"}}) == "x=y=z"
    assert words.plain(None) == "–"
