"""The page of an audit: pictures of samples that a person should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill_cli.errors import counted
from distill_cli.report.html import _render

HEADINGS = {
    "mislabelled": "Probably mislabelled",
    "duplicate": "There twice",
    "hard": "Hard, and rightly labelled",
}
NOTHING = {
    "mislabelled": "No label is doubted.",
    "duplicate": "No image is like another one.",
    "hard": "No sample is near another class.",
}
ABOUT = {
    "mislabelled": "Label → the likeliest other class, the most doubtful label first. Leave them out "
    "(--without audit.csv), or take the other class (--relabel mislabelled.csv).",
    "duplicate": "The left one is listed, the right one stays: one of test before one held out, before one to "
    "train on. Pairs across splits first, for what is learnt there is asked there.",
    "hard": "The judges agree with the label, and with the least margin. Do not leave these out: they are what is "
    "still to be learnt.",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """A sample on the page.

    Attributes:
        pictures: Its image, and that of its partner, as data URIs.
        title: Its labels.
        lines: What stands below.
    """

    pictures: tuple[str, ...]
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """The samples of a kind.

    Attributes:
        kind: A key of `HEADINGS`.
        total: How many there are.
        cards: The first of them.
    """

    kind: str
    total: int
    cards: Sequence[Card]


def audit_page(summary: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The page.

    Args:
        summary: The figures of audit.json; names of folders are shown as they are.
        sections: The samples.
    """
    return _render(
        "audit.html.j2",
        title=f"Audit of {summary['run']}",
        subtitle=f"{counted(summary['images'], 'image')}, {summary['labelled']:,} of them labelled",
        shown=[
            (
                HEADINGS[section.kind],
                f"{section.total:,}",
                f"{summary['held_out'][section.kind]:,} of them held out",
            )
            for section in sections
        ],
        judges=summary["judges"],
        in_sample=summary["in_sample"],
        pairs=summary["pairs"],
        in_test=summary["test_in_test"],
        sections=sections,
        headings=HEADINGS,
        about=ABOUT,
        nothing=NOTHING,
    )
