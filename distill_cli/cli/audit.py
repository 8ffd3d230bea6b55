"""`distill audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distill_cli.cli.command import VerbApp, refuse_ranks
from distill_cli.cli.options import Json
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, exactly, result_json, say
from distill_cli.errors import UsageError, counted
from distill_cli.pipeline.entries import AUDIT, check_audit_output
from distill_cli.pipeline.folders import check_finished, check_model_folder
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.pipeline.inputs.teacher_folders import (
    are_caches,
    check_distinct,
    expand_teachers,
    network_at,
)
from distill_cli.recipe.parsing import Amount, parse_amount, split_commas
from distill_cli.report.run_folder import RECIPE

app = VerbApp()


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    teachers: Annotated[
        str | None, typer.Option(help="Runs and caches that judge too, as a,b.")
    ] = None,
    out_of_fold: Annotated[
        str | None,
        typer.Option(
            help="A cache of cache-soft-labels --cross-fit, by networks that had not seen the labels; it judges "
            "in RUN's place."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="How many are mislabelled, and how many hard: 600, or 0.05 of the labelled; default: "
            "mislabelled those confidently of another class, hard 1 %."
        ),
    ] = None,
    near: Annotated[
        float,
        typer.Option(help="Correlation of pixels of duplicates; above 1: equal images alone."),
    ] = 0.99,
    data: Annotated[
        str | None, typer.Option(help="Where the run's data are, if they were moved.")
    ] = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="Other images, in which duplicates are sought too.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=f"The folder; default RUN/{AUDIT}.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the lists in --out.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Json = False,
) -> None:
    """Samples to look at: probably mislabelled, there twice (also across splits), and hard.

    Writes lists that --without and --relabel of the next training read, and a page with pictures.

    Example: distill audit runs/a --out-of-fold runs/folds
    """
    refuse_ranks()
    refuse_file(run, "model")
    check_model_folder(run)
    if not (run / RECIPE).is_file():
        raise UsageError(f"{run} is no run folder, whose data could be audited")
    if teachers is not None and out_of_fold is not None:
        raise UsageError(
            "--teachers judge beside RUN, and --out-of-fold in its place: give one of them"
        )
    target = run / AUDIT if out is None else out
    check_audit_output(target, own=target == run / AUDIT, overwrite=overwrite)
    judges = _judges(run, teachers)
    caches = _caches(out_of_fold)
    amount = _amount(budget)
    if not near > 0:
        raise UsageError(f"--near {near:g}: above 0; pixels of equal images have 1")
    from distill_cli.pipeline.audit.audit import audit as audited
    from distill_cli.pipeline.audit.lists import write_audit
    from distill_cli.pipeline.inputs.places import check_beside_images

    check_beside_images(target, run, data, unlabelled)
    made = audited(
        run,
        teachers=judges,
        out_of_fold=caches,
        budget=amount,
        near=near,
        data=data,
        unlabelled=unlabelled,
        device=device,
        message=lambda text: say(escape(text)),
    )
    summary = write_audit(made, target, str(run))
    if json:
        result_json({**summary, "out": str(target)})
        return
    _show(summary, target)


def _judges(run: Path, teachers: str | None) -> list[str]:
    """The runs and caches that judge beside a run.

    Raises:
        UsageError: One is not there or not finished, one is named twice, or there is none but the run.
    """
    names = expand_teachers(split_commas(teachers) or [])
    check_distinct(names, hint="Name it once: it judges once")
    check_finished([str(run), *names], None)
    others = [name for name in names if network_at(name) != network_at(str(run))]
    if names and not others:
        raise UsageError(
            f"--teachers {teachers}: {run} judges already, and disagrees with itself nowhere",
            hint="Name others, or leave it out",
        )
    return others


def _caches(out_of_fold: str | None) -> list[str]:
    """The caches that judge in the run's place."""
    caches = expand_teachers(split_commas(out_of_fold) or [])
    if caches and not all(are_caches(caches)):
        raise UsageError(f"--out-of-fold {out_of_fold} is no cache of labels")
    return caches


def _amount(budget: str | None) -> Amount | None:
    try:
        return None if budget is None else parse_amount(budget)
    except ValueError as error:
        raise UsageError(f"--budget {error}") from None


def _show(summary: dict[str, Any], target: Path) -> None:
    """A row a kind, what was judged by what, and the command that comes next."""
    kinds = {"mislabelled": "mislabelled.csv", "duplicate": "duplicates.csv", "hard": "hard.csv"}
    show_table(
        [
            Column(heading="kind"),
            Column(heading="samples", right=True),
            Column(heading="held out", right=True, rank=1),
            Column(heading="list", rank=2),
        ],
        [
            [kind, f"{summary[kind]:,}", f"{summary['held_out'][kind]:,}", file]
            for kind, file in kinds.items()
        ],
    )
    pairs = [f"{number:,} of {name}" for name, number in summary["pairs"].items()]
    if summary["test_in_test"]:
        pairs.append(f"{summary['test_in_test']:,} of test in test, which stay")
    if pairs:
        say(f"there twice: {', '.join(pairs)}; {summary['equal']:,} of them equal")
    labelled = counted(summary["labelled"], "labelled sample")
    judges = ", ".join(escape(name) for name in summary["judges"])
    say(f"{labelled} judged by {judges}")
    if summary["in_sample"]:
        say(
            "[bold]note:[/bold] what may have learnt these labels doubts few that it knows by heart: "
            "cache-soft-labels --cross-fit 5 makes a cache for --out-of-fold, of networks that had not seen them"
        )
    lists = escape(str(target))
    say(f"look at {lists}/index.html, then train with --without {lists}/audit.csv, or with")
    say(f"--relabel {lists}/mislabelled.csv; the folder:")
    exactly(str(target))
