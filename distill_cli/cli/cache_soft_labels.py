"""`distill cache-soft-labels`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from distill_cli.cli.options import DryRun, Json, Overwrite, Quiet, verb
from distill_cli.cli.progress import count_progress, training_progress
from distill_cli.cli.terminal import result, result_json, say
from distill_cli.cli.training import show_recipe
from distill_cli.errors import UsageError
from distill_cli.pipeline.folders import check_writable, expand_teachers
from distill_cli.recipe.schema import CacheRecipe

app = typer.Typer(add_completion=False)


@app.command()
@verb(CacheRecipe)
def cache_soft_labels(
    recipe: CacheRecipe,
    json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Store what frozen teachers say of every view of every training sample.

    A killed dump goes on where it stopped: give the same command again. One cache serves every
    temperature.

    Example: distill cache-soft-labels --teachers runs/a,runs/b --views 4 --out runs/labels
    """
    run_dump(recipe, json=json, quiet=quiet, dry_run=dry_run, overwrite=overwrite)


def run_dump(
    recipe: CacheRecipe, *, json: bool, quiet: bool, dry_run: bool, overwrite: bool
) -> None:
    """Checks early, dumps, and prints where the caches are."""
    if not recipe.teachers:
        raise UsageError("which teachers? Give --teachers RUN[,RUN…]")
    expand_teachers(recipe.teachers)
    if recipe.out is not None:
        check_writable(Path(recipe.out))
    if dry_run:
        show_recipe(recipe, json=json)
        return
    from distill_cli.pipeline.dump import dump

    with (
        training_progress("cache", quiet=quiet) as sink,
        count_progress("views", quiet=quiet) as progress,
    ):
        finished = dump(recipe, sink=sink, progress=progress, overwrite=overwrite)
    documents = []
    for dumped in finished:
        manifest = dumped.manifest
        if not quiet:
            speed = dumped.views_per_second
            how = "nothing was left to do" if speed is None else f"{speed:,.0f} views/s"
            say(
                f"{escape(str(dumped.folder))}: {manifest.plan.views} views of "
                f"{manifest.plan.dataset.samples:,} samples, teacher right on "
                f"{100 * manifest.teacher_accuracy:.2f} % of them ({how})"
            )
        documents.append(
            {
                "cache": str(dumped.folder),
                "views": manifest.plan.views,
                "samples": manifest.plan.dataset.samples,
                "teacher_accuracy": manifest.teacher_accuracy,
                "views_per_second": dumped.views_per_second,
            }
        )
    if json:
        result_json({"caches": documents})
    else:
        for dumped in finished:
            result(escape(str(dumped.folder)))
