"""Several seeds of one recipe: each an ordinary run in a folder of its own, and a table of them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill_cli import __version__
from distill_cli.errors import ArtifactError, DivergedError, UsageError, counted
from distill_cli.files import one_writer, remove, remove_temporaries, write_json, write_text
from distill_cli.pipeline.folders import check_output, clear_run, holds_run, next_free
from distill_cli.pipeline.inputs.data import OpenData, OpenedOnce
from distill_cli.pipeline.run.machine import runtime_of
from distill_cli.pipeline.run.prepared import KINDS
from distill_cli.pipeline.run.requirements import unmet_by_seeds
from distill_cli.pipeline.run.resume import as_made, begun_by
from distill_cli.pipeline.run.stages import (
    check_before,
    check_inside,
    check_kept,
    run,
    tidied,
)
from distill_cli.pipeline.run.together import train_together
from distill_cli.pipeline.run.train import Whole, leave
from distill_cli.readers.json_values import read_json
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.load import read_yaml, to_yaml, validate
from distill_cli.recipe.recorded import asked_of, made_by
from distill_cli.recipe.seeds import SEEDS, SeedRun, seed_runs, seeds_of
from distill_cli.recipe.stages import is_several
from distill_cli.report.seed_table import TABLE, SeedRow, SeedTable
from distill_cli.training.events import Sink
from distill_cli.training.pauses import TimeLimit

Shown = Callable[[str], AbstractContextManager[Sink]]


@dataclass(frozen=True, kw_only=True)
class FinishedSeeds:
    """Runs of several seeds, all of them ended.

    Attributes:
        out: The folder that holds them.
        table: Their figures.
        unmet: Requirements that were not met, in words.
    """

    out: Path
    table: SeedTable
    unmet: tuple[str, ...]


def train_seeds(
    recipe: TrainRecipe,
    *,
    shown: Shown,
    resume: bool = False,
    overwrite: bool = False,
    leave: Callable[[str, int], object] = leave,
) -> FinishedSeeds:
    """Trains a recipe under each of its seeds, and writes seeds.json once all have ended.

    Each run is to the bit the run of that seed alone. The data are opened once.

    Args:
        recipe: The recipe of any training verb, with seeds.
        shown: The sink of a run, by what is under way.
        resume: Train the runs that are missing, and go on with those that were stopped.
        overwrite: Replace what is in the folder.
        leave: Ends the process with a line and an exit code where a step outlasts the grace.

    Raises:
        DistillError: With the exit code of what went wrong; a run that diverges ends alone.
    """
    ranks, asked = runtime_of(recipe).ranks, recipe
    opening = OpenedOnce()

    def checked() -> tuple[TrainRecipe, list[SeedRun]]:
        whole_recipe, runs = seeded(asked, resume=resume, overwrite=overwrite)
        folders = [Path(str(whole_recipe.out)), *(seed_run.out for seed_run in runs)]
        if overwrite and any(map(holds_run, folders)):
            # Refused, if it must be, while the earlier runs are still there.
            with shown(counted(len(runs), "seed")) as sink:
                check_before(runs[0].recipe, sink=sink, resume=False, opening=opening)
        return whole_recipe, runs

    recipe, runs = ranks.together(checked)
    out = Path(str(recipe.out))
    folders = [out, *(seed_run.out for seed_run in runs)]

    def kept() -> None:
        check_kept(recipe, out / SEEDS)
        if ranks.led(lambda: any(map(holds_run, folders[1:]))):
            with shown(counted(len(runs), "seed")) as sink:
                for seed_run in runs:
                    check_before(seed_run.recipe, sink=sink, resume=True, opening=opening)

    def begun() -> None:
        write_text(out / SEEDS, to_yaml(recipe))
        remove(out / TABLE)

    with tidied(out), one_writer(out):
        if overwrite:
            ranks.led(lambda: _clear(folders))
        remove_temporaries(out, below=False)
        # On every rank: a teacher may lie in parts on them.
        ranks.together(kept)
        ranks.led(begun)
        whole = Whole(limit=TimeLimit.of(recipe.max_time), leave=leave, out=out)
        done = ranks.led(lambda: {seed_run.seed for seed_run in runs if seed_run.is_done})
        diverged = _train_each(runs, done, shown, opening, whole)
        rows = ranks.led(lambda: tuple(_row(one, diverged.get(one.seed)) for one in runs))
        table = SeedTable(rows=rows)
        write_json(out / TABLE, table.to_json())
    gates = recipe.require if isinstance(recipe, LabelledRecipe) else []
    return FinishedSeeds(out=out, table=table, unmet=unmet_by_seeds(gates, table))


def _train_each(
    runs: Sequence[SeedRun], done: Collection[int], shown: Shown, opening: OpenData, whole: Whole
) -> dict[int, str]:
    """Trains those that are not finished: at once on a GPU, else one after another.

    Args:
        runs: One a seed.
        done: The seeds of those that are finished.
        shown: The sink of a run, by what is under way.
        opening: Opens the data.
        whole: The command.

    Returns:
        By seed, how a run diverged.
    """
    left = [seed_run for seed_run in runs if seed_run.seed not in done]
    if len(left) > 1 and take_turns(left[0].recipe):
        with shown(f"{len(left)} seeds at once") as sink:
            for seed_run in runs:
                if seed_run.seed in done:
                    sink.message(f"seed {seed_run.seed}: done before")
            return train_together(left, sink, opening, whole)
    return _one_after_another(runs, done, shown, opening, whole)


def take_turns(recipe: TrainRecipe) -> bool:
    """Whether runs of a recipe are trained at once: they are one stage each, and a GPU has room.

    Several ranks do one after another: their steps must meet.
    """
    runtime = runtime_of(recipe)
    return not is_several(recipe) and runtime.device.type == "cuda" and runtime.ranks.alone


def _one_after_another(
    runs: Sequence[SeedRun], done: Collection[int], shown: Shown, opening: OpenData, whole: Whole
) -> dict[int, str]:
    diverged: dict[int, str] = {}
    for number, seed_run in enumerate(runs, start=1):
        with shown(f"seed {seed_run.seed} ({number} of {len(runs)})") as sink:
            if seed_run.seed in done:
                sink.message(f"seed {seed_run.seed}: done before")
                continue
            try:
                run(seed_run.recipe, sink=sink, resume=True, opening=opening, whole=whole)
            except DivergedError as error:
                diverged[seed_run.seed] = error.message
                sink.message(f"seed {seed_run.seed}: {error.message}")
    return diverged


def _clear(folders: Sequence[Path]) -> None:
    """Removes earlier runs from the folder of all, whose lock is held, and from each run's."""
    clear_run(folders[0])
    for folder in folders[1:]:
        if holds_run(folder):
            with one_writer(folder):
                clear_run(folder)


