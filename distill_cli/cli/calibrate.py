"""`distill calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_cli.cli.command import VerbApp, refuse_ranks
from distill_cli.cli.options import Json
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, exactly, result_json, say
from distill_cli.errors import UsageError, counted
from distill_cli.pipeline.entries import CALIBRATED, check_model_output
from distill_cli.pipeline.folders import check_model_folder
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.recipe.parsing import split_commas
from distill_cli.report.run_folder import RECIPE

if TYPE_CHECKING:
    from distill_cli.pipeline.calibrate import Calibration

app = VerbApp()
# Rows that are shown, of the classes whose mass changes most.
SHOWN = 20


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="A run or model folder.")],
    prior: Annotated[
        str,
        typer.Option(
            help="How often each class occurs: uniform, or a YAML or CSV of class and share."
        ),
    ],
    unlabelled: Annotated[
        str | None,
        typer.Option(help="Images where classes occur as often; default: those the run held out."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes that get a bias beside those left out, as a,b.")
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Every class gets a bias.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=f"The model folder; default RUN/{CALIBRATED}."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model in --out.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Json = False,
) -> None:
    """Give classes that a run left out of its training their share of its answers.

    Adds a bias to each, so that its mean probability over images is how often it occurs. No label is
    looked at, and no test image.

    Example: distill calibrate runs/no-threes --prior uniform
    """
    refuse_ranks()
    refuse_file(run, "model")
    check_model_folder(run)
    if classes is not None and all_classes:
        raise UsageError("--classes and --all-classes say the same thing twice: give one of them")
    target = _target(run, out)
    check_model_output(target, own=target == run / CALIBRATED, overwrite=overwrite)
    from distill_cli.pipeline.calibrate import calibrate as calibrated
    from distill_cli.pipeline.inputs.places import check_beside_images

    check_beside_images(target, run, unlabelled)
    made = calibrated(
        run,
        target,
        prior=prior,
        unlabelled=unlabelled,
        classes=split_commas(classes) or (),
        every=all_classes,
        device=device,
        message=lambda text: say(escape(text)),
    )
    if json:
        result_json(
            {
                "run": str(run),
                "out": str(target),
                "prior": prior,
                "source": made.source,
                "images": made.images,
                "classes": _rows(made),
            }
        )
        return
    _show(made)
    say(
        f"from {counted(made.images, 'image')} ({escape(made.source)}), whose labels were not looked at; "
        "see what it changed with distill evaluate:"
    )
    exactly(str(target))


def _target(run: Path, out: Path | None) -> Path:
    """The model folder to write.

    Raises:
        UsageError: Nobody says where.
    """
    if out is not None:
        return out
    if not (run / RECIPE).is_file():
        raise UsageError(f"{run} is no run folder, whose own the model could be", hint="Give --out")
    return run / CALIBRATED


def _rows(made: Calibration) -> list[dict[str, object]]:
    """All classes, in label order."""
    columns = (made.prior_K, made.matched.before_K, made.matched.after_K, made.matched.bias_K)
    cells = zip(made.class_names, *(column.tolist() for column in columns), strict=True)
    return [
        {
            "class": name,
            "chosen": label in made.chosen,
            "prior": prior,
            "mass_before": before,
            "mass_after": after,
            "bias": bias,
        }
        for label, (name, prior, before, after, bias) in enumerate(cells)
    ]


def _show(made: Calibration) -> None:
    """A row a class; of many, those whose mass changes most."""
    change_K = (made.matched.after_K - made.matched.before_K).abs().tolist()
    shown = sorted(sorted(range(len(change_K)), key=lambda k: -change_K[k])[:SHOWN])
    prior, before, after = (
        [f"{100 * share:.4f} %" for share in column.tolist()]
        for column in (made.prior_K, made.matched.before_K, made.matched.after_K)
    )
    bias = made.matched.bias_K.tolist()
    show_table(
        [
            Column(heading="class"),
            Column(heading="prior", right=True, rank=1),
            Column(heading="mass before", right=True),
            Column(heading="after", right=True),
            Column(heading="bias", right=True),
        ],
        [[made.class_names[k], prior[k], before[k], after[k], f"{bias[k]:+.4f}"] for k in shown],
    )
    if len(shown) < len(change_K):
        say(f"the {len(shown)} classes of {len(change_K):,} whose mass changed most")
