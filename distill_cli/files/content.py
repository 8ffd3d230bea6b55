"""Texts and JSON, written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distill_cli.files.writing import write_bytes


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: keys in the order given, NaN refused.

    The indent is two spaces, but plain lists and the items of lists stand on one line each, to keep
    a thousand class names or shards short.
    """
    write_text(path, _indented(value, "") + "\n")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, which `readers.csv_rows` reads back cell by cell, whatever text they hold."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    # Before Python 3.13 a carriage return alone gets no quotes, and would end the row.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return text.getvalue()


def _indented(value: Any, before: str) -> str:
    inner = f"{before}  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{_one_line(str(key))}: {_indented(value[key], inner)}" for key in value]
        return "{\n" + ",\n".join(items) + f"\n{before}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + _one_line(item) for item in value) + f"\n{before}]"
    return _one_line(value)


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def sha256(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
