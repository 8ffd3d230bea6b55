"""`distill methods`."""

from __future__ import annotations

from typing import Any

import typer

from distill_cli.cli.options import Json
from distill_cli.cli.terminal import console, result_json

app = typer.Typer(add_completion=False)


@app.command()
def methods(json: Json = False) -> None:
    """The objectives there are, what they need, and where they come from.

    Example: distill methods --json
    """
    listed = describe()
    if json:
        result_json(listed)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "what it does", "needs", "parameters", "paper"):
        table.add_column(column, overflow="fold")
    for method in listed:
        parameters = ", ".join(
            f"{key}={value['default']}" for key, value in method["parameters"].items()
        )
        needs = ", ".join(method["needs"]) or "—"
        table.add_row(method["name"], method["summary"], needs, parameters or "—", method["paper"])
    console("stdout").print(table)


def describe() -> list[dict[str, Any]]:
    """Name, summary, paper, needs and parameters of every objective."""
    from dataclasses import fields

    from distill_cli.objectives import OBJECTIVES
    from distill_cli.objectives.base import AUTO

    return [
        {
            "name": cls.about.name,
            "summary": cls.about.summary,
            "paper": cls.about.paper,
            "needs": sorted(cls.about.needs),
            "parameters": {
                # Layers that nobody names are paired by the objective's rule.
                field.name: {"default": AUTO if field.name == "pairs" else field.default}
                for field in fields(cls)  # type: ignore[arg-type]
            },
        }
        for cls in OBJECTIVES.values()
    ]
