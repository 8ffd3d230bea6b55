"""Run folders that are compared or shown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from distill_cli.cache.folder import expand
from distill_cli.errors import UsageError
from distill_cli.files import real_path
from distill_cli.pipeline.folders import check_one_run, finished_seeds
from distill_cli.recipe.recorded import is_spelled
from distill_cli.recipe.stages import RECIPE as STAGES_RECIPE
from distill_cli.report.format import natural
from distill_cli.report.run_folder import RECIPE, NoFiguresError, RunSummary, read_run
from distill_cli.types import STAGES


def finished_runs(folders: Iterable[Path]) -> tuple[list[RunSummary], list[str]]:
    """The runs in these folders, those of several seeds one by one; and notes on what is left out.

    RUN/stages means its stages and RUN itself. A folder that holds no finished run is left out, for a pattern as
    `runs/*` may mean such ones too.

    Raises:
        UsageError: There is no such folder.
        NoFiguresError: None of them holds a finished run.
        ArtifactError: A file of one is malformed.
    """
    runs: list[RunSummary] = []
    notes, left_out = [], list[NoFiguresError]()
    # The same folder twice is one run, not two seeds.
    each = [one for folder in folders for one in _by_stage(folder)]
    for folder in {real_path(folder): folder for folder in each}.values():
        try:
            expanded, diverged = _by_seed(folder)
            runs += [read_run(run) for run in expanded]
            notes += diverged
        except NoFiguresError as error:
            left_out.append(error)
    if not runs and left_out:
        raise left_out[0]
    distinct = {real_path(run.folder): run for run in runs}
    notes += [f"{error.message}; it is left out" for error in left_out]
    return as_meant(list(distinct.values())), notes


def _by_stage(folder: Path) -> list[Path]:
    """The runs of all stages, the last one at the end, where a folder is that of the earlier ones; else itself."""
    if folder.name != STAGES or not (folder.parent / STAGES_RECIPE).is_file():
        return [folder]
    stages = [stage.parent for stage in folder.glob(f"*/{RECIPE}")]
    return [*sorted(stages, key=lambda stage: natural(stage.name)), folder.parent]


def _by_seed(folder: Path) -> tuple[list[Path], list[str]]:
    """A run folder, or the runs of several seeds in it; and a note on runs that diverged."""
    if not folder.exists():
        raise UsageError(f"{folder} does not exist", hint="Give the folder of a run")
    if expand(folder):
        raise NoFiguresError(f"{folder} holds soft labels, no run")
    table = finished_seeds(folder)
    if table is None:
        return [folder], []
    if not table.done:
        raise NoFiguresError(f"{folder} has no run that finished: {table.divergence}")
    notes = [f"{folder}: {table.divergence}"] if table.diverged else []
    return table.folders(folder), notes


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
    return as_meant(runs)


def as_meant(runs: list[RunSummary]) -> list[RunSummary]:
    """The same runs, those of an earlier version with the defaults that it had."""
    if all(is_spelled(run.recorded) for run in runs):
        return runs
    # Defaults of objectives are declared beside torch, which takes seconds to import.
    from distill_cli.pipeline.objective.entries import with_values

    return [with_values(run) for run in runs]
