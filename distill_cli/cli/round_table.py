"""The table of the rounds of a self-training, as a person reads it."""

from __future__ import annotations

from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import say
from distill_cli.report.rounds import SEEN, RoundTable, cells_of, columns_of

# How soon a column is left out where they are too wide, from the last; 0: never.
RANKS = (0, 6, 3, 0, 4, 2, 1, 0, 5)


def show_rounds(table: RoundTable) -> None:
    """A row for each round, on stderr; below, what a reader must know of the test figures."""
    headings = zip(columns_of(table), RANKS, strict=True)
    columns = [
        Column(heading=heading, right=number > 0, rank=rank)
        for number, (heading, rank) in enumerate(headings)
    ]
    show_table(columns, [cells_of(row) for row in table.rounds], "stderr")
    if table.transductive:
        say(SEEN)
