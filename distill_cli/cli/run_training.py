"""Shared by the training verbs: check early, train, show the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill_cli.cli.begun import check_begun
from distill_cli.cli.cache_soft_labels import duration
from distill_cli.cli.options import RunFlags
from distill_cli.cli.progress import progress
from distill_cli.cli.run_summary import summary
from distill_cli.cli.seed_table import show_seeds
from distill_cli.cli.terminal import escape, exactly, leave_saying, print_location, result_json, say
from distill_cli.errors import (
    DivergedError,
    RequirementError,
    StoppedError,
    UsageError,
    counted,
    nearest,
)
from distill_cli.pipeline.entries import check_not_gone
from distill_cli.pipeline.folders import check_finished, check_one_run, check_output
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.pipeline.inputs.teacher_folders import (
    OWN,
    check_distinct,
    check_teachers,
    expand_teachers,
)
from distill_cli.recipe import known_names
from distill_cli.recipe.base import Recipe, TeacherLabels, TrainRecipe
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.recipe.seeds import seed_runs
from distill_cli.recipe.stages import is_several, stages_of

if TYPE_CHECKING:
    from distill_cli.pipeline.run.dry_run import Rehearsal
    from distill_cli.pipeline.run.train import Finished
    from distill_cli.training.events import Sink


def run_training(recipe: TrainRecipe, flags: RunFlags) -> None:
    """Trains what a recipe says, and prints where it is and what it reached.

    Raises:
        RequirementError: A gate was not met; everything is saved.
        StoppedError: A signal came, or the time was up.
    """
    if recipe.seeds is not None:
        _run_seeds(recipe, flags)
        return
    check_early(recipe, resume=flags.resume, overwrite=flags.overwrite)
    label = recipe.COMMAND.split()[0]
    if flags.dry_run:
        with progress(label, quiet=flags.quiet) as sink:
            from distill_cli.pipeline.run.dry_run import rehearse

            rehearsed = rehearse(recipe, sink=sink, resume=flags.resume, overwrite=flags.overwrite)
        if not flags.quiet:
            say(rehearsal(rehearsed))
        show_recipe(recipe, json=flags.json)
        return
    with resumable_shown(json=flags.json):
        finished = _trained(recipe, flags, label)
    if not flags.quiet:
        say(summary(finished))
    if flags.json:
        result_json({"run": str(finished.run), **finished.result.to_json()})
    else:
        print_location(finished.run, named=not flags.quiet)
    if finished.unmet:
        raise RequirementError(f"not met: {'; '.join(finished.unmet)}; the run is saved")


def _trained(recipe: TrainRecipe, flags: RunFlags, label: str) -> Finished:
    with progress(label, quiet=flags.quiet) as sink:
        # The display first: the import of torch takes seconds.
        from distill_cli.pipeline.run.stages import run

        resume, overwrite = flags.resume, flags.overwrite
        return run(recipe, sink=sink, resume=resume, overwrite=overwrite, leave=leave_saying)


@contextmanager
def resumable_shown(*, json: bool) -> Iterator[None]:
    """Shows the folder of what is stopped because its time is up: exit code 0 promises a result."""
    try:
        yield
    except StoppedError as stopped:
        if stopped.exit_code == 0 and stopped.run is not None:
            show_resumable(stopped.run, json=json)
        raise


def show_resumable(run: Path, *, json: bool) -> None:
    """A run on stdout that its time was up for; the line on stderr names it too."""
    if json:
        result_json({"run": str(run), "state": "resumable"})
    else:
        print_location(run, named=True)


def _run_seeds(recipe: TrainRecipe, flags: RunFlags) -> None:
    """The same under several seeds.

    Raises:
        DivergedError: Some did; the others are done.
        RequirementError: A gate was not met; everything is saved.
    """
    if flags.resume:
        check_begun(recipe)
    out = Path(recipe.out or "the run")
    runs = seed_runs(recipe, out)
    # The runs differ in nothing that is checked here but their folders.
    _check_inputs_of_stages(runs[0].recipe, runs[0].out, resume=flags.resume)
    if recipe.out is not None:
        check_output(out, resume=flags.resume, overwrite=flags.overwrite, seeds=True)
    label = recipe.COMMAND.split()[0]
    if flags.dry_run:
        with progress(label, quiet=flags.quiet) as sink:
            from distill_cli.pipeline.run.dry_run import rehearse_seeds

            rehearsed, to_come = rehearse_seeds(
                recipe, sink=sink, resume=flags.resume, overwrite=flags.overwrite
            )
        if not flags.quiet:
            say(rehearsal(rehearsed, seeds=to_come))
        show_recipe(recipe, json=flags.json)
        return
    lines: set[str] = set()

    def shown(title: str) -> AbstractContextManager[Sink]:
        return progress(f"{label}, {title}", quiet=flags.quiet, earlier=lines)

    with shown(counted(len(runs), "seed")):
        from distill_cli.pipeline.run.seeds import train_seeds
    resume, overwrite = flags.resume, flags.overwrite
    with resumable_shown(json=flags.json):
        finished = train_seeds(
            recipe, shown=shown, resume=resume, overwrite=overwrite, leave=leave_saying
        )
    table = finished.table
    if not flags.quiet:
        show_seeds(table)
        say(f"{counted(len(table.done), 'run')} of {len(table.rows)} → {escape(str(finished.out))}")
    if flags.json:
        result_json({"run": str(finished.out), **table.to_json()})
    else:
        print_location(finished.out, named=not flags.quiet)
    missed = f"not met: {'; '.join(finished.unmet)}" if finished.unmet else ""
    if table.diverged:
        saved = "the others are saved" if table.done else ""
        raise DivergedError("; ".join(filter(None, (table.divergence, saved, missed))))
    if missed:
        raise RequirementError(f"{missed}; the runs are saved")


def show_recipe(recipe: Recipe, *, json: bool) -> None:
    """A recipe on stdout, and nothing done."""
    if json:
        result_json(recipe.model_dump(mode="json"))
    else:
        exactly(to_yaml(recipe))


def rehearsal(runs: Sequence[Rehearsal], *, seeds: Sequence[int] = ()) -> str:
    """Description of each run, its number of steps and about how long it takes; rich markup.

    Args:
        runs: The stages of one run, or the only one.
        seeds: The seeds, where there are several, whose runs are to come.
    """
    if not runs:
        return "Nothing is left to do: all seeds are done"
    lines = []
    for run in runs:
        recipe, speed = run.recipe, run.speed
        name = f"{run.stage}: " if run.stage else ""
        lines += [
            f"{name}{recipe.model}, {counted(run.params, 'parameter')}, {recipe.opt}, lr {recipe.lr:.4g}, "
            f"weight decay {recipe.weight_decay:g}, batch {recipe.batch_size}, "
            f"augment {','.join(recipe.augment or [])}, {recipe.precision} on {recipe.device}",
            f"{counted(recipe.epochs, 'epoch')} of {counted(run.steps, 'step')}, "
            f"{recipe.epochs * run.steps:,} in all: about {duration(run.seconds)}, measured on noise "
            f"({speed.steps} × {counted(speed.images, 'image')})",
        ]
    seconds = sum(run.seconds for run in runs)
    if seeds:
        named = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
        lines.append(f"{named}, as much each: in all about {duration(len(seeds) * seconds)}")
    elif len(runs) > 1:
        lines.append(f"in all about {duration(seconds)}")
    left = dict.fromkeys(thing for run in runs for thing in run.left)
    return "\n".join(map(escape, [*lines, f"Left to the run: {'; '.join(left)}"]))


def check_early(recipe: TrainRecipe, *, resume: bool, overwrite: bool) -> None:
    """Refuses what paths and folders tell, before torch is imported."""
    if resume:
        check_begun(recipe)
    if recipe.out is not None:
        check_output(Path(recipe.out), resume=resume, overwrite=overwrite)
    _check_inputs_of_stages(recipe, Path(recipe.out or "the run"), resume=resume)


def _check_inputs_of_stages(recipe: TrainRecipe, out: Path, *, resume: bool) -> None:
    if not is_several(recipe):
        _check_inputs(recipe, made=(), resume=resume)
        return
    stages = stages_of(recipe, out)
    for number, stage in enumerate(stages):
        made = [str(earlier.out) for earlier in stages[:number]]
        _check_inputs(stage.recipe, made=made, resume=resume)


def _check_inputs(recipe: TrainRecipe, made: Sequence[str], *, resume: bool) -> None:
    """Checks teachers, data, model and starting weights, but for those that earlier stages make."""
    if recipe.model is not None and not known_names.is_model(recipe.model):
        raise UsageError(
            f"model: there is no network '{recipe.model}'. "
            f"{nearest(recipe.model, known_names.models())}"
        )
    given = [*(getattr(recipe, "teachers", None) or []), recipe.init]
    given = [name for name in given if name is not None and name not in made]
    if isinstance(recipe, TeacherLabels):
        check_teachers(recipe.teachers)
        outside = [name for name in recipe.teachers or [] if name not in made]
        expanded = expand_teachers(outside, own=isinstance(recipe, StudentRecipe))
        given = [name for name in given if name not in OWN]
        if recipe.recorded is None:
            # Runs of earlier versions go on with the teachers they have, one of them twice too.
            check_distinct(expanded)
    elif recipe.data is None and recipe.init is None:
        raise UsageError("which images? Give --data", hint="Try --data digits, which is built in")
    if recipe.init is not None and recipe.init not in made:
        if not Path(recipe.init).exists():
            raise UsageError(f"--init {recipe.init} does not exist")
        refuse_file(Path(recipe.init), "--init")
        check_one_run(Path(recipe.init))
        check_not_gone(Path(recipe.init))
    check_finished(given, recipe.out if resume else None)
