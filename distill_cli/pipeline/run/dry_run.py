"""A dry run: all that a training opens and checks, without pixels, weights and gate.

It goes through the functions of the run itself, which leave out what costs or writes; so that
whatever is refused here is refused there, in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill_cli.data.loader import Loader
from distill_cli.errors import ArtifactError
from distill_cli.files import real_path
from distill_cli.pipeline.folders import has_checkpoint, has_model
from distill_cli.pipeline.inputs.artifacts import DRY, Artifacts, PlannedRun
from distill_cli.pipeline.inputs.data import OpenData, OpenedOnce, open_data
from distill_cli.pipeline.objective.sources import related
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.resume import check_anew, check_begun
from distill_cli.pipeline.run.rounds import rounds_for
from distill_cli.pipeline.run.seeds import seeded
from distill_cli.pipeline.run.speed import Speed, measure, seconds_of
from distill_cli.pipeline.run.stages import check_kept, like, staged
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.load import read_yaml
from distill_cli.recipe.recorded import mapping
from distill_cli.recipe.resolved import ResolvedRecipe
from distill_cli.recipe.seeds import SEEDS
from distill_cli.recipe.stages import RECIPE as STAGE_RECIPE
from distill_cli.recipe.stages import is_several
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.events import Silent, Sink
from distill_cli.types import UNREAD


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A run that could begin.

    Attributes:
        stage: The name of this stage among several; None where it is the only one.
        recipe: With every value resolved.
        params: Parameters of the network.
        steps: Training steps of an epoch.
        seconds: An estimate of how long the training will take.
        speed: The measurement that the estimate rests on.
        left: Checks that only the run itself can make, in words.
    """

    stage: str | None
    recipe: ResolvedRecipe
    params: int
    steps: int
    seconds: float
    speed: Speed
    left: tuple[str, ...]


def rehearse(
    recipe: TrainRecipe, *, sink: Sink, resume: bool = False, overwrite: bool = False
) -> list[Rehearsal]:
    """Opens and checks what a training would, and says what it would do; nothing is written.

    Args:
        recipe: The recipe of any training verb.
        sink: Shows messages.
        resume: As for the run.
        overwrite: As for the run.

    Returns:
        One for each stage that is still to be run.

    Raises:
        DistillError: As the run would, where that can be known beforehand.
    """
    runs_to_come = list(_prepared_runs(recipe, sink, resume=resume, overwrite=overwrite))
    # Afterwards: networks change while they are timed, and later stages start from earlier ones.
    return [_rehearsed(*entry) for entry in runs_to_come]


def rehearse_seeds(
    recipe: TrainRecipe, *, sink: Sink, resume: bool = False, overwrite: bool = False
) -> tuple[list[Rehearsal], list[int]]:
    """The same for a recipe of several seeds; the first run that is to come is timed for them all.

    Returns:
        One for each stage of a run, none where all runs are finished; and the seeds to come.
    """
    recipe, runs = seeded(recipe, resume=resume, overwrite=overwrite)
    if not overwrite:
        check_kept(recipe, Path(str(recipe.out)) / SEEDS)
    opening = OpenedOnce()
    timed: list[tuple[str | None, PreparedRun, Loader]] = []
    to_come = []
    for run in runs:
        if run.is_done and not overwrite:
            sink.message(f"seed {run.seed}: done before")
            if (run.out / "last").exists():
                list(_prepared_runs(run.recipe, Silent(), resume=True, opening=opening))
            continue
        shows = Silent() if timed else sink
        entries = list(
            _prepared_runs(
                run.recipe, shows, resume=not overwrite, overwrite=overwrite, opening=opening
            )
        )
        timed = timed or entries
        to_come.append(run.seed)
    return [_rehearsed(*entry) for entry in timed], to_come


