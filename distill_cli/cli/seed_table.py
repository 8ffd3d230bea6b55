"""The table of several seeds, as a person reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.markup import escape

from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import say
from distill_cli.report.format import NOTHING, plus_minus, share
from distill_cli.report.seed_table import SeedRow, SeedTable, Spread


def _per_cent(mean: float | None, sd: float | None) -> str:
    text = plus_minus(mean, sd, decimals=2, scale=100)
    return text if text == NOTHING else f"{text} %"


def _decimals(decimals: int) -> Callable[[float | None, float | None], str]:
    return lambda mean, sd: plus_minus(mean, sd, decimals=decimals)


# By figure: its heading, a value of one run, and mean ± sd. A figure that no run has is left out; in
# a narrow terminal the last are.
COLUMNS: dict[
    str, tuple[str, Callable[[Any], str], Callable[[float | None, float | None], str]]
] = {
    "test_errors": ("test errors", str, _decimals(1)),
    "test_top1": ("accuracy", share, _per_cent),
    "test_map": ("mAP", share, _per_cent),
    "test_nll": ("NLL", lambda value: f"{value:.4f}", _decimals(4)),
    "test_ece": ("ECE", lambda value: share(value, decimals=1), _per_cent),
    "val_hint": ("held-out hint loss", lambda value: f"{value:.4g}", _decimals(4)),
    "best_epoch": ("best epoch", str, _decimals(1)),
    "seconds": ("seconds", lambda value: f"{value:.0f}", _decimals(1)),
}


def show_seeds(table: SeedTable) -> None:
    """A row for each seed and one of mean ± sd, on stderr; warnings and what diverged below."""
    spreads = table.figures
    names = [name for name in COLUMNS if spreads.get(name, Spread(None, None)).mean is not None]
    columns = [Column(heading="seed")]
    columns += [
        Column(heading=COLUMNS[name][0], rank=rank, right=True) for rank, name in enumerate(names)
    ]
    rows = [[str(row.seed), *(_cell(row, name) for name in names)] for row in table.done]
    if rows:
        means = [COLUMNS[name][2](*spreads[name]) for name in names]
        show_table(columns, [*rows, ["mean ± sd", *means]], "stderr")
    for row in table.rows:
        warnings = row.figures.get("warnings") or ()
        lines = [*warnings, *([] if row.reason is None else [row.reason])]
        for line in lines:
            say(f"[bold red]warning:[/bold red] seed {row.seed}: {escape(str(line))}")


def _cell(row: SeedRow, name: str) -> str:
    value = row.figures.get(name)
    return NOTHING if value is None else COLUMNS[name][1](value)
