"""Tables in CSV from anywhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

# Bytes of a table that is read whole: some three million rows of a path and a label.
TABLE_BYTES = 256 << 20


def csv_rows(lines: Iterable[str], *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table with the number of the line that each ends on, from 1.

    Args:
        lines: Lines of text, such as an open file.
        strict: Refuse quotes that are not as the format has them.

    Raises:
        ValueError: It is no CSV: a quote that is not closed, a cell of over 131,072 characters, or a
            NUL. A decoder's error for text that is not UTF-8 is one too.
    """
    rows = csv.reader(_without_nul(lines), strict=strict)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"line {rows.line_num}: {error}") from None
        yield rows.line_num, row


def csv_table(content: bytes) -> list[tuple[int, list[str]]]:
    """The rows of a table in UTF-8 that are not empty, each with the line that it ends on.

    Raises:
        ValueError: As `csv_rows`.
    """
    # Line breaks of Unicode, as splitlines knows them, are characters of a cell.
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    return [(line, row) for line, row in csv_rows(text) if row]


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise ValueError(f"line {number} holds a NUL, which no path or name can")
        yield line
