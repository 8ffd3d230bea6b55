"""`distill query`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from distill_cli.cli.command import VerbApp, refuse_ranks
from distill_cli.cli.options import Json
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, exactly, result_json, say
from distill_cli.errors import UsageError, counted
from distill_cli.files import named_file
from distill_cli.pipeline.entries import check_place
from distill_cli.pipeline.folders import check_finished
from distill_cli.pipeline.inputs.teacher_folders import are_caches, check_distinct, expand_teachers
from distill_cli.recipe.parsing import split_commas
from distill_cli.report.run_folder import RECIPE

app = VerbApp()
# Rows that are shown.
SHOWN = 10


@app.command()
def query(
    runs: Annotated[
        str, typer.Argument(help="A run folder; several as a,b, or one of several seeds.")
    ],
    budget: Annotated[int, typer.Option(min=1, help="How many images to ask for.")] = 100,
    by: Annotated[
        Literal["margin", "entropy", "disagreement", "random"],
        typer.Option(help="How images are ranked; disagreement is of several runs."),
    ] = "margin",
    unlabelled: Annotated[
        str | None,
        typer.Option(help="Images to choose from; default: the run's own without a known label."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --by random.")] = 0,
    data: Annotated[
        str | None, typer.Option(help="Where the run's data are, if they were moved.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The CSV.")] = Path("query.csv"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the CSV, filled in or not.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Json = False,
) -> None:
    """Which images to label next: those that a run is least sure of, or that runs disagree on.

    Fill in the column label of the CSV, and give it to the next training as --relabel.

    Example: distill query runs/a --unlabelled photos/ --budget 100
    """
    refuse_ranks()
    names = _networks(runs, by)
    target = _target(out, overwrite=overwrite)
    from distill_cli.pipeline.query import query as queried
    from distill_cli.pipeline.query import write_query

    made = queried(
        names,
        budget=budget,
        by=by,
        seed=seed,
        data=data,
        unlabelled=unlabelled,
        device=device,
        message=lambda text: say(escape(text)),
    )
    write_query(made, target)
    if json:
        result_json(
            {
                "runs": names,
                "out": str(out),
                "by": by,
                "candidates": made.candidates,
                "class_names": list(made.class_names),
                "samples": [
                    {"sample_id": sample, "rank": rank, "score": score, "predicted": likely}
                    for rank, (sample, score, likely) in enumerate(made.asked, start=1)
                ],
            }
        )
        return
    show_table(
        [
            Column(heading="sample"),
            Column(heading=by, right=True),
            Column(heading="predicted", rank=1),
        ],
        [[sample, f"{score:.4f}", likely] for sample, score, likely in made.asked[:SHOWN]],
    )
    asked = counted(len(made.asked), "image")
    first = f"; the first {SHOWN} above" if len(made.asked) > SHOWN else ""
    say(f"{asked} of {made.candidates:,} whose labels are not known{first}")
    say(f"fill in the column label, and train with --relabel {escape(str(out))}; the list:")
    exactly(str(out))


def _networks(runs: str, by: str) -> list[str]:
    """The run folders that are asked.

    Raises:
        UsageError: One is not there, not finished or no run, or there are too few.
    """
    names = expand_teachers(split_commas(runs))
    if not names:
        raise UsageError("which run? Name a run folder")
    check_distinct(names, "runs", "Name it once: its answers count once")
    check_finished(names, None)
    for name, cache in zip(names, are_caches(names), strict=True):
        if cache or not (Path(name) / RECIPE).is_file():
            raise UsageError(f"{name} is no run folder, which could be asked of other images")
    if by == "disagreement" and len(names) < 2:
        raise UsageError(
            f"--by disagreement needs several runs, and {names[0]} is one: it agrees with itself",
            hint="Name several as a,b, or the folder of a training of several seeds",
        )
    return names


def _target(out: Path, *, overwrite: bool) -> Path:
    """The file to write, which can be written. By default it lies in no run, which would take it with it.

    Raises:
        UsageError: There is no way to write it, or it is there and may be filled in.
    """
    target = named_file(out)
    if overwrite and target.exists() and target.suffix != ".csv":
        raise UsageError(f"{out} is there and is no list", hint="Choose another --out")
    check_place(out, run=False)
    if target.exists() and not overwrite:
        raise UsageError(
            f"{out} is there, and labels may be filled in",
            hint="Choose another --out, or replace it with --overwrite",
        )
    return target
