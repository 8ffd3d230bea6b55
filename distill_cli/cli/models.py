"""`distill models taps`: what can be said of a network before training it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_cli.cli import completion
from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Json
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, result_json, say
from distill_cli.errors import UsageError

if TYPE_CHECKING:
    from distill_cli.models.network import Network

app = VerbApp(no_args_is_help=True)


@app.callback()
def _models() -> None:
    """Networks: where their layers can be tapped."""


@app.command()
def taps(
    name: Annotated[
        str,
        typer.Argument(
            help="A network's name, or a run or model folder.", autocompletion=completion.models
        ),
    ],
    size: Annotated[int, typer.Option(min=4, max=2048, help="Side of the images.")] = 32,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1 (grey) or 3.")] = 3,
    json: Json = False,
) -> None:
    """The layers that hints and other feature objectives can look at, with their shapes.

    The middle one, which `auto` takes, has an arrow. Any other module can be named too.

    Example: distill models taps cifar_resnet20
    """
    if channels == 2:
        raise UsageError("--channels is 1 or 3")
    network = _network(name, size, channels)
    from distill_cli.models.taps import middle, taps_of

    taps = taps_of(network)
    auto = middle(taps)
    if json:
        result_json(
            {
                "architecture": network.architecture,
                "input_size": list(network.input_size),
                "middle": auto.name,
                "taps": [
                    {
                        "name": tap.name,
                        "shape": [tap.channels, tap.height, tap.width],
                        "depth": round(tap.depth, 4),
                        "rectified": tap.rectified,
                    }
                    for tap in taps
                ],
            }
        )
        return
    size_taken = "×".join(str(side) for side in network.input_size)
    say(f"[bold]{escape(network.architecture)}[/bold] on images of {size_taken}")
    columns = [
        Column(heading="layer"),
        Column(heading="channels × height × width", rank=2),
        Column(heading="depth", rank=3, right=True),
        Column(heading="", rank=1),
    ]
    rows = [
        [
            tap.name,
            f"{tap.channels} × {tap.height} × {tap.width}",
            f"{100 * tap.depth:.0f} %",
            "← middle" if tap is auto else "",
        ]
        for tap in taps
    ]
    show_table(columns, rows)


def _network(name: str, size: int, channels: int) -> Network:
    """A saved network, or a fresh one for images of this size."""
    from distill_cli.models import InputSpec, create_network, load_model
    from distill_cli.pipeline.folders import check_model_folder

    if Path(name).is_dir():
        check_model_folder(Path(name))
        return load_model(Path(name), tell=lambda line: say(escape(line)))
    grey = (0.5,) * channels
    view = InputSpec(channels=channels, height=size, width=size, mean=grey, std=grey)
    return create_network(name, class_names=tuple(map(str, range(10))), view=view)
