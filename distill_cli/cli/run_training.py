"""Shared by the training verbs: check early, train, show the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill_cli.cli.begun import check_begun
from distill_cli.cli.dump_costs import duration
from distill_cli.cli.early_checks import check_early, check_inputs_of_stages
from distill_cli.cli.options import RunFlags
from distill_cli.cli.progress import progress
from distill_cli.cli.round_table import show_rounds
from distill_cli.cli.seed_table import show_seeds
from distill_cli.cli.terminal import escape, exactly, leave_saying, print_location, result_json, say
from distill_cli.errors import (
    DivergedError,
    RequirementError,
    StoppedError,
    counted,
)
from distill_cli.pipeline.folders import check_output
from distill_cli.recipe.base import Recipe, TrainRecipe
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.seeds import seed_runs
from distill_cli.report.rounds import read_rounds
from distill_cli.types import HintResult, RunResult

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
    rounds = read_rounds(finished.run)
    if not flags.quiet:
        if rounds is not None:
            show_rounds(rounds)
        say(summary(finished))
    if flags.json:
        told = {} if rounds is None else {"rounds": rounds.to_json()["rounds"]}
        result_json({"run": str(finished.run), **finished.result.to_json(), **told})
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
    check_inputs_of_stages(runs[0].recipe, runs[0].out, resume=flags.resume)
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


def _calibrated(figures: RunResult) -> list[str]:
    if not figures.scaled or figures.test_ece_scaled is None:
        return []
    return [
        f"at the temperature {figures.temperature:.2f}, fitted on held-out images: "
        f"NLL {figures.test_nll_scaled:.4f}, ECE {100 * figures.test_ece_scaled:.1f} %"
    ]


def _epoch(figures: RunResult | HintResult) -> str:
    """The epoch that was kept, and why."""
    chosen = figures.val_hint if isinstance(figures, HintResult) else figures.val_top1
    if chosen is None:
        return f"nothing held out, last epoch {figures.best_epoch}"
    return f"best epoch {figures.best_epoch}"


def summary(finished: Finished) -> str:
    """The figures in a few lines."""
    figures = finished.result
    first = (
        f"[bold]{escape(str(finished.recipe.model))}[/bold], {counted(figures.params, 'parameter')}, "
        f"{_epoch(figures)} of {finished.recipe.epochs}"
    )
    warned = "".join(f"\n[bold red]warning:[/bold red] {escape(w)}" for w in figures.warnings)
    if isinstance(figures, HintResult):
        where = escape(str(finished.run))
        loss = "nothing held out"
        if figures.val_hint is not None:
            loss = f"held-out hint loss [bold]{figures.val_hint:.4g}[/bold]"
        return (
            f"{first}\n{loss} in "
            f"{figures.seconds:.0f} s → {where}\n"
            f"Go on with [bold]distill student --init {where} --teachers …[/bold]"
            f"{warned}"
        )
    lines = [
        first,
        f"test: [bold]{counted(figures.test_errors, 'error')}[/bold] of {figures.test_samples:,} "
        f"({100 * figures.test_top1:.2f} % right), NLL {figures.test_nll:.4f}, "
        f"ECE {100 * figures.test_ece:.1f} %",
        *_calibrated(figures),
    ]
    if figures.test_coarse_top1 is not None:
        lines.append(f"groups of classes: {100 * figures.test_coarse_top1:.2f} % right")
    if figures.test_map is not None and figures.test_f1 is not None:
        lines.append(
            f"by label: mAP {100 * figures.test_map:.2f} %, F1 {100 * figures.test_f1:.2f} %"
        )
    if figures.teacher_agreement is not None:
        lines.append(f"agrees with its teacher on {100 * figures.teacher_agreement:.1f} % of test")
    lines += [
        f"{escape(peer.name)}, trained along: {counted(peer.test_errors, 'error')} "
        f"({100 * peer.test_top1:.2f} % right), {counted(peer.params, 'parameter')}, best epoch {peer.best_epoch}"
        for peer in figures.peers
    ]
    lines.append(
        f"{figures.seconds:.0f} s at {figures.images_per_second:,.0f} images/s → "
        f"{escape(str(finished.run))}"
    )
    return "\n".join(lines) + warned