def _prepared_runs(
    recipe: TrainRecipe,
    sink: Sink,
    *,
    resume: bool,
    overwrite: bool = False,
    opening: OpenData = open_data,
) -> Iterator[tuple[str | None, PreparedRun, Loader]]:
    """The prepared run of each stage, or the only one, and the batches that it would show."""
    if not is_several(recipe):
        options = {"resume": resume, "overwrite": overwrite}
        yield None, *_prepared(recipe, DRY, opening, sink=sink, **options)
        return
    recipe, stages = staged(recipe, resume=resume, overwrite=overwrite)
    if not overwrite:
        check_kept(recipe, Path(str(recipe.out)) / STAGE_RECIPE)
    runs, rounds = DRY, rounds_for(recipe, stages, opening)
    if rounds is not None:
        rounds.check(sink, glance=True)
    for number, stage in enumerate(stages, start=1):
        label = f"stage {number} of {len(stages)}, {stage.name}"
        done = number < len(stages) and (stage.out / "result.json").is_file()
        if done and not overwrite:
            if has_checkpoint(stage.out):
                # Finished stages are checked too, as the run checks them: later ones may learn from them.
                finished = like(stage, runs)
                _prepared(finished, runs, opening, sink=Silent(), resume=True, overwrite=False)
            sink.message(f"{label}: done before")
            continue
        sink.message(label)
        stage_recipe = like(stage, runs)
        opened = opening if rounds is None else rounds.rehearsed(number)
        prepared, loader = _prepared(
            stage_recipe, runs, opened, sink=sink, resume=not overwrite, overwrite=overwrite
        )
        values = prepared.kept.model_dump(mode="json")
        there = PlannedRun(recipe=values, network=prepared.network)
        runs = replace(runs, coming={**runs.coming, real_path(stage.out): there})
        yield stage.name, prepared, loader


def _prepared(
    recipe: TrainRecipe,
    runs: Artifacts,
    opening: OpenData,
    *,
    sink: Sink,
    resume: bool,
    overwrite: bool,
) -> tuple[PreparedRun, Loader]:
    """A run up to its first step; weights that are not read are what they were when it was begun."""
    if resume and recipe.out is not None:
        runs = replace(runs, taught_by=_taught_by(Path(recipe.out) / "recipe.yaml"))
    prepared = prepare(
        recipe, sink=sink, resume=resume, overwrite=overwrite, runs=runs, opening=opening
    )
    # Compiling would take longer than all else together.
    eager = replace(prepared, recipe=prepared.recipe.model_copy(update={"compile": False}))
    loader = trainer_of(eager, sink).loader
    if resume and _is_known(prepared):
        if has_checkpoint(prepared.run):
            check_begun(prepared)
        elif has_model(prepared.run):
            check_anew(prepared)
    return prepared, loader


def _taught_by(file: Path) -> Sequence[str]:
    """The fingerprints of its teachers that a run has noted."""
    kept = read_yaml(file, ArtifactError) if file.is_file() else {}
    noted = mapping(kept.get("recorded")).get("teachers")
    return [str(mark) for mark in noted] if isinstance(noted, list) else []


def _is_known(prepared: PreparedRun) -> bool:
    """Whether all is known, or taken to be what it was, that tells this run from others."""
    identity = prepared.dataset.identity
    weights_read = UNREAD not in [member.fingerprint for member in prepared.members]
    shown = prepared.teacher_data
    if shown is not None and shown.fingerprint == UNREAD:
        return False
    return identity.is_read and weights_read and not related(prepared.recipe)


def _left(prepared: PreparedRun) -> tuple[str, ...]:
    left = ["the pixels"]
    lists = (prepared.recipe.relabel, prepared.recipe.unlabelled_list)
    if not all(Path(name).exists() for name in lists if name is not None):
        left.append("which images each round chooses (all are counted)")
    live = any(isinstance(member, LiveTeacher) for member in prepared.members)
    if live:
        left.append("what the teachers know (their weights are not read)")
    if not prepared.dataset.identity.is_read:
        left.append("whether caches and teachers were made of these images (too many to open)")
    if has_checkpoint(prepared.run) and (live or not _is_known(prepared)):
        left.append(f"whether {prepared.run} was begun from the same")
    return tuple(left)


def _rehearsed(name: str | None, prepared: PreparedRun, loader: Loader) -> Rehearsal:
    params = prepared.network.num_params
    speed = measure(prepared)
    return Rehearsal(
        stage=name,
        recipe=prepared.kept,
        params=params,
        steps=loader.steps,
        seconds=seconds_of(prepared, loader, speed),
        speed=speed,
        left=_left(prepared),
    )
