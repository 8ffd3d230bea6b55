"""Images of equal content: found before a split, counted between splits, and left out by --dedupe.

Equal are files of the same bytes, and items of the same mode and pixels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_cli.data.digest_memory import Digests
from distill_cli.data.disk_cache import Stat, stat_of
from distill_cli.data.source import FileSource, Source, digest
from distill_cli.errors import counted

# The digest of each row's content; None where it was not read.
Contents = Sequence[bytes | None]
Labels = Sequence[tuple[int, ...]]


def contents_of(source: Source, *, glance: bool = False) -> list[bytes | None]:
    """The digest of each row that may have a copy; None where none has its size, or it is gone.

    The digests of files are remembered, so that the next command reads none of them again; but not by
    a glance, which writes nothing.
    """
    if not isinstance(source, FileSource):
        return [source.fetch(row)[1] for row in range(len(source))]
    numbers = [number for number, _, _ in source.rows]
    sizes = [_size(source, number) for number in numbers]
    frequent = Counter(sizes)
    alone = Path(source.files.where).is_dir()
    known = Digests(f"{source.files.where}#contents")
    contents: list[bytes | None] = []
    for row, (number, size) in enumerate(zip(numbers, sizes, strict=True)):
        if size is None or frequent[size] < 2:
            contents.append(None)
            continue
        stat = stat_of(source.file(row)) if alone else None
        contents.append(_content(source, row, number, stat, known))
    if not glance:
        known.save()
    return contents


def _size(source: FileSource, number: int) -> int | None:
    try:
        return source.files.size(number)
    except OSError:
        return None


def _content(
    source: FileSource, row: int, number: int, stat: Stat | None, known: Digests
) -> bytes | None:
    """The digest of a file, remembered where it has a file of its own."""
    noted = None if stat is None else known.content(source.where(row), stat)
    if noted is not None:
        return noted
    try:
        content = digest(source.files.read(number))
    except OSError:
        # Whoever decodes it names it, or leaves it out.
        return None
    if stat is not None:
        known.note(source.where(row), stat, content.hex())
    return content


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Numbers of images that occur again.

    Attributes:
        between: By (split, other): images of the split whose content is in the other too.
        classes: Images whose content has other labels elsewhere.
    """

    between: Mapping[tuple[str, str], int]
    classes: int

    def text(self) -> str:
        """`3 of test in train, 2 in two classes`; empty where there are none."""
        pairs = [
            f"{count:,} of {split} in {other}" for (split, other), count in self.between.items()
        ]
        across = [f"{counted(self.classes, 'image')} in several classes"] if self.classes else []
        return ", ".join(pairs + across)


def count_copies(parts: Mapping[str, tuple[Contents, Labels]]) -> Copies:
    """Counts equal images between any two parts of a dataset, and across classes.

    Args:
        parts: By name, the digest and the labels of each image; earlier ones are copied from.
    """
    known = {name: set(filter(None, contents)) for name, (contents, _) in parts.items()}
    names = list(parts)
    between: dict[tuple[str, str], int] = {}
    for index, name in enumerate(names):
        for other in names[:index]:
            count = sum(content in known[other] for content in parts[name][0] if content)
            if count:
                between[name, other] = count
    labels: dict[bytes, set[tuple[int, ...]]] = defaultdict(set)
    everything = [pair for part in parts.values() for pair in zip(*part, strict=True)]
    for content, label in everything:
        if content:
            labels[content].add(label)
    classes = sum(
        bool(content) and _contradict(labels[content]) for content, _ in everything if content
    )
    return Copies(between=between, classes=classes)


def _contradict(labels: Iterable[tuple[int, ...]]) -> bool:
    """Whether labels of equal images are of two classes: no label contradicts none."""
    return len({label for label in labels if label}) > 1


def superfluous(
    parts: Mapping[str, tuple[Contents, Labels]], test: Contents
) -> dict[str, dict[int, str]]:
    """The rows that --dedupe leaves out of each part, with the reason.

    What is in test goes; of equal images of one class the first stays, a labelled one if there is
    any; of equal images in several classes none does.

    Args:
        parts: Digests and labels of train, and of val where it is a split of its own.
        test: Digests of test, of which nothing is left out.
    """
    tested = set(filter(None, test))
    members: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for name, (contents, _) in parts.items():
        for row, content in enumerate(contents):
            if content:
                members[content].append((name, row))
    left: dict[str, dict[int, str]] = {name: {} for name in parts}
    for content, rows in members.items():
        labels = [parts[name][1][row] for name, row in rows]
        if content in tested:
            gone, reason = rows, "a copy of an image of test"
        elif _contradict(labels):
            gone, reason = rows, "equal images in several classes"
        else:
            first = next((i for i, label in enumerate(labels) if label), 0)
            gone, reason = [*rows[:first], *rows[first + 1 :]], "a copy of another image"
        for name, row in gone:
            left[name][row] = reason
    return left