def _row(run: SeedRun, reason: str | None) -> SeedRow:
    figures = read_json(run.out / "result.json") if reason is None else {}
    return SeedRow(seed=run.seed, figures=figures, reason=reason)


def seeded(
    recipe: TrainRecipe, *, resume: bool, overwrite: bool
) -> tuple[TrainRecipe, list[SeedRun]]:
    """A recipe of several seeds with its folder, and the runs, by seed.

    Raises:
        UsageError: A folder is in the way, or holds what is learnt from.
    """
    out = Path(recipe.out) if recipe.out else next_free(KINDS[type(recipe)])
    recipe = recipe.model_copy(update={"out": str(out)})
    check_output(out, resume=resume, overwrite=overwrite, seeds=True)
    runs = sorted(seed_runs(recipe, out), key=lambda seed_run: seed_run.seed)
    for seed_run in runs:
        if not (resume and seed_run.is_done):
            check_output(seed_run.out, resume=resume, overwrite=overwrite)
    check_inside(out, [recipe])
    version = made_by(recipe.recorded)
    if resume:
        _check_dropped(recipe, out)
        # Runs that are not begun have the defaults of those that are.
        kept = begun_by([out / SEEDS, *(seed_run.out / "recipe.yaml" for seed_run in runs)])
        runs = [replace(seed_run, recipe=as_made(seed_run.recipe, kept)) for seed_run in runs]
        version = kept or version
    recorded: dict[str, Any] = {"defaults": version or __version__}
    if isinstance(recipe, LabelledRecipe):
        recorded["asked"] = asked_of(recipe)
    return as_made(recipe, version).model_copy(update={"recorded": recorded}), runs


def _check_dropped(recipe: TrainRecipe, out: Path) -> None:
    """Refuses to leave out seeds that the folder has: its table would not be of all its runs."""
    if not (out / SEEDS).is_file():
        return
    kept = validate(type(recipe), read_yaml(out / SEEDS, ArtifactError))
    before = [] if kept.seeds is None else seeds_of(kept)
    if dropped := [str(seed) for seed in before if seed not in seeds_of(recipe)]:
        raise UsageError(
            f"{out} has {counted(len(before), 'seed')}, and these leave out {', '.join(dropped)}",
            hint="Name them too, choose another --out, or replace them with --overwrite",
        )
