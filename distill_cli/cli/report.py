"""`distill report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli.command import VerbApp
from distill_cli.cli.run_arguments import read_runs
from distill_cli.cli.terminal import exactly
from distill_cli.files import check_writable, named_file, write_text

app = VerbApp()


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; default RUN/report.html.")
    ] = None,
) -> None:
    """One self-contained HTML page of a run: figures, learning curves, recipe.

    Example: distill report runs/student-1
    """
    target = None if out is None else named_file(out)
    [summary] = read_runs([run])
    if target is None:
        check_writable(run)
    from distill_cli.report.run_page import run_page

    write_text(target or run / "report.html", run_page(summary))
    exactly(str(out or run / "report.html"))
