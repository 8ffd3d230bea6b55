"""`distill compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from distill_cli.cli.options import Json
from distill_cli.cli.runs import read_runs
from distill_cli.cli.terminal import console, result_json, say
from distill_cli.report import table
from distill_cli.report.groups import Group, group_runs

app = typer.Typer(add_completion=False)

UNFOLDED = 400


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")], json: Json = False
) -> None:
    """Runs side by side, each against the first; runs that differ in seed only are one row.

    Example: distill compare runs/a runs/student-1
    """
    # The same folder twice is one run, not two seeds.
    distinct = {run.resolve(): run for run in runs}
    groups = group_runs(read_runs(distinct.values()))
    if json:
        result_json(table.to_json(groups))
        return
    show(groups)


def show(groups: Sequence[Group]) -> None:
    """The table on stdout, what makes it doubtful on stderr."""
    from rich.table import Table

    screen = console("stdout")
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    rows = table.rows(groups)
    hidden = () if table.said_of_labels(rows) else table.OF_LABELS
    columns = {key: name for key, name in table.COLUMNS.items() if key not in hidden}
    for key, name in columns.items():
        drawn.add_column(name, justify="left" if key in ("label", "against") else "right")
    for row in rows:
        drawn.add_row(*(escape(str(getattr(row, key))) for key in columns))
    if not screen.is_terminal:
        # A file has no width: nothing is folded there.
        screen.width = UNFOLDED
    screen.print(drawn)
    for note in table.notes(groups):
        say(f"[bold]note:[/bold] {escape(note)}")
