"""The table of several seeds, as a person reads it."""

from __future__ import annotations

from typing import NamedTuple

from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, say
from distill_cli.report.format import plus_minus
from distill_cli.report.seed_table import SeedTable, Spread


class _Figure(NamedTuple):
    """How a figure is shown: its heading, its decimals, and whether it is a share, in per cent."""

    heading: str
    decimals: int
    share: bool = False

    def cell(self, mean: float | None, sd: float | None = None) -> str:
        """A value, or mean ± sd; means of whole numbers have a decimal."""
        decimals = self.decimals if sd is None else max(1, self.decimals)
        text = plus_minus(mean, sd, decimals=decimals, scale=100 if self.share else 1)
        return f"{text} %" if self.share and mean is not None else text


# A figure that no run has is left out; in a narrow terminal the last are.
COLUMNS = {
    "test_errors": _Figure("test errors", 0),
    "test_top1": _Figure("accuracy", 2, share=True),
    "test_map": _Figure("mAP", 2, share=True),
    "test_nll": _Figure("NLL", 4),
    "test_ece": _Figure("ECE", 1, share=True),
    "val_hint": _Figure("held-out hint loss", 4),
    "best_epoch": _Figure("best epoch", 0),
    "seconds": _Figure("seconds", 1),
}


def show_seeds(table: SeedTable) -> None:
    """A row for each seed and one of mean ± sd, on stderr; warnings below."""
    spreads = table.figures
    names = [name for name in COLUMNS if spreads.get(name, Spread(None, None)).mean is not None]
    columns = [Column(heading="seed")]
    columns += [
        Column(heading=COLUMNS[name].heading, rank=rank, right=True)
        for rank, name in enumerate(names)
    ]
    rows = [
        [str(row.seed), *(COLUMNS[name].cell(row.figures.get(name)) for name in names)]
        for row in table.done
    ]
    if rows:
        means = [COLUMNS[name].cell(*spreads[name]) for name in names]
        show_table(columns, [*rows, ["mean ± sd", *means]], "stderr")
    for row in table.done:
        for warning in row.figures.get("warnings") or ():
            say(f"[bold red]warning:[/bold red] seed {row.seed}: {escape(str(warning))}")
