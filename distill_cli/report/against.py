"""A group of runs against another one, in words."""

from __future__ import annotations

from itertools import product

from distill_cli.report.groups import NETWORK, Group
from distill_cli.report.same_images import same_test_images

# Ratios closer to one than this are said as equal: timings of one machine vary by as much.
NEAR = 1.1


def describe_against(group: Group, reference: Group) -> str:
    """`11× smaller, 4× faster, 3 errors more`: parameters, time of one image, mean test errors.

    Bytes too where weights are quantised: a network of as many parameters may be smaller by them.
    Ratios within 10 % are said as equal; errors of different test images are not compared.
    """
    size = _ratio(group, reference, "params", ("smaller", "larger", "as large"))
    # Two times of one network differ by noise alone.
    same = size == "as large" and all(
        group.runs[0].recipe.get(key) == reference.runs[0].recipe.get(key)
        for key in (*NETWORK, "size")
    )
    few = any(side.mean("packed_bytes") is not None for side in (group, reference))
    bytes_ = _times(group.bytes, reference.bytes, ("fewer bytes", "more bytes", "as many bytes"))
    parts = [
        size,
        bytes_ if few else "",
        "" if same else _ratio(group, reference, "latency_ms", ("faster", "slower", "as fast")),
        _errors(group, reference),
    ]
    return ", ".join(part for part in parts if part)


def _ratio(group: Group, reference: Group, figure: str, words: tuple[str, str, str]) -> str:
    return _times(group.mean(figure), reference.mean(figure), words)


def _times(mine: float | None, theirs: float | None, words: tuple[str, str, str]) -> str:
    """Empty where a side has no figure, or zero, which nothing can be a multiple of."""
    if not mine or not theirs:
        return ""
    less, more, equal = words
    ratio = max(mine, theirs) / min(mine, theirs)
    if ratio < NEAR:
        return equal
    shown = f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}".removesuffix(".0")
    return f"{shown}× {less if mine < theirs else more}"


def _errors(group: Group, reference: Group) -> str:
    mine, theirs = group.mean("test_errors"), reference.mean("test_errors")
    if mine is None or theirs is None:
        return ""
    if any(same_test_images(*pair) is False for pair in product(group.runs, reference.runs)):
        return "errors of other test images"
    shown = f"{abs(mine - theirs):.1f}".removesuffix(".0")
    if shown == "0":
        return "as many errors"
    return f"{shown} error{'' if shown == '1' else 's'} {'more' if mine > theirs else 'fewer'}"
