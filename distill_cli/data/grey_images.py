"""Whether views are grey: by the images of the train split, whatever few others among them are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from distill_cli.counters import few_of, sample_key
from distill_cli.data.digest_memory import UNSEEN, Digests, Note
from distill_cli.data.disk_cache import stat_of
from distill_cli.data.pillow_io import BAD_IMAGE, is_majority, to_pixels, without_colour
from distill_cli.data.rules import DataRules
from distill_cli.data.source import Source
from distill_cli.data.workers import stream

# Training images whose pixels tell grey from colour where headers do not, at most.
LOOKED_AT = 1024
ROWS_A_TASK = 64
# Sides to which JPEG may reduce an image when only its colours are asked for.
THUMBNAIL = (64, 64)


def channels_of(rules: DataRules, notes: Sequence[Note], grey: tuple[int, int]) -> int:
    """Channels of the views: those of the rules, else by the images."""
    if rules.channels is not None:
        return rules.channels
    if rules.version == "0.3.0":
        return 1 if all(note.grey for note in notes) else 3
    return 1 if is_majority(*grey) else 3


def count_grey(
    source: Source, notes: dict[int, Note], known: Digests, rules: DataRules, workers: int
) -> tuple[int, int]:
    """How many training images are grey, and of how many that were looked at.

    By headers where they decide; else by pixels, until more than half of `LOOKED_AT` images, drawn
    by a hash of their sample ids, are one or the other. A damaged one is what its header says.

    Returns:
        The two numbers; 0 and 0 where nobody asks, since the channels are given.
    """
    seen = [row for row, note in notes.items() if note != UNSEEN]
    stored = sum(notes[row].grey for row in seen)
    if rules.channels is not None:
        return 0, 0
    if rules.version == "0.3.0" or is_majority(stored, len(seen)):
        return stored, len(seen)
    key_N = torch.tensor([sample_key(source.sample_id(row)) for row in seen], dtype=torch.int64)
    drawn = [seen[position] for position in few_of(key_N, LOOKED_AT).tolist()]
    answers = {row: notes[row].grey or notes[row].grey_pixels for row in drawn}
    unknown = [row for row, answer in answers.items() if answer is None]
    tasks = [unknown[i : i + ROWS_A_TASK] for i in range(0, len(unknown), ROWS_A_TASK)]
    looked = stream(partial(_are_grey, source), tasks, workers=workers if len(tasks) > 1 else 0)
    for task in tasks:
        grey, colour = (
            sum(answer is kind for answer in answers.values()) for kind in (True, False)
        )
        if is_majority(grey, len(drawn)) or 2 * colour >= len(drawn):
            break
        answers.update(zip(task, next(looked), strict=True))
    for row in unknown:
        notes[row] = notes[row]._replace(grey_pixels=answers[row])
        file = None if answers[row] is None else source.file(row)
        if file is not None and str(file) == source.where(row):
            known.note(source.where(row), stat_of(file), list(notes[row]))
    known_answers = [answer for answer in answers.values() if answer is not None]
    return sum(known_answers), len(known_answers)


def _are_grey(source: Source, rows: list[int]) -> list[bool]:
    """Whether the pixels of images are grey; reduced where their format does that quickly."""
    answers = []
    for row in rows:
        try:
            image = source.image(row)
            image.draft(None, THUMBNAIL)
            answers.append(without_colour(to_pixels(image, None)).ndim == 2)
        except BAD_IMAGE:
            answers.append(False)
    return answers
