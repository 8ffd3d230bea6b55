"""Lists large images by header and content digest; their pixels are read on demand.

A dry run lists small images too: it needs their number, labels and sizes, and no pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from distill_cli.counters import sample_key
from distill_cli.data.decode import Decoded
from distill_cli.data.digest_memory import UNSEEN, Digests, Note
from distill_cli.data.disk_cache import Stat, stat_of
from distill_cli.data.grey_images import channels_of, count_grey
from distill_cli.data.inventory import Left, of_kind
from distill_cli.data.pillow_io import (
    BAD_IMAGE,
    Size,
    bad_image,
    is_grey,
    reason_of,
    sides,
)
from distill_cli.data.rules import TODAY, DataRules
from distill_cli.data.source import Source, check_label
from distill_cli.data.split_images import ImageFiles, ImageTable
from distill_cli.data.upright import shown_size
from distill_cli.data.workers import stream
from distill_cli.errors import ArtifactError
from distill_cli.types import EARLIER_FRAMING, Count, Framing, Orientation

# Side of a view where images differ in size and none was asked for: ImageNet's.
DEFAULT_SIZE = 224
ROWS_A_TASK = 64
WORTH_WORKERS = 512
# Images of all splits that a dry run opens at most, to know their sizes and contents.
GLANCED = 2048


@dataclass(frozen=True, kw_only=True)
class Listed:
    """All splits of a dataset, as files.

    Attributes:
        files: Image files by split.
        class_names: Names of the classes in label order.
        digests: Content digests of each split's rows; empty where an image was not opened, or may
            have to be left out.
        left: Files and folders that are not used, images that cannot be read among them.
        grey: How many training images are grey, and of how many that were looked at.
        sizes_differ: Whether images are of several sizes.
    """

    files: Mapping[str, ImageFiles]
    class_names: tuple[str, ...]
    digests: Mapping[str, tuple[bytes, ...]]
    left: tuple[Left, ...]
    grey: tuple[int, int]
    sizes_differ: bool

    @property
    def skipped(self) -> int:
        """Number of images left out because they cannot be read."""
        return len(of_kind(self.left, "unreadable"))

    def as_tables(self) -> Decoded:
        """The tables that decoding would give, without pixels."""
        tables = {
            split: ImageTable(
                images_NCHW=torch.empty(
                    len(files.sample_ids), *files.size, dtype=torch.uint8, device="meta"
                ),
                label_N=files.label_N,
                key_N=files.key_N,
                sample_ids=files.sample_ids,
            )
            for split, files in self.files.items()
        }
        return Decoded(
            tables=tables,
            class_names=self.class_names,
            digests=self.digests,
            left=self.left,
            grey=self.grey,
        )


def list_files(
    data: str,
    splits: Mapping[str, Source],
    *,
    size: Size | None,
    skip_bad: bool,
    workers: int,
    progress: Count,
    rules: DataRules = TODAY,
    framing: Framing = EARLIER_FRAMING,
    glance: bool = False,
) -> Listed:
    """Reads every file once for its digest and header, and remembers them for unchanged files.

    Pixels are decoded under `skip_bad`, to find the images to leave out, and of at most `LOOKED_AT`
    training images that may be grey though they are stored in colour; otherwise a damaged image is
    named when a view needs it. A glance opens at most `GLANCED` images that are not remembered, and
    writes nothing.

    Args:
        data: Name of the dataset in the memory of digests.
        splits: Sources by split.
        size: Side of the square views, or height and width; None for the size of the images where it
            is one, else 224.
        skip_bad: Leave out and count images that cannot be read.
        workers: Processes that read files, now and when views are made.
        progress: Called with (images done, images in all).
        rules: Rules by which the images have one channel or three.
        framing: How whole images become views.
        glance: List for a dry run.

    Raises:
        ArtifactError: An image cannot be read, or a label is out of range.
    """
    # Sizes matter where none is given; else what is known of stored images will do.
    orientation = framing.orientation if size is None else "stored"
    known = Digests(data, "" if orientation == "stored" else f" {orientation}")
    shown = _glanced(splits) if glance else None
    total, done = sum(len(source) for source in splits.values()), 0
    kept: dict[str, dict[int, Note]] = {}
    left: list[Left] = []
    for split, source in splits.items():
        kept[split] = {}
        rows = None if shown is None else shown[split]
        for row, note in enumerate(_notes(source, known, skip_bad, workers, rows, orientation)):
            done += 1
            progress(done, total)
            if isinstance(note, str):
                left.append(Left(source.where(row), "unreadable", note))
            else:
                kept[split][row] = note
        if not kept[split]:
            raise ArtifactError(f"no image of the {split} split can be read")
    readers = 0 if glance else workers
    grey = count_grey(splits["train"], kept["train"], known, rules, readers)
    if not glance:
        known.save()
    notes = [note for rows in kept.values() for note in rows.values() if note != UNSEEN]
    view = (channels_of(rules, notes, grey), *_sides(notes, size))
    digests = {
        split: tuple(bytes.fromhex(note.digest) for note in rows.values())
        for split, rows in kept.items()
    }
    sure = all(
        note.digest and (note.decoded or not skip_bad)
        for rows in kept.values()
        for note in rows.values()
    )
    return Listed(
        files={
            split: _files(splits[split], list(rows), view, workers, framing)
            for split, rows in kept.items()
        },
        class_names=splits["train"].class_names,
        digests=digests if sure else {},
        left=tuple(left),
        grey=grey,
        sizes_differ=len({(note.height, note.width) for note in notes}) > 1,
    )


def _glanced(splits: Mapping[str, Source]) -> dict[str, set[int]]:
    """The rows of each split that a glance opens: `GLANCED` in all, whose sample ids hash lowest."""
    ranked = sorted(
        (sample_key(source.sample_id(row)), split, row)
        for split, source in splits.items()
        for row in range(len(source))
    )
    shown: dict[str, set[int]] = {split: set() for split in splits}
    for _, split, row in ranked[:GLANCED]:
        shown[split].add(row)
    return shown


def _sides(notes: list[Note], size: Size | None) -> tuple[int, int]:
    """Height and width of a view."""
    if size is not None:
        return sides(size)
    sizes = {(note.height, note.width) for note in notes}
    return sizes.pop() if len(sizes) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE)


def _files(
    source: Source, rows: list[int], view: tuple[int, int, int], workers: int, framing: Framing
) -> ImageFiles:
    ids = tuple(source.sample_id(row) for row in rows)
    return ImageFiles(
        source=source,
        row_N=torch.tensor(rows, dtype=torch.int64),
        size=view,
        workers=workers,
        label_N=torch.tensor([source.label(row) for row in rows], dtype=torch.int64),
        key_N=torch.tensor([sample_key(name) for name in ids], dtype=torch.int64),
        sample_ids=ids,
        framing=framing,
    )


def _notes(
    source: Source,
    known: Digests,
    skip_bad: bool,
    workers: int,
    glanced: set[int] | None,
    orientation: Orientation,
) -> Iterator[Note | str]:
    """The note of each row, in order; where the image cannot be read, the reason.

    Args:
        source: The split.
        known: The memory of digests.
        skip_bad: Leave out images that cannot be read.
        workers: Processes that read.
        glanced: Rows that a glance may open, which decodes none; None to open and decode any.
        orientation: The way up in which width and height are noted.
    """
    decoded = skip_bad and glanced is None
    remembered: dict[int, Note] = {}
    stats: dict[int, Stat] = {}
    archives: dict[str, Stat] = {}
    for row in range(len(source)):
        check_label(source, row)
        file = source.file(row)
        if file is None:
            continue
        name = str(file)
        archive = name != source.where(row)
        if archive and name not in archives:
            archives[name] = stat_of(file)
        stats[row] = archives[name] if archive else stat_of(file)
        noted = known.get(source.where(row), stats[row])
        if noted is not None and (noted.decoded or not decoded):
            remembered[row] = noted
    unseen = set() if glanced is None else set(range(len(source))) - glanced - remembered.keys()
    remembered |= dict.fromkeys(unseen, UNSEEN)
    unknown = [row for row in range(len(source)) if row not in remembered]
    tasks = [unknown[i : i + ROWS_A_TASK] for i in range(0, len(unknown), ROWS_A_TASK)]
    look = partial(_look, source, skip_bad=skip_bad, decoded=decoded, orientation=orientation)
    many = glanced is None and len(unknown) >= WORTH_WORKERS
    looked = stream(look, tasks, workers=workers if many else 0)
    fresh = (note for notes in looked for note in notes)
    for row in range(len(source)):
        if row in remembered:
            yield remembered[row]
            continue
        note = next(fresh)
        if not isinstance(note, str) and row in stats:
            known.note(source.where(row), stats[row], list(note))
        yield note


def _look(
    source: Source, rows: list[int], *, skip_bad: bool, decoded: bool, orientation: Orientation
) -> list[Note | str]:
    """Opens images; decodes them to the end where that is asked for."""
    notes: list[Note | str] = []
    for row in rows:
        try:
            image, digest = source.fetch(row)
            width, height = shown_size(image, orientation)
            if decoded:
                image.load()
            notes.append(Note(digest.hex(), width, height, is_grey(image), decoded))
        except BAD_IMAGE as error:
            if not skip_bad:
                raise bad_image(source, row, error) from None
            notes.append(reason_of(error))
    return notes
