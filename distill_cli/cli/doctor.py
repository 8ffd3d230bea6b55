"""`distill doctor`."""

from __future__ import annotations

import typer

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Json
from distill_cli.cli.terminal import escape, result, result_json

app = VerbApp()


@app.command()
def doctor(json: Json = False) -> None:
    """Versions, devices and threads, and whether one training step works on each device.

    Example: distill doctor
    """
    from distill_cli.pipeline.doctor import check_machine

    checks = check_machine()
    if json:
        result_json({"ok": all(check.ok for check in checks), "checks": [vars(c) for c in checks]})
    else:
        for check in checks:
            mark = "[green]ok[/green]" if check.ok else "[red]no[/red]"
            result(f"{mark}  {escape(check.what)}: {escape(check.finding)}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
