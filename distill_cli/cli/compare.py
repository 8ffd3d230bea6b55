"""`distill compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Json
from distill_cli.cli.run_arguments import finished_runs
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, result, result_json, say
from distill_cli.files import named_file, write_text
from distill_cli.report import table
from distill_cli.report.baseline import Judged, judged
from distill_cli.report.groups import Group, group_runs
from distill_cli.report.pareto import pareto
from distill_cli.report.row import COLUMNS, has_few_bits, hidden
from distill_cli.report.table import Comparison

app = VerbApp()

# Columns in the order in which a narrow terminal keeps them, the first ones whatever its width: a
# terminal that is too narrow for those shows a block of lines for each row.
NEEDED = ("runs", "errors", "top1", "held_out", "seeds")
IMPORTANT = (
    *(*NEEDED, "divergence", "images", "label", "map", "f1", "bits", "packed"),
    *("params", "latency", "nll", "ece", "size"),
)
# The least widths of columns whose text may take several lines.
FOLDS = {"runs": 8, "label": 14}


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, folders of several seeds, and RUN/stages.")
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots, too.")
    ] = None,
    json: Json = False,
) -> None:
    """Runs side by side, the best first, and whether distillation helped.

    Runs that differ in their seed only are one row; what each row is against the first run that is
    named stands below. A network that learnt from labels alone is the baseline of every run of the
    same network.

    Example: distill compare runs/*
    """
    target = None if html is None else named_file(html)
    finished, notes = finished_runs(runs)
    groups = group_runs(finished)
    for note in notes:
        say(f"[bold]note:[/bold] {escape(note)}")
    verdicts = judged(groups)
    if target is not None:
        write_text(target, page(groups, verdicts))
        say(f"page: {escape(str(html))}")
    if json:
        by_label = {outcome.group.label: outcome.to_json() for outcome in verdicts}
        result_json(
            [{**group, "verdict": by_label.get(group["label"])} for group in table.to_json(groups)]
        )
        return
    show(groups)
    if verdicts:
        result("\nDid it help? Test errors against the same network on hard labels:")
    for subject, outcome in named(groups, verdicts).items():
        result(f"  {escape(subject)}: {escape(outcome.sentence)}.")


def named(groups: Sequence[Group], verdicts: Sequence[Judged]) -> dict[str, Judged]:
    """Each verdict by its subject: `kd against hard`."""
    rows = table.comparison(groups)
    names = {group.label: row.runs for group, row in zip(rows.groups, rows.rows, strict=True)}
    return {
        f"{names[outcome.group.label]} against {names[outcome.baseline.label]}": outcome
        for outcome in verdicts
    }


def page(groups: Sequence[Group], verdicts: Sequence[Judged]) -> str:
    """The page of these groups, with a verdict where there is a baseline."""
    from distill_cli.report.comparison_page import comparison_page
    from distill_cli.report.format import short_name

    data = dict.fromkeys(short_name(str(group.runs[0].recipe.get("data"))) for group in groups)
    return comparison_page(f"Runs on {', '.join(data)}", "", groups, named(groups, verdicts))


def show(groups: Sequence[Group]) -> None:
    """Table and sentences on stdout; on stderr notes of doubt, and the columns without room."""
    compared = table.comparison(groups)
    without = hidden(compared.rows)
    headings = {key: name for key, name in COLUMNS.items() if key not in without}
    columns = [
        Column(
            heading=name,
            rank=max(0, IMPORTANT.index(key) - len(NEEDED) + 1),
            right=key not in FOLDS,
            folds=FOLDS.get(key, 0),
        )
        for key, name in headings.items()
    ]
    cells = [[str(getattr(row, key)) for key in headings] for row in compared.rows]
    left_out = show_table(columns, cells, blocks=True)
    _against(compared)
    if has_few_bits(compared.rows):
        _front(compared)
    if left_out:
        say(f"[dim]In a wider terminal, and with --json: {', '.join(left_out)}[/dim]")
    for note in compared.notes:
        say(f"[bold]note:[/bold] {escape(note)}")


def _against(compared: Comparison) -> None:
    if sentences := [
        f"  {escape(row.runs)}: {escape(row.against)}." for row in compared.rows if row.against
    ]:
        reference = compared.reference_row
        result(f"\nAgainst {escape(reference.runs)} ({escape(reference.label)}):")
    for sentence in sentences:
        result(sentence)


def _front(compared: Comparison) -> None:
    """The runs of which no other is as accurate in as few bytes."""
    if front := pareto(compared.groups):
        names = [compared.rows[compared.groups.index(group)].runs for group in front]
        result(f"\nNone is better in as few bytes (Pareto front): {escape(', '.join(names))}.")
