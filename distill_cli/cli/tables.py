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
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    stream: str = "stdout",
    *,
    blocks: bool = False,
) -> list[str]:
    """A table on stdout, or on stderr beside a result.

    Args:
        columns: The columns, the first one names the rows.
        rows: Their cells.
        stream: `stdout` or `stderr`.
        blocks: Show a block of lines for each row where the columns of rank 0 do not fit.

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
    ranks = [column.rank for column in columns]
    needed = [width for width, rank in zip(least, ranks, strict=True) if rank == 0]
    if blocks and sum(needed) + GAP * (len(needed) - 1) > screen.width:
        kept = [i for i, rank in enumerate(ranks) if rank <= 1]
        _draw_blocks(screen, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows])
        return [column.heading for i, column in enumerate(columns) if i not in kept]
    kept = fitting(least, ranks, screen.width)
    room = screen.width - GAP * (len(kept) - 1)
    taken = _squeezed([widths[i] for i in kept], [least[i] for i in kept], room)
    _draw(screen, [columns[i] for i in kept], taken, [[row[i] for i in kept] for row in rows])
    return [column.heading for i, column in enumerate(columns) if i not in kept]


def _squeezed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The columns' widths in this room: those that fold share what the others leave.

    One that wants little has all of it before one that wants more. Where none folds, the first
    column does: what a row is about may be long.
    """
    if sum(widths) <= room:
        return list(widths)
    taken = list(least)
    wanted = [width - smallest for width, smallest in zip(widths, least, strict=True)]
    if not any(wanted) or sum(least) > room:
        taken[wanted.index(max(wanted))] += room - sum(taken)
        return [max(1, width) for width in taken]
    for i in sorted(range(len(widths)), key=wanted.__getitem__):
        taken[i] += min(wanted[i], room - sum(taken))
    return taken


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


def _draw_blocks(screen: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """The first cell of each row above the others, each of which follows its heading."""
    from rich.table import Table

    for number, (name, *cells) in enumerate(rows):
        screen.print(
            f"[bold]{escape(name)}[/bold]" if number == 0 else f"\n[bold]{escape(name)}[/bold]"
        )
        block = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
        block.add_column(style="dim", no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(columns[1:], cells, strict=True):
            block.add_row(f"  {column.heading}", escape(cell))
        screen.print(block)
