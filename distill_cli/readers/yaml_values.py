"""YAML from anywhere, within bounds: texts, numbers, true and false, lists and mappings.

Dates are texts, and no tag makes anything else. Anchors and merges are read as long as what they
stand for is within the bounds.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from distill_cli.errors import DistillError, UsageError, counted
from distill_cli.readers.bounds import DEPTH, WHOLE_BITS, WRITTEN, read_bounded

_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_MERGE = f"{_TAG}merge"
# Characters of a number: its value must be one of a float's, in base 16 too.
_NUMBER = 250
_STARTS = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_ENDS = (yaml.SequenceEndEvent, yaml.MappingEndEvent)
# libyaml's parser is ten times as fast as Python's.
_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Fast):  # type: ignore[misc]
    """PyYAML's safe loader without its other types: dates, sets, ordered maps, base 64."""

    yaml_implicit_resolvers: ClassVar = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag == _MERGE or tag.removeprefix(_TAG) in _KINDS
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in _KINDS
    }


class BadYamlError(Exception):
    """A text is no YAML that is read; the message says why, and on which line."""


def yaml_value(text: str) -> Any:
    """The value of a YAML text, the caller's own to change.

    Raises:
        BadYamlError: It is no YAML, or is beyond the bounds; a key stands twice, or a text is no
            Unicode.
    """
    return deepcopy(_parsed(text))


# A command asks the recipe of one run seven times, of whatever it needs, and parsing takes 5 ms.
@lru_cache(maxsize=16)
def _parsed(text: str) -> Any:
    try:
        _scan(text)
        value = yaml.load(text, _Loader)
        _check(value)
    except BadYamlError:
        raise
    except yaml.MarkedYAMLError as error:
        reason = error.problem or error.context or "it cannot be read"
        raise _at(error.problem_mark or error.context_mark, reason) from None
    except yaml.YAMLError as error:
        raise BadYamlError(" ".join(str(error).split())) from None
    except Exception as error:
        # PyYAML's constructors raise whatever Python does on values that are none of their type.
        raise BadYamlError(f"a value in it is not what its tag or form says ({error})") from None
    return value


def _at(mark: Any, reason: str) -> BadYamlError:
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return BadYamlError(f"{place}{reason}")


@dataclass
class _Open:
    """A list or a mapping that is being read.

    Attributes:
        anchor: Its name for aliases.
        keys: The keys so far; None for a list.
        children: Number of its values so far, keys included.
        size: Number of values that it stands for.
    """

    anchor: str | None
    keys: set[str] | None
    children: int = 0
    size: int = field(default=1)

    def add(self, event: Any, size: int) -> None:
        """Adds a value, or a key, which may not stand there twice."""
        if self.keys is not None and self.children % 2 == 0 and isinstance(event, yaml.ScalarEvent):
            if event.value in self.keys and event.value != "<<":
                raise _at(event.start_mark, f"the key {event.value!r:.80} stands twice")
            self.keys.add(event.value)
        self.children += 1
        self.size += size


def _scan(text: str) -> None:
    """Goes through the events of a text and builds nothing.

    libyaml's builder, which comes after it, calls itself for each level until the stack is full.
    """
    opened: list[_Open] = []
    sizes: dict[str, int] = {}
    count = 0
    for event in yaml.parse(text, _Loader):
        count += 1
        if isinstance(event, _STARTS):
            mapping = isinstance(event, yaml.MappingStartEvent)
            opened.append(_Open(event.anchor, set() if mapping else None))
            if len(opened) > DEPTH:
                raise _at(event.start_mark, f"it is nested more than {DEPTH} levels deep")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _at(event.start_mark, "an alias stands for nothing, or for what it lies in")
            size = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            _check_scalar(event)
            anchor, size = event.anchor, 1
            sizes |= {} if anchor is None else {anchor: size}
        elif isinstance(event, _ENDS):
            closed = opened.pop()
            size = closed.size
            sizes |= {} if closed.anchor is None else {closed.anchor: size}
        else:
            continue
        if opened:
            opened[-1].add(event, size)
        if max(size, count) > WRITTEN.values:
            raise _at(event.start_mark, f"it has more than {counted(WRITTEN.values, 'value')}")


def _check_scalar(event: Any) -> None:
    """Refuses numbers that are longer than any of ours."""
    if len(event.value) <= _NUMBER or event.style:
        return
    forms = _Loader.yaml_implicit_resolvers.get(event.value[0], ())
    if any(tag in _NUMBERS and form.match(event.value) for tag, form in forms):
        raise _at(event.start_mark, f"a number of {len(event.value):,} characters")


def _check(value: Any) -> None:
    """Refuses texts that are no Unicode, and numbers that an explicit tag made of long texts."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise BadYamlError(f"the text {item!r:.80} is no Unicode") from None
        elif isinstance(item, int) and item.bit_length() > WHOLE_BITS:
            raise BadYamlError("a number of more than 300 digits")
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]


def read_yaml_value(
    path: Path, what: str, *, error: type[DistillError] = UsageError, hint: str | None = None
) -> Any:
    """The content of a YAML file.

    Args:
        path: The file.
        what: It is, as messages call it: recipe, class map.
        error: The kind of error: by default that of a file which somebody names as an option.
        hint: The remedy that the message names where there is no such file.

    Raises:
        DistillError: Of that kind: it cannot be read, or is no YAML within the bounds.
    """
    try:
        return yaml_value(read_bounded(path, WRITTEN.size).decode("utf-8"))
    except OSError as reason:
        raise error(f"cannot read {what} {path}: {reason.strerror}", hint=hint) from None
    except (BadYamlError, ValueError) as reason:
        raise error(f"{what} {path} is not valid YAML: {reason}") from None
