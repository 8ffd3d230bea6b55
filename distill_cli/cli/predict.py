"""`distill predict`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Megapixels
from distill_cli.cli.terminal import console, escape, result, result_json, say
from distill_cli.errors import ArtifactError, UsageError, counted, visible
from distill_cli.pipeline.folders import check_model_folder
from distill_cli.pipeline.inputs.file_kinds import refuse_file

if TYPE_CHECKING:
    from distill_cli.pipeline.predict import Answers, Prediction

app = VerbApp()

BAR = 24
# Columns of a line that neither its class nor its bar has.
BESIDE_BAR = 13


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run or model folder.")],
    images: Annotated[list[str], typer.Argument(help="Images, folders, or - for paths on stdin.")],
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            "-T",
            help="T of softmax(logits/T), a soft label at T. Default: as fitted.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes shown of each image.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count images that cannot be read.")
    ] = False,
    max_megapixels: Megapixels = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON line an image.")] = False,
) -> None:
    """Classes and probabilities of images, as small bar charts or JSON lines.

    Without -T the logits are divided by the temperature that was fitted after training, if any: as
    sure as it is right. -T 4 gives what a student learns from at T = 4; -T 1, the plain softmax.
    Where several labels may apply to an image, each has a probability by itself. All images that
    can be read are answered; any other is named, and the exit code is 3 unless --skip-bad is given.

    Example: distill predict runs/a image.png -T 4
    """
    if temperature is not None and not 0 < temperature < float("inf"):
        raise UsageError(f"temperature: must be a number above 0 (got {temperature})")
    refuse_file(run, "model")
    check_model_folder(run)
    paths = [path for image in images for path in _expand(image)]
    if paths and not any(Path(path).exists() for path in paths):
        raise UsageError(f"there is no image {paths[0]}")
    from distill_cli.data.inventory import left_in_words
    from distill_cli.pipeline.predict import predict as ask

    answers = ask(
        run,
        paths,
        temperature=temperature,
        device=device,
        megapixels=max_megapixels,
        message=lambda text: say(escape(text)),
    )
    for line in left_in_words(answers.left):
        say(escape(line))
    if json:
        _json_lines(answers.predictions)
    else:
        _bars(answers.predictions, top)
    _tell_unreadable(answers, skip_bad=skip_bad)


def _tell_unreadable(answers: Answers, *, skip_bad: bool) -> None:
    bad = len(answers.unreadable)
    if skip_bad and bad:
        say(f"skipped {counted(bad, 'image')} that cannot be read")
        return
    for path, reason in answers.unreadable:
        say(escape(f"cannot read image {path}: {reason}"))
    if bad:
        total = bad + len(answers.predictions)
        others = "All others are answered; --skip-bad leaves such images out"
        raise ArtifactError(
            f"{bad:,} of {counted(total, 'image')} cannot be read",
            hint=others if answers.predictions else None,
        )


def _bars(predictions: Sequence[Prediction], top: int) -> None:
    screen = console("stdout")
    plain = not screen.is_terminal
    for prediction in predictions:
        result(f"[bold]{escape(prediction.image)}[/bold]")
        shown_classes = [(visible(name), share) for name, share in prediction.classes[:top]]
        width = max(cell_len(name) for name, _ in shown_classes)
        for name, probability in shown_classes:
            bar = "█" * round(min(BAR, max(0, screen.width - width - BESIDE_BAR)) * probability)
            shown = bar if plain else f"[cyan]{bar}[/cyan]"
            blank = " " * (width - cell_len(name))
            result(f"  {escape(name)}{blank}  {100 * probability:5.1f} %  {shown}")


def _expand(image: str) -> list[str]:
    return [line.strip() for line in sys.stdin or () if line.strip()] if image == "-" else [image]


def _json_lines(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        line = {"image": prediction.image, "class": prediction.classes[0][0]}
        values: dict[str, Any] = {
            "probabilities": dict(prediction.classes),
            "temperature": prediction.temperature,
            "fitted_temperature": prediction.fitted_temperature,
        }
        if prediction.labels is not None:
            values["labels"] = list(prediction.labels)
        result_json({**line, **values}, indent=None)
