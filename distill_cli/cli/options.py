"""Flags of a verb, made from its recipe class: there is no second list."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from distill_cli.recipe.base import Recipe
from distill_cli.recipe.fields import PANELS
from distill_cli.recipe.load import load
from distill_cli.recipe.reference import default_of, help_of
from distill_cli.recipe.stages import RECIPE

R = TypeVar("R", bound=Recipe)

HIDDEN_UNTIL_ASKED = "advanced"


def _help_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        for parameter in ctx.command.params:
            if hasattr(parameter, "hidden"):
                parameter.hidden = False
        typer.echo(ctx.get_help())
        raise typer.Exit


RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", "-r", help="YAML with the same keys.", rich_help_panel="Run"),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any key.", rich_help_panel="Run"),
]
HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", is_eager=True, callback=_help_all, help="Show every option and exit."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check, show the recipe and what it costs.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]


def recipe_parameters(schema: type[Recipe]) -> list[inspect.Parameter]:
    """One keyword parameter a field, in the order of the help panels."""
    parameters = []
    for name, field in schema.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "panel" in extra:
            parameters.append((PANELS.index(str(extra["panel"])), _parameter(name, field)))
    return [parameter for _, parameter in sorted(parameters, key=lambda pair: pair[0])]


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra: Any = field.json_schema_extra
    flag = f"--{name.replace('_', '-')}"
    annotation: Any = str | None
    if field.annotation is bool:
        annotation = bool | None
    elif get_origin(field.annotation) is list and name == "require":
        annotation = list[str] | None
    option = typer.Option(
        flag,
        *extra["flags"],
        help=_help(field),
        rich_help_panel=extra["panel"],
        hidden=extra["advanced"],
        metavar=None if annotation == bool | None else metavar(field),
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation, option],
    )


def _help(field: FieldInfo) -> str:
    default = default_of(field)
    return f"{help_of(field)} ({default})." if default else f"{help_of(field)}."


def metavar(field: FieldInfo) -> str:
    """What stands behind a flag: the kind of value."""
    for part in (field.annotation, *get_args(field.annotation)):
        if part is int:
            return "INT"
        if part is float:
            return "NUMBER"
        if get_origin(part) is Literal:
            return "NAME"
    return "TEXT"


def verb(schema: type[R]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of a recipe class, and its first argument the loaded recipe.

    The decorated function takes `recipe` first and its own keyword options after it.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.name != "recipe"
        ]
        keys = recipe_parameters(schema)

        def command(recipe_file: Path | None, assignments: list[str] | None, **given: Any) -> None:
            options = {parameter.name: given.pop(parameter.name) for parameter in own}
            given.pop("help_all", None)
            flags = {key: value for key, value in given.items() if value not in (None, [])}
            if options.get("resume") and recipe_file is None:
                recipe_file = _kept(flags.get("out"))
            recipe = load(schema, recipe=recipe_file, assignments=assignments or (), flags=flags)
            function(recipe, **options)

        kind = inspect.Parameter.KEYWORD_ONLY
        common = [
            inspect.Parameter("recipe_file", kind, default=None, annotation=RecipeFile),
            inspect.Parameter("assignments", kind, default=None, annotation=Assignments),
        ]
        last = [inspect.Parameter("help_all", kind, default=False, annotation=HelpAll)]
        command.__signature__ = inspect.Signature([*keys, *common, *own, *last])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


def _kept(out: str | None) -> Path | None:
    """The recipe of the run to resume, so that `--resume --out RUN` is enough."""
    # Of several stages, the recipe of all: the run's own is that of the last.
    paths = [Path(out) / RECIPE, Path(out) / "recipe.yaml"] if out else []
    return next((path for path in paths if path.is_file()), None)
