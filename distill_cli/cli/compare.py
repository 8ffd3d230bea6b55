"""`distill compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Json
from distill_cli.cli.run_arguments import by_seed, read_runs
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, result, result_json, say
from distill_cli.files import real_path
from distill_cli.report import table
from distill_cli.report.groups import Group, group_runs

app = VerbApp()

# Columns in the order in which a narrow terminal keeps them.
IMPORTANT = (
    *("label", "errors", "top1", "map", "f1", "seeds"),
    *("params", "latency", "nll", "ece", "size"),
)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, and folders of several seeds.")],
    json: Json = False,
) -> None:
    """Runs side by side, each against the first; runs that differ in seed only are one row.

    Example: distill compare runs/a runs/student-1
    """
    # The same folder twice is one run, not two seeds.
    expanded, notes = by_seed(runs)
    distinct = {real_path(run): run for run in expanded}
    groups = group_runs(read_runs(distinct.values()))
    for note in notes:
        say(f"[bold]note:[/bold] {escape(note)}")
    if json:
        result_json(table.to_json(groups))
        return
    show(groups)


def show(groups: Sequence[Group]) -> None:
    """Table and sentences on stdout; on stderr notes of doubt, and the columns without room."""
    rows = table.rows(groups)
    hidden = () if table.has_label_figures(rows) else table.LABEL_FIGURES
    headings = {key: name for key, name in table.COLUMNS.items() if key not in hidden}
    columns = [
        # The label of a row and its errors are always shown.
        Column(heading=name, rank=max(0, IMPORTANT.index(key) - 1), right=key != "label")
        for key, name in headings.items()
    ]
    cells = [[str(getattr(row, key)) for key in headings] for row in rows]
    left_out = show_table(columns, cells)
    if sentences := [
        f"  {escape(row.label)}: {escape(row.against)}." for row in rows if row.against
    ]:
        result(f"\nAgainst {escape(rows[0].label)}:")
    for sentence in sentences:
        result(sentence)
    if left_out:
        say(f"[dim]In a wider terminal, and with --json: {', '.join(left_out)}[/dim]")
    for note in table.notes(groups):
        say(f"[bold]note:[/bold] {escape(note)}")
