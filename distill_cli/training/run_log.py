"""The logs of a run, a row an epoch, cut back to the checkpoint when it resumes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.files import append, cut
from distill_cli.readers.json_values import json_value
from distill_cli.training.state import State
from distill_cli.types import PSEUDO_LABELS, PseudoLabelCounts


def epoch_row(state: State, figures: Mapping[str, float], *, lr: float) -> dict[str, Any]:
    """The row of metrics.jsonl and summary.csv for an epoch that has just ended.

    Args:
        state: State of the loop before the next epoch.
        figures: Held-out figures, those of objectives, and its speed.
        lr: The learning rate at its end.
    """
    return {
        "epoch": state.epoch + 1,
        "lr": lr,
        **{f"train_{name}": value for name, value in state.means().items()},
        **figures,
        "seconds": state.epoch_seconds,
    }


class RunLog:
    """metrics.jsonl, an event a line, and summary.csv, a row an epoch: append-only.

    Both are cut back to the checkpoint's lengths on resume, so that no row stands twice;
    pseudo-labels.jsonl, which is there where labels are made up, to the epochs that it has finished: its
    length tells of hidden labels, of which a checkpoint between two epochs has nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.events = folder / "metrics.jsonl"
        self.summary = folder / "summary.csv"
        self.pseudo_labels = folder / PSEUDO_LABELS

    def lengths(self) -> tuple[int, int]:
        """Bytes of both files now: what a checkpoint remembers."""
        return _size(self.events), _size(self.summary)

    def cut_back(self, state: State) -> None:
        """Forgets what came after a checkpoint, which has this state."""
        for path, length in zip((self.events, self.summary), state.log_lengths, strict=True):
            cut(path, length)
        if self.pseudo_labels.exists():
            cut(self.pseudo_labels, _length_of(self.pseudo_labels.read_bytes(), state.epoch))

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """Appends one line."""
        append(self.events, json.dumps({"event": kind, **values}, allow_nan=False) + "\n")

    def epoch(
        self, state: State, figures: Mapping[str, float], lr: float, class_names: Sequence[str]
    ) -> dict[str, Any]:
        """Appends an epoch that has just ended to all files, and returns its row.

        In the table, whose cells are numbers, yes is 1.

        Args:
            state: As `epoch_row` takes it, like the next two.
            figures: Held-out figures, those of objectives, and its speed.
            lr: The learning rate at its end.
            class_names: Names of the classes that labels are made up of.
        """
        self.event("epoch", row := epoch_row(state, figures, lr=lr))
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        if _size(self.summary) == 0:
            writer.writeheader()
        cells = {key: int(cell) if isinstance(cell, bool) else cell for key, cell in row.items()}
        writer.writerow(cells)
        append(self.summary, text.getvalue())
        counts = state.pseudo_labels.epoch(state.epoch + 1, class_names)
        if counts is not None:
            append(self.pseudo_labels, json.dumps(counts.to_json(), allow_nan=False) + "\n")
        return row


def _length_of(lines: bytes, epochs: int) -> int:
    """Bytes of the lines of the first epochs, as far as they are whole."""
    length = 0
    for line in lines.splitlines(keepends=True):
        try:
            counts = PseudoLabelCounts.from_json(json_value(line))
        except ValueError:
            break
        if counts.epoch > epochs or not line.endswith(b"\n"):
            break
        length += len(line)
    return length


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
