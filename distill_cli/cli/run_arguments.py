"""Run folders that are compared or shown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from distill_cli.errors import ArtifactError
from distill_cli.pipeline.folders import check_one_run, finished_seeds
from distill_cli.recipe.recorded import is_spelled
from distill_cli.report.run_folder import RunSummary, read_run


def by_seed(folders: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Run folders, those of several seeds as their runs; and notes on runs that are not among them.

    Raises:
        ArtifactError: The runs of several seeds have not all ended, or all diverged.
    """
    runs: list[Path] = []
    notes = []
    for folder in folders:
        table = finished_seeds(folder)
        if table is None:
            runs.append(folder)
            continue
        if not table.done:
            raise ArtifactError(f"{folder} has no run that finished: {table.divergence}")
        runs += table.folders(folder)
        notes += [f"{folder}: {table.divergence}"] if table.diverged else []
    return runs, notes


def read_runs(folders: Iterable[Path]) -> list[RunSummary]:
    """Runs as they were meant: those of an earlier version have the defaults that it had.

    Raises:
        UsageError: There is no such folder, or it holds runs of several seeds.
        ArtifactError: One is no run, did not finish, or a file in it is malformed.
    """
    runs = []
    for folder in folders:
        check_one_run(folder)
        runs.append(read_run(folder))
    if all(is_spelled(run.recorded) for run in runs):
        return runs
    # Defaults of objectives are declared beside torch, which takes seconds to import.
    from distill_cli.pipeline.objective.entries import with_values

    return [with_values(run) for run in runs]
