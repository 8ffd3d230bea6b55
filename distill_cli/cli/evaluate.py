"""`distill evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from distill_cli.cli.command import VerbApp
from distill_cli.cli.launching import start as start_ranks
from distill_cli.cli.options import Json, Megapixels, run_flags
from distill_cli.cli.rank_flags import RankFlags
from distill_cli.cli.terminal import escape, result, result_json, say
from distill_cli.errors import counted
from distill_cli.pipeline.folders import check_finished, check_model_folder
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.pipeline.inputs.teacher_folders import expand_teachers

app = VerbApp()


@app.command()
@run_flags
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run or model folder.")],
    data: Annotated[str | None, typer.Option(help="Other data; default: the run's own.")] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Also compare with this teacher or cache.")
    ] = None,
    split: Annotated[
        Literal["test", "val"], typer.Option(help="Which images; val is the held-out part.")
    ] = "test",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")
    ] = False,
    max_megapixels: Megapixels = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Json = False,
    *,
    start: RankFlags,
) -> None:
    """Accuracy, NLL and ECE of a run, and its agreement with a teacher.

    Example: distill evaluate runs/student-1 --teacher runs/a
    """
    refuse_file(run, "model")
    check_model_folder(run)
    if teacher is not None:
        check_finished(expand_teachers([teacher]), None)
    start.check(out=None, device=device)
    if start.several:
        start_ranks(start, out=None, device=device)
    from distill_cli.pipeline.evaluate import evaluate_run

    evaluation = evaluate_run(
        run,
        data=data,
        teacher=teacher,
        split=split,
        skip_bad=skip_bad,
        megapixels=max_megapixels,
        device=device,
        message=lambda text: say(escape(text)),
    )
    figures = evaluation.metrics
    if json:
        others = {
            key: value for key, value in asdict(evaluation).items() if key not in ("metrics",)
        }
        result_json({"run": str(run), **others, **asdict(figures)})
        return
    result(
        f"{split}: {counted(figures.errors, 'error')} of {figures.samples:,} ({100 * figures.top1:.2f} % right), "
        f"NLL {figures.nll:.4f}, ECE {100 * figures.ece:.1f} %, {evaluation.latency_ms:.3f} ms an image"
    )
    if evaluation.ece_scaled is not None:
        result(
            f"logits divided by {evaluation.temperature:.2f}, as fitted on held-out images: "
            f"NLL {evaluation.nll_scaled:.4f}, ECE {100 * evaluation.ece_scaled:.1f} %"
        )
    if figures.map is not None and figures.f1 is not None and figures.macro_f1 is not None:
        result(
            f"by label: mAP {100 * figures.map:.2f} %, F1 {100 * figures.f1:.2f} % "
            f"(mean over labels {100 * figures.macro_f1:.2f} %)"
        )
    if evaluation.teacher_agreement is not None:
        result(
            f"agrees with {escape(teacher)} on {100 * evaluation.teacher_agreement:.1f} %, "
            f"KL(teacher ‖ run) {evaluation.teacher_kl:.4f}"
        )
