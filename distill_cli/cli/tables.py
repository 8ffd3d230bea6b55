"""Tables: as many columns as a terminal is wide, all of them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console

from distill_cli.cli.terminal import console, escape
from distill_cli.errors import visible

GAP = 2


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes:
        heading: Its first line.
        rank: Columns of higher rank are left out first in a narrow terminal, those of 0 never.
        right: Whether its text stands to the right, as numbers do.
        folds: Least width of its lines where the table is too wide and its text takes several;
            0 for a column whose text takes one.
    """

    heading: str
    rank: int = 0
    right: bool = False
    folds: int = 0


def fitting(widths: Sequence[int], ranks: Sequence[int], room: int) -> list[int]:
    """Indices of the pieces that fit side by side, a gap between; lower ranks first, 0 always."""
    kept: list[int] = []
    for index in sorted(range(len(widths)), key=lambda index: ranks[index]):
        taken = sum(widths[other] for other in kept) + GAP * len(kept)
        if ranks[index] == 0 or taken + widths[index] <= room:
            kept.append(index)
    return sorted(kept)


def show_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], stream: str = "stdout"
) -> list[str]:
    """A table on stdout, or on stderr beside a result.

    Returns:
        The headings that a terminal had no room for.
    """
    screen = console(stream)
    rows = [list(map(visible, row)) for row in rows]
    cells = [[column.heading, *(row[i] for row in rows)] for i, column in enumerate(columns)]
    widths = [max(map(cell_len, column_cells)) for column_cells in cells]
    if not screen.is_terminal:
        # A file has no width: nothing is folded there, and no line ends in blanks.
        for line in zip(*cells, strict=True):
            screen.print(_plain(line, columns, widths), markup=False)
        return []
    least = [
        min(width, column.folds or width) for column, width in zip(columns, widths, strict=True)
    ]
    kept = fitting(least, [column.rank for column in columns], screen.width)
    room = screen.width - GAP * (len(kept) - 1)
    taken = _squeezed([widths[i] for i in kept], [least[i] for i in kept], room)
    _draw(screen, [columns[i] for i in kept], taken, [[row[i] for i in kept] for row in rows])
    return [column.heading for i, column in enumerate(columns) if i not in kept]


def _squeezed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The columns' widths in this room: the widest that folds has what the others leave.

    Where none folds, the first column does: what a row is about may be long.
    """
    if sum(widths) <= room:
        return list(widths)
    taken = list(least)
    widest = max(range(len(widths)), key=lambda i: widths[i] - least[i])
    folds = widths[widest] > least[widest]
    taken[widest if folds else 0] += room - sum(taken)
    return [max(1, width) for width in taken]


def _plain(line: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    texts = []
    for text, column, width in zip(line, columns, widths, strict=True):
        blank = " " * (width - cell_len(text))
        texts.append(blank + text if column.right else text + blank)
    return (" " * GAP).join(texts).rstrip()


def _draw(
    screen: Console,
    columns: Sequence[Column],
    widths: Sequence[int],
    rows: Sequence[Sequence[str]],
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.heading, justify=justify, width=width, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    screen.print(table)
