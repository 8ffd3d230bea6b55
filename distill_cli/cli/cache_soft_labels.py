"""`distill cache-soft-labels`."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill_cli.cli.command import VerbApp
from distill_cli.cli.dump_costs import show_costs
from distill_cli.cli.options import RunFlags, verb
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import (
    INTERRUPTION,
    escape,
    leave_saying,
    print_location,
    result_json,
    say,
)
from distill_cli.errors import (
    DistillError,
    RequirementError,
    StoppedError,
    UsageError,
    counted,
    is_interrupt,
)
from distill_cli.launched import place
from distill_cli.pipeline.engines.choice import engine_named
from distill_cli.pipeline.folders import check_cache_place, check_finished
from distill_cli.pipeline.inputs.fold_runs import check_cross_fit
from distill_cli.pipeline.inputs.teacher_folders import check_distinct, expand_teachers
from distill_cli.pipeline.labels.placement import Placement, threads_of
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.report.format import share

if TYPE_CHECKING:
    from distill_cli.pipeline.labels.dump import Dumped
    from distill_cli.training.events import Sink

app = VerbApp()


ENGINE_PANEL = "Engine"

On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ENGINE",
        help="Have workers of an engine make the shards: ray (a cluster of this machine's own, or "
        "that of RAY_ADDRESS), ray://HOST:PORT, slurm.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        metavar="KEY=VALUE",
        help="Of the engine, repeatable: workers, num_cpus, num_gpus, retries (ray); workers, "
        "partition, time, gpus_per_node, … (slurm: sbatch's).",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Tasks = Annotated[
    int | None,
    typer.Option(
        "--tasks",
        min=1,
        max=100_000,
        help="Tasks that the missing shards are divided into (ray: one each; slurm: 32).",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Staging = Annotated[
    str | None,
    typer.Option(
        "--staging",
        metavar="URL",
        help="Where workers leave files for --out, if they do not share its disk: s3://… or any "
        "address of fsspec's.",
        rich_help_panel=ENGINE_PANEL,
    ),
]


@app.command()
@verb(CacheRecipe, ranked=True, resumes=False)
def cache_soft_labels(
    recipe: CacheRecipe,
    on: On = None,
    engine_options: EngineOptions = None,
    tasks: Tasks = None,
    staging: Staging = None,
    *,
    flags: RunFlags,
) -> None:
    """Store what frozen teachers say of every view of every training sample.

    A killed dump goes on where it stopped: give the same command again. One cache serves every
    temperature.

    Example: distill cache-soft-labels --teachers runs/a,runs/b --views 4 --out runs/labels
    """
    placement = _placement(recipe, on, engine_options or (), tasks, staging)
    run_dump(recipe, flags, placement)


def _placement(
    recipe: CacheRecipe,
    on: str | None,
    options: Sequence[str],
    tasks: int | None,
    staging: str | None,
) -> Placement | None:
    """Where the dump is made; None for this process.

    Raises:
        UsageError: There is no such engine, or an option needs one.
    """
    if on is not None and place().ranks > 1:
        raise UsageError("--on and --ranks share a dump in two ways", hint="Leave --ranks out")
    if on is None:
        given = {"--engine-option": options, "--tasks": tasks, "--staging": staging}
        if needless := next((flag for flag, value in given.items() if value), None):
            raise UsageError(f"{needless} is an engine's", hint="Say which with --on, as --on ray")
        return None
    if recipe.cross_fit is not None:
        raise UsageError(
            "--cross-fit trains networks here, and --on has workers of an engine make labels alone",
            hint="Leave --on out; --ranks has several processes share the trainings and the labels",
        )
    if recipe.part is not None:
        raise UsageError(
            "--on and --part share a dump in two ways", hint="Leave --part out: --tasks divides it"
        )
    engine = engine_named(on, options, threads=threads_of(recipe))
    return Placement(name=on, engine=engine, tasks=tasks, staging=staging)


def run_dump(recipe: CacheRecipe, flags: RunFlags, placement: Placement | None = None) -> None:
    """Checks early, dumps, and prints where the caches are."""
    if not recipe.teachers:
        raise UsageError("which teachers? Give --teachers RUN[,RUN…]")
    teachers = expand_teachers(recipe.teachers)
    check_distinct(teachers)
    check_finished(teachers, None)
    check_cross_fit(recipe)
    if recipe.out is not None:
        check_cache_place(Path(recipe.out))
    if flags.dry_run:
        show_costs(recipe, flags, placement)
        return
    unmet: Sequence[str] = ()
    overwrite = flags.overwrite
    if recipe.cross_fit is not None:
        recipe, unmet = _folds_trained(recipe, flags)
        overwrite = False
    with interruptible(recipe.out), progress("cache", quiet=flags.quiet) as display:
        views = display.counting("view")
        if placement is None:
            from distill_cli.pipeline.labels.dump import dump

            finished = dump(recipe, sink=display, progress=views, overwrite=overwrite)
        else:
            from distill_cli.pipeline.labels.dump_on import dump_on

            finished = dump_on(
                recipe, placement, sink=display, progress=views, overwrite=flags.overwrite
            )
    if not flags.quiet:
        for dumped in finished:
            say(summary(dumped))
    if flags.json:
        result_json({"caches": [document(dumped) for dumped in finished]})
    else:
        for dumped in finished:
            print_location(dumped.folder, named=not flags.quiet)
    if unmet:
        raise RequirementError(f"not met: {'; '.join(unmet)}; runs and labels are saved")


def _folds_trained(recipe: CacheRecipe, flags: RunFlags) -> tuple[CacheRecipe, Sequence[str]]:
    """Trains the networks of a cross-fitted cache; returns the recipe with its folder, and gates not met."""
    lines: set[str] = set()

    def shown(title: str) -> AbstractContextManager[Sink]:
        return progress(f"cache, {title}", quiet=flags.quiet, earlier=lines)

    with interruptible(recipe.out):
        with shown(f"{recipe.cross_fit} folds"):
            # The display first: the import of torch takes seconds.
            from distill_cli.pipeline.cross_fit import train_folds
        trained = train_folds(recipe, shown=shown, overwrite=flags.overwrite, leave=leave_saying)
    return trained.recipe, trained.unmet


@contextmanager
def interruptible(out: str | None) -> Iterator[None]:
    """Has a Ctrl-C that ends a dump or an import at once say how it goes on.

    Args:
        out: The folder that the command names, if any: it goes on in the same one.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, DistillError) or not is_interrupt(error):
            raise
        again = "The same command" if out else "The same command with --out and its folder"
        raise StoppedError(
            INTERRUPTION, signal_number=signal.SIGINT, hint=f"{again} goes on"
        ) from None


