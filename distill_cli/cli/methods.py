"""`distill methods`: the objectives there are, and one of them at length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from distill_cli.cli.options import Json
from distill_cli.cli.terminal import console, result_json
from distill_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from distill_cli.objectives.base import Objective

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def methods(context: typer.Context, json: Json = False) -> None:
    """The objectives there are, what they need, and where they come from.

    Example: distill methods --json
    """
    if context.invoked_subcommand is not None:
        return
    listed = describe()
    if json:
        result_json(listed)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "what it does", "needs", "paper"):
        table.add_column(column, overflow="fold")
    for method in listed:
        needs = ", ".join(method["needs"]) or "—"
        table.add_row(method["name"], method["summary"], needs, method["paper"])
    out = console("stdout")
    out.print(table)
    out.print("\nParameters, equation and a command line: distill methods show NAME")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An objective's name.")], json: Json = False
) -> None:
    """One objective: equation, parameters and their defaults, a command line to try.

    Example: distill methods show label-smoothing
    """
    from distill_cli.objectives import OBJECTIVES

    if name not in OBJECTIVES:
        raise UsageError(f"there is no objective '{name}'. {nearest(name, OBJECTIVES)}")
    cls = OBJECTIVES[name]
    method = at_length(cls)
    if json:
        result_json(method)
        return
    from rich.table import Table

    out = console("stdout")
    out.print(f"[bold]{name}[/bold] · {escape(method['summary'])}")
    out.print(f"{escape(method['paper'])}\n", style="dim")
    out.print(f"{escape(method['equation'])}\n", highlight=False)
    for label, text in method["facts"].items():
        out.print(f"[bold]{label}[/bold]  {escape(text)}", highlight=False)
    if method["parameters"]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("parameter", "default", "range", "what it is"):
            table.add_column(column, overflow="fold")
        for key, value in method["parameters"].items():
            said = plain(value["default"]), value["range"] or "—", value["help"]
            table.add_row(key, *(escape(each) for each in said))
        out.print()
        out.print(table)
    out.print("\n[bold]try[/bold]")
    for line in method["try"]:
        out.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def describe() -> list[dict[str, Any]]:
    """Name, summary, paper, needs and parameters of every objective."""
    from distill_cli.objectives import OBJECTIVES

    return [described(cls) for cls in OBJECTIVES.values()]


def described(cls: type[Objective]) -> dict[str, Any]:
    """The same of one."""
    from dataclasses import fields

    from distill_cli.objectives.abilities import needs_of
    from distill_cli.objectives.base import AUTO

    return {
        "name": cls.about.name,
        "summary": cls.about.summary,
        "paper": cls.about.paper,
        "needs": sorted(needs_of(cls())),
        "parameters": {
            # Layers that nobody names are paired by the objective's rule.
            field.name: {"default": AUTO if field.name == "pairs" else field.default}
            for field in fields(cls)  # type: ignore[arg-type]
        },
    }


def at_length(cls: type[Objective]) -> dict[str, Any]:
    """What `described` says, with the equation, ranges, weights and command lines to try."""
    from inspect import cleandoc

    method = described(cls)
    equation, _, attributes = cleandoc(cls.__doc__ or "").partition("\n\nAttributes:\n")
    helps = attribute_helps(attributes)
    ranges = ranges_of(cls)
    for key, value in method["parameters"].items():
        value |= {"range": ranges.get(key, ""), "help": helps.get(key, "")}
    return {**method, "equation": equation, "facts": facts(cls), "try": examples(cls)}


def attribute_helps(text: str) -> dict[str, str]:
    """`name: what it is` of a docstring's attributes, each in one line."""
    helps: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            last, _, said = line.strip().partition(": ")
            helps[last] = said
        elif last and line.strip():
            helps[last] += f" {line.strip()}"
    return helps


def ranges_of(cls: type[Objective]) -> dict[str, str]:
    """What each parameter may be, as its annotation has it."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(cls).json_schema()
    bounds = {
        "exclusiveMinimum": "> {}",
        "minimum": "≥ {}",
        "exclusiveMaximum": "< {}",
        "maximum": "≤ {}",
    }
    found = {}
    for key, said in schema.get("properties", {}).items():
        kinds = [kind for kind in said.get("anyOf", [said]) if kind.get("type") != "null"]
        kind = kinds[0] if kinds else said
        words = [text.format(f"{kind[name]:g}") for name, text in bounds.items() if name in kind]
        words = words or [str(each) for each in kind.get("enum", [])]
        found[key] = ", ".join(words)
    return found


def facts(cls: type[Objective]) -> dict[str, str]:
    """What to know before using it, by heading."""
    about = cls.about
    usual = about.usual
    asks = {
        "teacher": "a teacher (distill student --teachers …)",
        "logits": "its raw logits",
        "features": "its layers, so that it is a live network and no cache",
        "groups": "groups of classes (--groups)",
        "model": "a trained run",
    }
    needs = described(cls)["needs"]
    found = {"needs": ", ".join(said for need, said in asks.items() if need in needs)}
    found["needs"] = found["needs"] or "nothing but labels"
    if maybe := about.needs - set(needs):
        found["may use"] = ", ".join(said for need, said in asks.items() if need in maybe)
    if about.owns:
        found["defines"] = " and ".join(sorted(thing.value for thing in about.owns))
    else:
        found["weights"] = (
            f"{usual.hard:g} · cross-entropy + {usual.own:g} · this, where named alone"
        )
    if about.coupled:
        found["couples"] = "the samples of a batch: not with --accumulate"
    found["targets"] = " and ".join(sorted(about.targets))
    return found


def examples(cls: type[Objective]) -> list[str]:
    """Command lines that run as they stand, given a teacher's run where one is needed."""
    from dataclasses import fields

    from distill_cli.objectives.abilities import Selecting
    from distill_cli.recipe.stages import SELF

    about, needs = cls.about, described(cls)["needs"]
    name = f"{about.name},label-smoothing" if issubclass(cls, Selecting) else about.name
    start = "distill teacher train --data digits"
    if "teacher" in needs and about.name != SELF:
        start = "distill student --teachers runs/teacher-1"
    if about.targets == {"sigmoid"}:
        start += " --targets sigmoid"
    groups = " --groups groups.yaml" if "groups" in needs else ""
    lines = [f"{start} --objective {name}{groups}"]
    numbers = [
        field
        for field in fields(cls)  # type: ignore[arg-type]
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    ]
    if numbers and about.name != SELF and not issubclass(cls, Selecting):
        first = numbers[0]
        owner = "" if about.owns else f"{{name: ce, weight: {about.usual.hard:g}}}, "
        weight = "" if about.owns else f", weight: {about.usual.own:g}"
        entry = f"{{name: {about.name}{weight}, {first.name}: {first.default:g}}}"
        lines.append(f"{start}{groups} --set 'objective=[{owner}{entry}]'")
    return lines


def plain(value: Any) -> str:
    """A default as a person writes it in a recipe."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
