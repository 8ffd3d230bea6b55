"""`distill noise estimate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli.command import VerbApp, refuse_ranks
from distill_cli.cli.options import Json
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, exactly, result_json, say
from distill_cli.errors import UsageError, counted
from distill_cli.files import check_writable, named_file
from distill_cli.pipeline.entries import NOISE_MATRIX
from distill_cli.pipeline.folders import check_model_folder
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.report.run_folder import RECIPE

app = VerbApp(no_args_is_help=True)
# Rows that are shown, of the classes whose labels are wrong most often, and labels that are named in each.
SHOWN, NAMED = 20, 3


@app.callback()
def _noise() -> None:
    """The option that says how labels are wrong."""


@app.command()
def estimate(
    run: Annotated[Path, typer.Argument(help="A run or model folder that learnt these labels.")],
    data: Annotated[str | None, typer.Option(help="Other data; default: the run's own.")] = None,
    percentile: Annotated[
        float,
        typer.Option(
            help="Of all images' probability of a class: the image there gives the row; 100: the maximum."
        ),
    ] = 97.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=f"The CSV; default RUN/{NOISE_MATRIX}."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Json = False,
) -> None:
    """How often images of each class are labelled as another, as --noise-matrix takes it.

    From a network that was trained on these labels by cross-entropy, before it knows them by heart.

    Example: distill noise estimate runs/a
    """
    refuse_ranks()
    refuse_file(run, "model")
    check_model_folder(run)
    if not 0 < percentile <= 100:
        raise UsageError(f"--percentile {percentile:g}: above 0, and 100 at most")
    target = _target(run, out)
    from distill_cli.pipeline.noise import estimate_noise

    found = estimate_noise(
        run,
        target,
        data=data,
        percentile=percentile,
        device=device,
        message=lambda text: say(escape(text)),
    )
    rows = found.noise_KK.tolist()
    if found.by_maximum:
        say(
            f"by the maximum, for the percentile misses so few images: {escape(_few(found.by_maximum))}"
        )
    if found.never:
        say(
            f"[bold]note:[/bold] no image is taken for {escape(_few(found.never))}: nothing vouches for "
            "these rows"
        )
    if json:
        result_json(
            {
                "run": str(run),
                "out": str(target),
                "percentile": percentile,
                "samples": found.samples,
                "class_names": list(found.class_names),
                "by_maximum": list(found.by_maximum),
                "never": list(found.never),
                "matrix": rows,
            }
        )
        return
    _show(found.class_names, rows)
    say(
        f"from {counted(found.samples, 'image')}; learn by it with --objective forward --noise-matrix:"
    )
    exactly(str(target))


def _target(run: Path, out: Path | None) -> Path:
    """The file to write, which can be written.

    Raises:
        UsageError: Nobody says where, or there is no way to write it.
    """
    if out is not None:
        return named_file(out)
    if not (run / RECIPE).is_file():
        raise UsageError(
            f"{run} is no run folder, whose own the matrix could be", hint="Give --out"
        )
    check_writable(run)
    return run / NOISE_MATRIX


def _few(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _show(class_names: tuple[str, ...], rows: list[list[float]]) -> None:
    """A row a class: how often its label is right, and which others it gets most."""
    order = sorted(range(len(rows)), key=lambda i: rows[i][i])[:SHOWN]
    cells = []
    for i in sorted(order):
        others = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -rows[i][j])[:NAMED]
        named = ", ".join(f"{class_names[j]} {100 * rows[i][j]:.1f} %" for j in others)
        cells.append([class_names[i], f"{100 * rows[i][i]:.1f} %", named])
    show_table(
        [
            Column(heading="class"),
            Column(heading="labelled so", right=True),
            Column(heading="labelled as others", rank=1, folds=24),
        ],
        cells,
    )
    if len(order) < len(rows):
        say(f"the {len(order)} classes of {len(rows):,} whose labels are wrong most often")
