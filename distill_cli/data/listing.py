"""Large images are listed, not decoded: headers and content digests, then files read on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from distill_cli.counters import sample_key
from distill_cli.data.decode import Progress
from distill_cli.data.images import ImageFiles
from distill_cli.data.pictures import BAD_IMAGE, bad_image, is_grey
from distill_cli.data.remembered import Digests, Stat, stat_of
from distill_cli.data.source import Source, check_label
from distill_cli.data.workers import stream
from distill_cli.errors import ArtifactError

# Side of a view where images differ in size and none was asked for: ImageNet's.
DEFAULT_SIZE = 224
ROWS_A_TASK = 64
WORTH_WORKERS = 512

# Digest in hexadecimal, width, height, whether grey; whether it was decoded to the end.
Note = tuple[str, int, int, bool, bool]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """All splits of a dataset, as files.

    Attributes:
        files: By split.
        class_names: In label order.
        digests: Content digests of the train split's rows.
        skipped: Images left out because they cannot be read.
    """

    files: Mapping[str, ImageFiles]
    class_names: tuple[str, ...]
    digests: tuple[bytes, ...]
    skipped: int


def list_files(
    data: str,
    splits: Mapping[str, Source],
    *,
    size: int | None,
    skip_bad: bool,
    workers: int,
    progress: Progress,
) -> Listed:
    """Reads every file once for its digest and header; what did not change since is remembered.

    Pixels are decoded only under `skip_bad`, to find what must be left out; otherwise a damaged
    image is named when it is met.

    Args:
        data: Names the dataset in the memory of digests.
        splits: What to list.
        size: Side of the square views; None for the images' own where they agree, else 224.
        skip_bad: Leave out what cannot be read, and count it.
        workers: Processes, here and when views are made.
        progress: Called with (images done, images in all).

    Raises:
        ArtifactError: An image cannot be read, or a label is out of range.
    """
    known = Digests(data)
    total, done, bad = sum(len(source) for source in splits.values()), 0, 0
    kept: dict[str, dict[int, Note]] = {}
    for split, source in splits.items():
        kept[split] = {}
        for row, note in enumerate(_notes(source, known, skip_bad, workers)):
            done += 1
            progress(done, total)
            if note is None:
                bad += 1
            else:
                kept[split][row] = note
        if not kept[split]:
            raise ArtifactError(f"no image of the {split} split can be read")
    known.save()
    notes = [note for rows in kept.values() for note in rows.values()]
    view = (1 if all(grey for _, _, _, grey, _ in notes) else 3, *_sides(notes, size))
    return Listed(
        files={
            split: _files(splits[split], list(rows), view, workers) for split, rows in kept.items()
        },
        class_names=splits["train"].class_names,
        digests=tuple(bytes.fromhex(note[0]) for note in kept["train"].values()),
        skipped=bad,
    )


def _sides(notes: list[Note], size: int | None) -> tuple[int, int]:
    """Height and width of a view."""
    if size is not None:
        return size, size
    sizes = {(height, width) for _, width, height, _, _ in notes}
    return sizes.pop() if len(sizes) == 1 else (DEFAULT_SIZE, DEFAULT_SIZE)


def _files(source: Source, rows: list[int], view: tuple[int, int, int], workers: int) -> ImageFiles:
    ids = tuple(source.sample_id(row) for row in rows)
    return ImageFiles(
        source=source,
        row_N=torch.tensor(rows, dtype=torch.int64),
        size=view,
        workers=workers,
        label_N=torch.tensor([source.label(row) for row in rows], dtype=torch.int64),
        key_N=torch.tensor([sample_key(name) for name in ids], dtype=torch.int64),
        sample_ids=ids,
    )


def _notes(source: Source, known: Digests, skip_bad: bool, workers: int) -> Iterator[Note | None]:
    """What is known of each row, in order; None where it cannot be read."""
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
        if noted is not None and (noted[4] or not skip_bad):
            remembered[row] = (noted[0], noted[1], noted[2], noted[3], noted[4])
    unknown = [row for row in range(len(source)) if row not in remembered]
    tasks = [unknown[i : i + ROWS_A_TASK] for i in range(0, len(unknown), ROWS_A_TASK)]
    look = partial(_look, source, skip_bad=skip_bad)
    looked = stream(look, tasks, workers=workers if len(unknown) >= WORTH_WORKERS else 0)
    fresh = (note for notes in looked for note in notes)
    for row in range(len(source)):
        if row in remembered:
            yield remembered[row]
            continue
        note = next(fresh)
        if note is not None and row in stats:
            known.note(source.where(row), stats[row], list(note))
        yield note


def _look(source: Source, rows: list[int], *, skip_bad: bool) -> list[Note | None]:
    """Opens images; decodes them to the end where bad ones are to be left out."""
    notes: list[Note | None] = []
    for row in rows:
        try:
            image, digest = source.fetch(row)
            if skip_bad:
                image.load()
            notes.append((digest.hex(), *image.size, is_grey(image), skip_bad))
        except BAD_IMAGE as error:
            if not skip_bad:
                raise bad_image(source, row, error) from None
            notes.append(None)
    return notes
