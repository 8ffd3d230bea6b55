"""Flags of a verb, made from its recipe class: there is no second list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from distill_cli.cli.attempts import note_met
from distill_cli.cli.begun import kept_file
from distill_cli.cli.command import APART, refuse_ranks
from distill_cli.cli.completion import completer
from distill_cli.cli.launching import start
from distill_cli.cli.rank_flags import RankFlags
from distill_cli.cli.terminal import escape, say
from distill_cli.launched import goes_on
from distill_cli.recipe.base import Recipe, TrainRecipe
from distill_cli.recipe.fields import PANELS
from distill_cli.recipe.load import ignore, load
from distill_cli.recipe.parsing import Duration
from distill_cli.recipe.reference import default_of, help_of

R = TypeVar("R", bound=Recipe)
# Values of flags that are not given.
NOTHING: tuple[Any, ...] = (None, [])


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
Megapixels = Annotated[
    int | None,
    typer.Option(
        "--max-megapixels", min=1, max=10_000, help="Pictures of more pixels cannot be read (200)."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check, show the recipe and what it costs.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Flags of one call of a verb that makes runs or caches; no part of what is made.

    A command declares them by a parameter `flags`, and `verb` or `run_flags` unfolds it.

    Attributes:
        json: Print one JSON document on stdout.
        quiet: Show no progress.
        dry_run: Check everything, show the recipe and its cost, and write nothing.
        resume: Go on from the last checkpoint; dumps, which go on by themselves, have no such flag.
        overwrite: Replace what is in the output folder.
    """

    json: Json = False
    quiet: Quiet = False
    dry_run: DryRun = False
    resume: Resume = False
    overwrite: Overwrite = False


# A count or a list: given again, it is another answer and no further entry.
COUNTED = ("seeds",)
# Parameters of commands that stand for several options each.
FOLDS: dict[str, type[Any]] = {"flags": RunFlags, "start": RankFlags}


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
    if field.annotation is bool or bool in get_args(field.annotation):
        annotation = bool | None
        if field.default is not False:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif holds_list(field.annotation) and name not in COUNTED:
        annotation = list[str] | None
    option = typer.Option(
        flag,
        *extra["flags"],
        help=_help(field),
        rich_help_panel=extra["panel"],
        hidden=extra["advanced"],
        metavar=None if annotation == bool | None else metavar(field),
        show_default=False,
        autocompletion=None if annotation == bool | None else completer(name, field),
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation, option],
    )


def holds_list(annotation: Any) -> bool:
    """Whether a value may be a list: its flag takes commas, and may be given again."""
    if get_origin(annotation) is list:
        return True
    unions = (Annotated, Union, UnionType)
    return get_origin(annotation) in unions and any(map(holds_list, get_args(annotation)))


def _help(field: FieldInfo) -> str:
    default = default_of(field)
    return f"{help_of(field)} ({default})." if default else f"{help_of(field)}."


def metavar(field: FieldInfo) -> str:
    """The kind of value behind a flag, as help shows it."""
    for part in (field.annotation, *get_args(field.annotation)):
        if part is int:
            return "INT"
        if part is float:
            return "NUMBER"
        if get_origin(part) is Literal:
            return "NAME"
        if Duration in (part, *get_args(part)):
            return "TIME"
    return "TEXT"


