"""`distill recipes list|show|copy|validate|run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cli import completion
from distill_cli.cli.command import VerbApp, refuse_ranks
from distill_cli.cli.options import (
    Assignments,
    Json,
    RunFlags,
    run_flags,
    start_ranks,
    teller,
)
from distill_cli.cli.rank_flags import RankFlags
from distill_cli.cli.tables import Column, show_table
from distill_cli.cli.terminal import escape, exactly, result_json, say
from distill_cli.errors import UsageError
from distill_cli.files import named_file, write_text
from distill_cli.recipe import catalog
from distill_cli.recipe.base import Recipe, TrainRecipe
from distill_cli.recipe.load import check_command, load, read_yaml
from distill_cli.recipe.schema import RECIPES, CacheRecipe, ImportRecipe
from distill_cli.recipe.seeds import seeds_of
from distill_cli.recipe.stages import is_several, stages_of

app = VerbApp(no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        help="A shipped recipe, as digits/teacher, or a file.", autocompletion=completion.recipes
    ),
]


@app.callback()
def _recipes() -> None:
    """Recipes are YAML files with the same keys as the flags."""


@app.command("list")
def list_(json: Json = False) -> None:
    """The recipes that come with distill."""
    rows = [
        {"name": name, **{key: values.get(key) for key in ("command", "about")}}
        for name in catalog.names()
        for values in [read_yaml(catalog.find(name))]
    ]
    if json:
        result_json(rows)
        return
    columns = [
        Column(heading="recipe"),
        Column(heading="command", rank=1),
        Column(heading="what it is", folds=24),
    ]
    show_table(columns, [[str(row[key]) for key in ("name", "command", "about")] for row in rows])


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    exactly(catalog.find(name).read_text(encoding="utf-8").rstrip())


@app.command()
def copy(name: Name, to: Annotated[Path, typer.Argument(help="The new file.")]) -> None:
    """Copy a recipe, to change it."""
    target = named_file(to)
    if target.exists():
        raise UsageError(f"{to} exists", hint="Choose another name")
    write_text(target, catalog.find(name).read_text(encoding="utf-8"))
    say(f"copied to {escape(str(to))}: change it, then distill recipes run {escape(str(to))}")


def read(name: str, assignments: list[str] | None, *, quiet: bool = False) -> Recipe:
    """A recipe, validated under the schema of its command.

    Raises:
        UsageError: It names no command, or is not valid.
    """
    path = catalog.find(name)
    command = read_yaml(path).get("command")
    check_command(path, command)
    return load(
        RECIPES[str(command)], recipe=path, assignments=assignments or (), tell=teller(quiet=quiet)
    )


@app.command()
def validate(name: Name, assignments: Assignments = None) -> None:
    """Check a recipe: keys, values, objectives."""
    recipe = read(name, assignments)
    if isinstance(recipe, TrainRecipe):
        from distill_cli.pipeline.objective.build import check_objectives

        trainings = [recipe]
        if recipe.seeds is not None:
            seeds_of(recipe)
        if is_several(recipe):
            trainings = [stage.recipe for stage in stages_of(recipe, Path("the run"))]
        for training in trainings:
            check_objectives(training)
    say(f"{escape(name)} is a valid recipe for `distill {recipe.COMMAND}`")


@app.command()
@run_flags
def run(name: Name, assignments: Assignments = None, *, flags: RunFlags, start: RankFlags) -> None:
    """Run a recipe with the command it is for.

    Example: distill recipes run digits/teacher --set epochs=10
    """
    recipe = read(name, assignments, quiet=flags.quiet)
    if isinstance(recipe, ImportRecipe):
        refuse_ranks()
        if start.several:
            raise UsageError(f"--ranks is for trainings and dumps, and {name} is an import")
    else:
        start_ranks(recipe, start, dry=flags.dry_run)
    if isinstance(recipe, TrainRecipe):
        from distill_cli.cli.run_training import run_training

        run_training(recipe, flags)
    elif isinstance(recipe, CacheRecipe):
        from distill_cli.cli.cache_soft_labels import run_dump

        run_dump(recipe, flags)
    elif isinstance(recipe, ImportRecipe):
        from distill_cli.cli.cache_import import run_import

        run_import(recipe, flags)
