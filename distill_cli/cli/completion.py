"""Values that a shell completes, found without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from distill_cli.recipe import catalog, known_names
from distill_cli.recipe.parsing import CODECS, DEVICES

Completer = Callable[[str], list[str]]
TIMM = "timm/"


def models(incomplete: str) -> list[str]:
    """Networks that begin so; ours where nothing is typed, for there are over a thousand others."""
    return _matching(incomplete, known_names.models() if incomplete else known_names.OUR_MODELS)


def objectives(incomplete: str) -> list[str]:
    """Objectives, one behind the other by commas."""
    return _listed(incomplete, known_names.objectives())


def recipes(incomplete: str) -> list[str]:
    """Shipped recipes."""
    return _matching(incomplete, catalog.names())


def teachers(incomplete: str) -> list[str]:
    """timm's networks behind timm/; the shell completes folders."""
    if not incomplete.rpartition(",")[2].startswith(TIMM):
        return []
    return _listed(incomplete, [TIMM + name for name in known_names.models() if "/" not in name])


def devices(incomplete: str) -> list[str]:
    """Kinds of devices."""
    return _matching(incomplete, DEVICES)


SOURCES: dict[str, Completer] = {
    "model": models,
    "objective": objectives,
    "teachers": teachers,
    "device": devices,
    **dict.fromkeys(
        ("data", "unlabelled", "teacher_data"),
        lambda incomplete: _matching(incomplete, known_names.DATA),
    ),
    "codec": lambda incomplete: _matching(incomplete, CODECS),
}


def completer(name: str, field: FieldInfo) -> Completer | None:
    """What completes the values of a recipe key; None leaves them to the shell, as files."""
    if name in SOURCES:
        return SOURCES[name]
    choices = choices_of(field.annotation)
    return (lambda incomplete: _matching(incomplete, choices)) if choices else None


def choices_of(annotation: Any) -> list[str]:
    """The texts that a type allows, where it names them."""
    parts: Sequence[Any] = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [part for part in parts if isinstance(part, str)]
    return [choice for part in parts for choice in choices_of(part)]


def _matching(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _listed(incomplete: str, names: Iterable[str]) -> list[str]:
    """Completes the last of several names."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _matching(last, names)]
