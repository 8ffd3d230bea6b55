"""`distill runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Json
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, result_json, say
from distill_cli.errors import UsageError, nearest
from distill_cli.pipeline.folders import RUNS
from distill_cli.pipeline.overview import SORTABLE, RunStanding, runs_below, sorted_by
from distill_cli.report.format import NOTHING, plain, share, short_name

app = VerbApp()

# Figures that are shares of one.
SHARES = ("top1", "ece", "map", "f1", "agreement", "ece_scaled")
SHOWN = ("test_top1", "val_top1")


@app.command()
def runs(
    folder: Annotated[Path | None, typer.Argument(help="Where to look (runs).")] = None,
    sort: Annotated[
        str,
        typer.Option(metavar="FIGURE", help="A figure of result.json; the best run comes first."),
    ] = "test_top1",
    json: Json = False,
) -> None:
    """The runs below a folder: done, running, resumable or diverged, and what they reached.

    An unfinished run is listed with the held-out figures of its best epoch so far.

    Example: distill runs --sort test_nll
    """
    if sort not in SORTABLE:
        raise UsageError(f"--sort: there is no figure '{sort}'. {nearest(sort, SORTABLE)}")
    root = RUNS if folder is None else folder
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="Give a folder of runs")
    listed = sorted_by(sort, runs_below(root))
    if json:
        result_json({"runs": [run.to_json() for run in listed]})
        return
    if not listed:
        say(f"no run below {escape(str(root))}")
        return
    show(listed, sort)


def show(listed: list[RunStanding], sort: str) -> None:
    """A line a run on stdout; on stderr what there is no room for, and what cannot be read."""
    figures = tuple(dict.fromkeys((sort, *SHOWN)))
    columns = [
        Column(heading="run"),
        Column(heading="state"),
        *(Column(heading=name, rank=1 + i, right=True) for i, name in enumerate(figures)),
        Column(heading="epoch", rank=4, right=True),
        Column(heading="verb", rank=5),
        Column(heading="model", rank=6),
        Column(heading="data", rank=7),
    ]
    left_out = show_table(columns, [_cells(run, figures) for run in listed])
    if left_out:
        say(f"[dim]In a wider terminal, and with --json: {', '.join(left_out)}[/dim]")
    for run in listed:
        if run.fault is not None:
            say(f"[bold]note:[/bold] {escape(run.fault)}")


def _cells(run: RunStanding, figures: tuple[str, ...]) -> list[str]:
    epochs = NOTHING if run.epochs is None else f"{run.epoch:,}/{run.epochs:,}"
    return [
        run.name,
        run.state,
        *(_figure(name, run.figures.get(name)) for name in figures),
        epochs,
        run.verb or NOTHING,
        short_name(run.model or NOTHING),
        short_name(run.data or NOTHING),
    ]


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return NOTHING
    if name.partition("_")[2] in SHARES:
        return share(value)
    return f"{value:,}" if isinstance(value, int) else plain(float(f"{value:.4g}"))
