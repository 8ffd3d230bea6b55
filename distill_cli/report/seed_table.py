"""Runs of several seeds side by side: the file seeds.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distill_cli.errors import ArtifactError
from distill_cli.readers.json_values import read_json
from distill_cli.types.relation import is_number

TABLE = "seeds.json"


class Spread(NamedTuple):
    """Mean and sample standard deviation (n − 1) of a figure over the runs that have it.

    Attributes:
        mean: The mean; None where no run has it.
        sd: The deviation; None below two runs.
    """

    mean: float | None
    sd: float | None


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of a figure's values."""
    return Spread(
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if len(values) > 1 else None,
    )


@dataclass(frozen=True, kw_only=True)
class SeedRow:
    """The run of one seed, ended.

    Attributes:
        seed: The seed.
        figures: Its result.json; empty where it diverged.
        reason: How it diverged, in words; None where it finished.
    """

    seed: int
    figures: Mapping[str, Any]
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row, with the name of its folder."""
        head = {"seed": self.seed, "run": f"seed-{self.seed}"}
        if self.reason is not None:
            return {**head, "state": "diverged", "reason": self.reason}
        return {**head, "state": "done", "figures": dict(self.figures)}


@dataclass(frozen=True, kw_only=True)
class SeedTable:
    """Runs of one recipe that differ in their seed, all of them ended.

    Attributes:
        rows: One a seed, by seed.
    """

    rows: tuple[SeedRow, ...]

    @property
    def done(self) -> tuple[SeedRow, ...]:
        """The runs that finished."""
        return tuple(row for row in self.rows if row.reason is None)

    @property
    def diverged(self) -> tuple[SeedRow, ...]:
        """The others."""
        return tuple(row for row in self.rows if row.reason is not None)

    @property
    def divergence(self) -> str:
        """These in words: `seed 3 diverged (the loss is …)`; empty where all finished."""
        return ", ".join(f"seed {row.seed} diverged ({row.reason})" for row in self.diverged)

    @property
    def figures(self) -> dict[str, Spread]:
        """The spread of every figure that is a number in some run, in the order of result.json."""
        names = dict.fromkeys(
            name for row in self.done for name in row.figures if name not in ("warnings", "peers")
        )
        return {name: spread_of(self.values(name)) for name in names}

    def values(self, figure: str) -> list[float]:
        """A figure of every run that has it."""
        values = [row.figures.get(figure) for row in self.done]
        return [value for value in values if value is not None]

    def folders(self, out: Path) -> list[Path]:
        """The folders of the runs that finished, by seed."""
        return [out / f"seed-{row.seed}" for row in self.done]

    def to_json(self) -> dict[str, Any]:
        """The content of seeds.json."""
        return {
            "seeds": [row.seed for row in self.rows],
            "figures": {name: spread._asdict() for name, spread in self.figures.items()},
            "runs": [row.to_json() for row in self.rows],
        }


def read_table(folder: Path) -> SeedTable:
    """The table of a folder.

    Raises:
        ArtifactError: It is missing or malformed.
    """
    content = read_json(folder / TABLE)
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list) or not runs or not all(map(_is_row, runs)):
        raise ArtifactError(
            f"{folder / TABLE} is malformed: it lists no runs",
            hint=f"Make it anew with --resume --out {folder}",
        )
    rows = [
        SeedRow(seed=run["seed"], figures=run.get("figures") or {}, reason=run.get("reason"))
        for run in runs
    ]
    return SeedTable(rows=tuple(rows))


def _is_row(run: Any) -> bool:
    if not isinstance(run, dict) or type(run.get("seed")) is not int or run["seed"] < 0:
        return False
    figures, reason = run.get("figures") or {}, run.get("reason")
    numbers = isinstance(figures, dict) and all(
        value is None or is_number(value)
        for name, value in figures.items()
        if name not in ("warnings", "peers")
    )
    return numbers and (reason is None or isinstance(reason, str))
