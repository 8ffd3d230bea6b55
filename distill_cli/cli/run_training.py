"""Shared by the training verbs: check early, train, show the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from distill_cli.cli.cache_soft_labels import duration
from distill_cli.cli.options import RunFlags
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import exactly, leave_saying, print_location, result_json, say
from distill_cli.errors import RequirementError, StoppedError, UsageError, counted
from distill_cli.pipeline.folders import check_finished, check_output
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.pipeline.inputs.teacher_folders import check_teachers, expand_teachers
from distill_cli.recipe.base import Recipe, TeacherLabels, TrainRecipe
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.stages import is_several, stages_of
from distill_cli.types import HintResult, RunResult

if TYPE_CHECKING:
    from distill_cli.pipeline.run.dry_run import Rehearsal
    from distill_cli.pipeline.run.train import Finished


def run_training(recipe: TrainRecipe, flags: RunFlags) -> None:
    """Trains what a recipe says, and prints where it is and what it reached.

    Raises:
        RequirementError: A gate was not met; everything is saved.
        StoppedError: A signal came, or the time was up.
    """
    check_early(recipe, resume=flags.resume, overwrite=flags.overwrite)
    label = recipe.COMMAND.split()[0]
    if flags.dry_run:
        with progress(label, quiet=flags.quiet) as sink:
            from distill_cli.pipeline.run.dry_run import rehearse

            rehearsed = rehearse(recipe, sink=sink, resume=flags.resume, overwrite=flags.overwrite)
        if not flags.quiet:
            say(escape(rehearsal(rehearsed)))
        show_recipe(recipe, json=flags.json)
        return
    try:
        finished = _trained(recipe, flags, label)
    except StoppedError as stopped:
        if stopped.exit_code == 0 and stopped.run is not None:
            # Exit code 0 promises a result: the folder that goes on.
            show_resumable(stopped.run, json=flags.json)
        raise
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


def show_resumable(run: Path, *, json: bool) -> None:
    """A run on stdout that its time was up for; the line on stderr names it too."""
    if json:
        result_json({"run": str(run), "state": "resumable"})
    else:
        print_location(run, named=True)


def show_recipe(recipe: Recipe, *, json: bool) -> None:
    """A recipe on stdout, and nothing done."""
    if json:
        result_json(recipe.model_dump(mode="json"))
    else:
        exactly(to_yaml(recipe))


def rehearsal(runs: Sequence[Rehearsal]) -> str:
    """Description of each run, its number of steps and about how long it takes."""
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
    if len(runs) > 1:
        lines.append(f"in all about {duration(sum(run.seconds for run in runs))}")
    left = dict.fromkeys(thing for run in runs for thing in run.left)
    return "\n".join([*lines, f"Left to the run: {'; '.join(left)}"])


def check_early(recipe: TrainRecipe, *, resume: bool, overwrite: bool) -> None:
    """Refuses what paths and folders tell, before torch is imported."""
    if recipe.out is not None:
        check_output(Path(recipe.out), resume=resume, overwrite=overwrite)
    if not is_several(recipe):
        _check_inputs(recipe, made=(), resume=resume)
        return
    stages = stages_of(recipe, Path(recipe.out or "the run"))
    for number, stage in enumerate(stages):
        made = [str(earlier.out) for earlier in stages[:number]]
        _check_inputs(stage.recipe, made=made, resume=resume)


def _check_inputs(recipe: TrainRecipe, made: Sequence[str], *, resume: bool) -> None:
    """Checks teachers, data and starting weights, but for those that earlier stages will make."""
    given = [*(getattr(recipe, "teachers", None) or []), recipe.init]
    given = [name for name in given if name is not None and name not in made]
    if isinstance(recipe, TeacherLabels):
        check_teachers(recipe.teachers)
        expand_teachers([name for name in recipe.teachers or [] if name not in made])
    elif recipe.data is None:
        raise UsageError("which images? Give --data", hint="Try --data digits, which is built in")
    if recipe.init is not None and recipe.init not in made and not Path(recipe.init).exists():
        raise UsageError(f"--init {recipe.init} does not exist")
    if recipe.init is not None and recipe.init not in made:
        refuse_file(Path(recipe.init), "--init")
    check_finished(given, recipe.out if resume else None)


def _calibrated(figures: RunResult) -> list[str]:
    if not figures.scaled or figures.test_ece_scaled is None:
        return []
    return [
        f"at the temperature {figures.temperature:.2f}, fitted on held-out images: "
        f"NLL {figures.test_nll_scaled:.4f}, ECE {100 * figures.test_ece_scaled:.1f} %"
    ]


def summary(finished: Finished) -> str:
    """The figures in a few lines."""
    figures = finished.result
    first = (
        f"[bold]{escape(str(finished.recipe.model))}[/bold], {counted(figures.params, 'parameter')}, "
        f"best epoch {figures.best_epoch} of {finished.recipe.epochs}"
    )
    warned = "".join(f"\n[bold red]warning:[/bold red] {escape(w)}" for w in figures.warnings)
    if isinstance(figures, HintResult):
        where = escape(str(finished.run))
        return (
            f"{first}\nheld-out hint loss [bold]{figures.val_hint:.4g}[/bold] in "
            f"{figures.seconds:.0f} s → {where}\n"
            f"Go on with [bold]distill student --init {where} --teachers …[/bold]"
            f"{warned}"
        )
    lines = [
        first,
        f"test: [bold]{counted(figures.test_errors, 'error')}[/bold] of {figures.test_samples:,} "
        f"({100 * figures.test_top1:.2f} %), NLL {figures.test_nll:.4f}, "
        f"ECE {100 * figures.test_ece:.1f} %",
        *_calibrated(figures),
    ]
    if figures.test_map is not None and figures.test_f1 is not None:
        lines.append(
            f"by label: mAP {100 * figures.test_map:.2f} %, F1 {100 * figures.test_f1:.2f} %"
        )
    if figures.teacher_agreement is not None:
        lines.append(f"agrees with its teacher on {100 * figures.teacher_agreement:.1f} % of test")
    lines.append(
        f"{figures.seconds:.0f} s at {figures.images_per_second:,.0f} images/s → "
        f"{escape(str(finished.run))}"
    )
    return "\n".join(lines) + warned
