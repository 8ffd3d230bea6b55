"""`distill methods`: the objectives there are, and one of them at length."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_cli.cli import completion
from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Json
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import console, escape, result, result_json
from distill_cli.errors import UsageError, nearest

app = VerbApp()


@app.callback(invoke_without_command=True)
def methods(context: typer.Context, json: Json = False) -> None:
    """The objectives there are, what they need, and where they come from.

    Example: distill methods --json
    """
    if context.invoked_subcommand is not None:
        return
    from distill_cli.pipeline.objective.describe import describe

    entries = describe()
    if json:
        result_json(entries)
        return
    show_table(
        [
            Column(heading="name"),
            Column(heading="what it does", folds=24),
            Column(heading="needs", rank=1, folds=len("features,")),
        ],
        [[entry["name"], entry["summary"], ", ".join(entry["needs"]) or "—"] for entry in entries],
    )
    result("\nPaper, parameters, equation and a command line: distill methods show NAME")


@app.command()
def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="An objective's name.", autocompletion=completion.objectives)
    ],
    json: Json = False,
) -> None:
    """One objective: equation, parameters and their defaults, a command line to try.

    Example: distill methods show label-smoothing
    """
    from distill_cli.objectives import OBJECTIVES
    from distill_cli.pipeline.objective.describe import at_length, plain

    if name not in OBJECTIVES:
        raise UsageError(f"there is no objective '{name}'. {nearest(name, OBJECTIVES)}")
    cls = OBJECTIVES[name]
    method = at_length(cls)
    if json or (context.parent is not None and context.parent.params.get("json")):
        result_json(method)
        return
    out = console("stdout")
    out.print(f"[bold]{name}[/bold] · {escape(method['summary'])}")
    out.print(f"{escape(method['paper'])}\n", style="dim")
    out.print(f"{method['equation']}\n", highlight=False, markup=False)
    for label, text in method["facts"].items():
        out.print(f"[bold]{label}[/bold]  {escape(text)}", highlight=False)
    if method["parameters"]:
        out.print()
        show_table(
            [
                Column(heading="parameter"),
                Column(heading="default"),
                Column(heading="range", rank=1),
                Column(heading="what it is", folds=24),
            ],
            [
                [key, plain(value["default"]), value["range"] or "—", value["help"]]
                for key, value in method["parameters"].items()
            ],
        )
    out.print("\n[bold]try[/bold]")
    for line in method["try"]:
        out.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
