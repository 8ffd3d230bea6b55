"""The table of the rounds of a self-training, as a person reads it."""

from __future__ import annotations

from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import say
from distill_cli.report.format import NOTHING, exactly, share
from distill_cli.report.rounds import Round, RoundTable


def show_rounds(table: RoundTable) -> None:
    """A row for each round, on stderr; below, what a reader must know of the test figures."""
    columns = [
        Column(heading="round"),
        Column(heading="labels", right=True, rank=6),
        Column(heading=f"p ≥ {exactly(table.threshold)}", right=True, rank=3),
        Column(heading="chosen", right=True),
        Column(heading="of a class", right=True, rank=4),
        Column(heading="right", right=True, rank=2),
        Column(heading="held out", right=True, rank=1),
        Column(heading="test errors", right=True),
        Column(heading="accuracy", right=True, rank=5),
    ]
    show_table(columns, [_cells(row) for row in table.rounds], "stderr")
    if table.transductive:
        say(
            "transductive: the images that got labels are those of test; from round 2 on its errors are of images "
            "that were seen, without their labels"
        )


def _cells(row: Round) -> list[str]:
    above = of_class = NOTHING
    if row.unlabelled and row.above is not None and row.classes:
        above = share(row.above / row.unlabelled, decimals=1)
        of_class = f"{min(row.classes.values()):,}–{max(row.classes.values()):,}"
    chosen = NOTHING if row.chosen is None else f"{row.chosen:,}"
    errors = NOTHING if row.test_errors is None else f"{row.test_errors:,}"
    return [
        *(str(row.round), f"{row.labelled:,}", above, chosen, of_class),
        *(share(row.accuracy), share(row.val_top1), errors, share(row.test_top1)),
    ]
