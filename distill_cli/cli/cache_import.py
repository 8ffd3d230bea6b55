"""`distill cache import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli.cache_soft_labels import document, interruptible, summary
from distill_cli.cli.options import RunFlags, verb
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import exactly, print_location, result_json, say
from distill_cli.errors import UsageError
from distill_cli.pipeline.folders import check_cache_place
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import ImportRecipe


@verb(ImportRecipe, resumes=False)
def cache_import(
    recipe: ImportRecipe,
    file: Annotated[
        Path | None, typer.Argument(help="A .csv with columns sample and the classes, or an .npz.")
    ] = None,
    *,
    flags: RunFlags,
) -> None:
    """Make a cache of labels that people or other tools made: annotators' votes, logits.

    Every image of the train split needs one label. A student then learns from the cache as from
    any other.

    Example: distill cache import votes.csv --data photos/ --out runs/people
    """
    if file is not None:
        recipe = recipe.model_copy(update={"labels": str(file)})
    run_import(recipe, flags)


def run_import(recipe: ImportRecipe, flags: RunFlags) -> None:
    """Checks early, imports, and prints where the cache is."""
    if recipe.labels is None:
        raise UsageError("which labels? Give a .csv or an .npz: distill cache import FILE")
    if not Path(recipe.labels).exists():
        raise UsageError(f"labels '{recipe.labels}' do not exist", hint="Give a .csv or an .npz")
    if recipe.out is not None:
        check_cache_place(Path(recipe.out))
    with interruptible(recipe.out), progress("import", quiet=flags.quiet) as display:
        from distill_cli.pipeline.labels.importing import import_labels, prepare_import

        if flags.dry_run:
            prepare_import(recipe, sink=display, overwrite=flags.overwrite, dry=True)
        else:
            views = display.counting("view")
            imported = import_labels(
                recipe, sink=display, progress=views, overwrite=flags.overwrite
            )
    if flags.dry_run:
        if flags.json:
            result_json(recipe.model_dump(mode="json"))
        else:
            exactly(to_yaml(recipe))
        return
    if not flags.quiet:
        say(summary(imported))
    if flags.json:
        result_json({"caches": [document(imported)]})
    else:
        print_location(imported.folder, named=not flags.quiet)
