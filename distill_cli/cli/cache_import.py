"""`distill cache import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli.cache_soft_labels import document, summary
from distill_cli.cli.options import DryRun, Json, Overwrite, Quiet, verb
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import exactly, place, result_json, say
from distill_cli.errors import UsageError
from distill_cli.pipeline.folders import check_writable
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import ImportRecipe


@verb(ImportRecipe)
def cache_import(
    recipe: ImportRecipe,
    file: Annotated[
        Path | None, typer.Argument(help="A .csv with columns sample and the classes, or an .npz.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Make a cache of labels that people or other tools made: annotators' votes, logits.

    Every image of the train split needs one label. A student then learns from the cache as from
    any other.

    Example: distill cache import votes.csv --data photos/ --out runs/people
    """
    if file is not None:
        recipe = recipe.model_copy(update={"labels": str(file)})
    run_import(recipe, json=json, quiet=quiet, dry_run=dry_run, overwrite=overwrite)


def run_import(
    recipe: ImportRecipe, *, json: bool, quiet: bool, dry_run: bool, overwrite: bool
) -> None:
    """Checks early, imports, and prints where the cache is."""
    if recipe.labels is None:
        raise UsageError("which labels? Give a .csv or an .npz: distill cache import FILE")
    if not Path(recipe.labels).exists():
        raise UsageError(f"labels '{recipe.labels}' do not exist", hint="Give a .csv or an .npz")
    if recipe.out is not None:
        check_writable(Path(recipe.out))
    with progress("import", quiet=quiet) as display:
        from distill_cli.pipeline.labels.importing import import_labels, prepare_import

        if dry_run:
            prepare_import(recipe, sink=display, overwrite=overwrite, dry=True)
        else:
            views = display.counting("view")
            imported = import_labels(recipe, sink=display, progress=views, overwrite=overwrite)
    if dry_run:
        if json:
            result_json(recipe.model_dump(mode="json"))
        else:
            exactly(to_yaml(recipe))
        return
    if not quiet:
        say(summary(imported))
    if json:
        result_json({"caches": [document(imported)]})
    else:
        place(imported.folder, said=not quiet)
