"""Run folders that are compared or shown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from distill_cli.recipe.recorded import is_spelled
from distill_cli.report.run_folder import RunSummary, read_run


def read_runs(folders: Iterable[Path]) -> list[RunSummary]:
    """Runs as they were meant: those of an earlier version have the defaults that it had.

    Raises:
        UsageError: There is no such folder.
        ArtifactError: One is no run, did not finish, or a file in it is malformed.
    """
    runs = [read_run(folder) for folder in folders]
    if all(is_spelled(run.recorded) for run in runs):
        return runs
    # Defaults of objectives are declared beside torch, which takes seconds to import.
    from distill_cli.pipeline.objective.entries import with_values

    return [with_values(run) for run in runs]