def run_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Unfolds the parameters `flags` and `start` of a command that takes no flags of a recipe class."""

    declared = [name for name in inspect.signature(function).parameters if name in FOLDS]

    def command(**options: Any) -> None:
        function(**_folded(options, declared))

    return _disguised(command, function, _unfolded(function))


def _unfolded(function: Callable[..., None], *, resumes: bool = True) -> list[inspect.Parameter]:
    """The parameters of a command, with one for each of their fields in place of `FOLDS`."""
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name in FOLDS:
            parameters += [one for one in _fields(name) if resumes or one.name != "resume"]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    return parameters


def _fields(fold: str) -> list[inspect.Parameter]:
    return list(inspect.signature(FOLDS[fold], eval_str=True).parameters.values())


def _folded(options: Mapping[str, Any], declared: Sequence[str]) -> dict[str, Any]:
    """The inverse, of the values that a call gives.

    Args:
        options: The values.
        declared: Those of `FOLDS` that stand for options of the call.
    """
    folded = dict(options)
    for name in declared:
        values = {one.name: folded.pop(one.name) for one in _fields(name) if one.name in folded}
        folded[name] = FOLDS[name](**values)
    if goes_on() and "flags" in folded:
        # Started anew, it goes on with what was begun, whatever it was told at first.
        folded["flags"] = replace(folded["flags"], resume=True, overwrite=False)
    return folded


def _disguised(
    command: Callable[..., None],
    function: Callable[..., None],
    parameters: Sequence[inspect.Parameter],
) -> Callable[..., None]:
    """The command with the name and docstring of a function, and with these parameters."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    return command


def verb(
    schema: type[R], *, resumes: bool = True, ranked: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of a recipe class, and its first argument the loaded recipe.

    The decorated function takes `recipe` first, `flags` last, and its own options between them.

    Args:
        schema: The recipe class.
        resumes: Whether there is a flag --resume.
        ranked: Whether several ranks can do it together.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        options = [one for one in _unfolded(function, resumes=resumes) if one.name != "recipe"]
        options += _fields("start") if ranked else []
        keys = recipe_parameters(schema)

        def command(recipe_file: Path | None, assignments: list[str] | None, **given: Any) -> None:
            values = {option.name: given.pop(option.name) for option in options}
            taken = _folded(values, ["flags", "start"] if ranked else ["flags"])
            ranks: RankFlags = taken.pop("start", RankFlags())
            given.pop("help_all", None)
            if not ranked:
                refuse_ranks()
            values = {
                key: joined(key, value) for key, value in given.items() if value not in NOTHING
            }
            resumed = taken["flags"].resume and recipe_file is None
            recipe = load(
                schema,
                recipe=_kept(values) if resumed else recipe_file,
                resumed=resumed,
                assignments=assignments or (),
                flags=values,
                tell=teller(quiet=taken["flags"].quiet),
            )
            if ranked:
                start_ranks(recipe, ranks, dry=taken["flags"].dry_run)
            function(recipe, **taken)

        kind = inspect.Parameter.KEYWORD_ONLY
        common = [
            inspect.Parameter("recipe_file", kind, default=None, annotation=RecipeFile),
            inspect.Parameter("assignments", kind, default=None, annotation=Assignments),
        ]
        last = [inspect.Parameter("help_all", kind, default=False, annotation=HelpAll)]
        return _disguised(command, function, [*keys, *common, *options, *last])

    return decorate


def start_ranks(recipe: Any, ranks: RankFlags, *, dry: bool) -> None:
    """Has several ranks do what a recipe says, where that is asked for, and ends with their code.

    Args:
        recipe: The recipe of a training or a dump.
        ranks: How it is started.
        dry: Whether nothing is made: then one process checks it.
    """
    ranks.check(out=recipe.out, device=recipe.device)
    note_met(recipe.out)
    if ranks.several and not dry:
        options = {"out": recipe.out, "device": recipe.device, "threads": recipe.threads}
        if isinstance(recipe, TrainRecipe):
            options["grace"] = recipe.grace.seconds
        start(ranks, **options)


def joined(key: str, value: Any) -> Any:
    """A list's flag, given once or again, as one text with commas; gates stay apart."""
    return ",".join(value) if isinstance(value, list) and key not in APART else value


def teller(*, quiet: bool) -> Callable[[str], None]:
    """Shows a line on stderr, or nothing."""
    return ignore if quiet else lambda text: say(escape(text))


def _kept(values: Mapping[str, Any]) -> Path | None:
    return kept_file(Path(values["out"])) if "out" in values else None
