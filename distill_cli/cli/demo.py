"""`distill demo`."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_cli.cli.command import VerbApp, refuse_ranks
from distill_cli.cli.compare import show
from distill_cli.cli.options import Json, Overwrite, Quiet
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import escape, result, result_json, say
from distill_cli.errors import StoppedError
from distill_cli.files import one_writer
from distill_cli.pipeline.folders import check_demo
from distill_cli.report import table

if TYPE_CHECKING:
    from distill_cli.training.events import Sink

app = VerbApp()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Students of each kind.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Of the students, over all images.")] = 40,
    json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Two teachers and their students on real digits: a table, a verdict and a page.

    Example: distill demo
    """
    check_demo(out, overwrite=overwrite)
    refuse_ranks()
    started = time.monotonic()
    from distill_cli.pipeline.demo import demo as run
    from distill_cli.pipeline.demo import sentences

    def shown(label: str) -> AbstractContextManager[Sink]:
        return progress(label, quiet=quiet, messages=False)

    try:
        with one_writer(out):
            outcome = run(out, seeds=seeds, epochs=epochs, shown=shown, overwrite=overwrite)
    except StoppedError as stopped:
        raise stopped.hinting("Begin again with --overwrite") from None
    if json:
        verdicts = {label: vars(verdict) for label, verdict in outcome.verdicts.items()}
        result_json({"groups": table.to_json(outcome.groups), "verdicts": verdicts})
        return
    result("")
    show(outcome.groups)
    result("")
    result("Did distillation help? Test errors against the student on hard labels:")
    for sentence in sentences(outcome.verdicts):
        result(f"  {escape(sentence)}")
    say(f"\n{time.monotonic() - started:.0f} s. The same with plots: {escape(str(outcome.report))}")
