"""What a data spec holds beside the images that are used: everything left out, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from distill_cli.data.formats import suffix_of
from distill_cli.errors import counted

# unreadable: an image that cannot be read; suffix: a file that is no image by its name; place: an
# image where no class or split is; hidden: a file or folder of the system's, never looked into; copy:
# an image that --dedupe leaves out.
Kind = Literal["unreadable", "suffix", "place", "hidden", "copy"]
HIDDEN = ("hidden file", "hidden folder")
# Suffixes that are named one by one in a line; the rest are counted together.
NAMED = 4


@dataclass(frozen=True, order=True)
class Left:
    """Something that is left out.

    Attributes:
        where: Its path.
        kind: The kind of reason.
        reason: The reason, for people.
    """

    where: str
    kind: Kind
    reason: str

    def line(self, root: str) -> str:
        """Its line in skipped.txt: path below a folder or archive, tab, reason.

        It is one line whatever the path holds.
        """
        below = self.where.removeprefix(root).lstrip("/!")
        return f"{_one_line(below)}\t{_one_line(self.reason)}\n"


def _one_line(text: str) -> str:
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def of_kind(left: Iterable[Left], *kinds: Kind) -> list[Left]:
    """Those of some kinds."""
    return [one for one in left if one.kind in kinds]


def by_suffix(left: Sequence[Left]) -> str:
    """How many files there are of which suffix: `12 .xml, 3 .txt`, the most frequent first."""
    counts = Counter(suffix_of(one.where) or "without a suffix" for one in left)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ranked[NAMED:])
    shown = [f"{count:,} {suffix}" for suffix, count in ranked[:NAMED]]
    return ", ".join(shown + ([f"{rest:,} more"] if rest else []))


def by_reason(left: Sequence[Left], noun: str) -> str:
    """How many there are for which reason: `5 images in no class folder`."""
    counts = Counter(one.reason for one in left)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{counted(count, noun)} {reason}" for reason, count in ranked)


def left_in_words(left: Sequence[Left]) -> list[str]:
    """What is left out, a phrase for each kind."""
    parts = []
    if unreadable := of_kind(left, "unreadable"):
        parts.append(f"skipped {counted(len(unreadable), 'image')} that cannot be read")
    if copies := of_kind(left, "copy"):
        parts.append(f"left out {counted(len(copies), 'copy', 'copies')}")
    if others := of_kind(left, "suffix"):
        parts.append(f"{counted(len(others), 'other file')} ({by_suffix(others)})")
    if places := of_kind(left, "place"):
        parts.append(f"not used: {by_reason(places, 'image')}")
    if hidden := of_kind(left, "hidden"):
        counts = Counter(one.reason for one in hidden)
        # Those that a system makes have its own names.
        named = [
            counted(n, what) if what in HIDDEN else f"{n:,} {what}"
            for what, n in sorted(counts.items())
        ]
        parts.append(f"ignored: {', '.join(named)}")
    return parts
