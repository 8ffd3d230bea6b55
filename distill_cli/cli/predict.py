"""`distill predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from distill_cli.cli.terminal import console, result, result_json
from distill_cli.errors import UsageError
from distill_cli.pipeline.folders import check_model_folder
from distill_cli.pipeline.inputs.file_kinds import refuse_file

if TYPE_CHECKING:
    from distill_cli.pipeline.predict import Prediction

app = typer.Typer(add_completion=False)

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
    json: Annotated[bool, typer.Option("--json", help="One JSON line an image.")] = False,
) -> None:
    """Classes and probabilities of images, as small bar charts or JSON lines.

    Without -T the logits are divided by the temperature that was fitted after training, if any: as
    sure as it is right. -T 4 gives what a student learns from at T = 4; -T 1, the plain softmax.
    Where several labels may apply to an image, each has a probability by itself.

    Example: distill predict runs/a image.png -T 4
    """
    if temperature is not None and not 0 < temperature < float("inf"):
        raise UsageError(f"temperature: must be a number above 0 (got {temperature})")
    refuse_file(run, "model")
    check_model_folder(run)
    paths = [path for image in images for path in _expand(image)]
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise UsageError(f"there is no image {missing[0]}")
    from distill_cli.pipeline.predict import predict as ask

    predictions = ask(run, paths, temperature=temperature, device=device)
    if json:
        _json_lines(predictions)
        return
    screen = console("stdout")
    plain = not screen.is_terminal
    for prediction in predictions:
        result(f"[bold]{escape(prediction.image)}[/bold]")
        width = max(len(name) for name, _ in prediction.classes[:top])
        for name, probability in prediction.classes[:top]:
            bar = "█" * round(min(BAR, max(0, screen.width - width - BESIDE_BAR)) * probability)
            shown = bar if plain else f"[cyan]{bar}[/cyan]"
            result(f"  {escape(name):<{width}}  {100 * probability:5.1f} %  {shown}")


def _expand(image: str) -> list[str]:
    return [line.strip() for line in sys.stdin or () if line.strip()] if image == "-" else [image]


def _json_lines(predictions: list[Prediction]) -> None:
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