def summary(dumped: Dumped) -> str:
    """Summary of a dump for a person, in a line."""
    speed = dumped.views_per_second
    pace = "nothing was left to do" if speed is None else f"{speed:,.0f} views/s"
    if dumped.made_by:
        nodes = len({worker.node for worker in dumped.made_by})
        pace += f", {counted(len(dumped.made_by), 'worker')} on {counted(nodes, 'node')}"
    where, plan, manifest = escape(str(dumped.folder)), dumped.plan, dumped.manifest
    if manifest is None:
        return (
            f"{where}: {dumped.shards:,} of {counted(len(plan.shards()), 'shard')} ({pace}); "
            "join the parts with [bold]distill cache merge[/bold]"
        )
    right = "nothing is labelled"
    if manifest.teacher_accuracy is not None:
        right = (
            f"teacher right on {share(manifest.teacher_accuracy)} of "
            f"{counted(manifest.labelled, 'labelled one')}"
        )
    return f"{where}: {counted(plan.views, 'view')} of {counted(plan.dataset.rows, 'sample')}, {right} ({pace})"


def document(dumped: Dumped) -> dict[str, Any]:
    """Figures of a dump for a script."""
    manifest = dumped.manifest
    return {
        "cache": str(dumped.folder),
        "finished": manifest is not None,
        "shards": dumped.shards,
        "views": dumped.plan.views,
        "samples": dumped.plan.dataset.rows,
        "teacher_accuracy": None if manifest is None else manifest.teacher_accuracy,
        "views_per_second": dumped.views_per_second,
        **({"made_by": _made_by(dumped)} if dumped.made_by else {}),
    }


def _made_by(dumped: Dumped) -> list[dict[str, Any]]:
    """Who made the shards of a dump on an engine, for a script."""
    return [{**asdict(worker), "shards": shards} for worker, shards in dumped.made_by.items()]
