"""Maps from the classes of the data to the outputs of a teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError, UsageError, counted, nearest
from distill_cli.readers.yaml_values import read_yaml_value

BY_NAME = "by-name"


def map_of(maps: Sequence[str], teacher: int, teachers: int) -> str:
    """The map of a teacher: the one for all, or its own.

    Raises:
        UsageError: There are several, and not one for each.
    """
    if len(maps) not in (1, teachers):
        raise UsageError(
            f"{counted(len(maps), 'class map')} for {counted(teachers, 'teacher')}",
            hint="One, or one each",
        )
    return maps[teacher if len(maps) > 1 else 0]


def columns_of(spec: str, name: str, teacher: Sequence[str], data: Sequence[str]) -> list[int]:
    """The teacher's output for each class of the data.

    Args:
        spec: `by-name`, or a YAML file of `class of the data: class or output number`.
        name: The teacher's folder, for messages.
        teacher: The teacher's class names.
        data: The data's classes.

    Raises:
        UsageError: The file cannot be read.
        ArtifactError: A class is not mapped, names nothing, or two stand for one output.
    """
    given = {name: name for name in data} if spec == BY_NAME else _read(Path(spec))
    unknown = sorted(set(given) - set(data))
    if unknown:
        raise ArtifactError(
            f"class map {spec}: the data has no class '{unknown[0]}'. {nearest(unknown[0], data)}"
        )
    columns = []
    for each in data:
        if each not in given:
            raise ArtifactError(f"class map {spec} says nothing of class '{each}'")
        columns.append(_output(spec, name, given[each], teacher))
    for column, count in Counter(columns).items():
        if count > 1:
            raise ArtifactError(
                f"class map {spec}: {count} classes of the data are '{teacher[column]}' to teacher "
                f"{name}",
                hint="Each class has an output of its own",
            )
    return columns


def _read(path: Path) -> Mapping[str, Any]:
    value = read_yaml_value(path, "class map", hint=f"Give a YAML file, or {BY_NAME}")
    if not isinstance(value, dict):
        raise UsageError(f"class map {path} must be a mapping of classes to classes or numbers")
    return {str(key): item for key, item in value.items()}


def _output(spec: str, name: str, wanted: Any, teacher: Sequence[str]) -> int:
    # A name first: a class may be called "7".
    if str(wanted) in teacher:
        return list(teacher).index(str(wanted))
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(teacher):
        return wanted
    raise ArtifactError(
        f"class map {spec}: teacher {name} has no class '{wanted}'. "
        f"{nearest(str(wanted), teacher)} Or an output from 0 to {len(teacher) - 1}"
    )
