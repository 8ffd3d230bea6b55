"""Flag > `--set` > environment > recipe file > default, merged and validated into one Recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from distill_cli.errors import ArtifactError, DistillError, UsageError, nearest
from distill_cli.readers.yaml_values import BadYamlError, read_yaml_value, yaml_value
from distill_cli.recipe.base import Recipe
from distill_cli.recipe.messages import fault, key_path
from distill_cli.recipe.own_folder import at_home
from distill_cli.recipe.parsing import is_seed_list
from distill_cli.recipe.recorded import said_again
from distill_cli.recipe.rule_options import RULE_KEYS
from distill_cli.recipe.schema import RECIPES

# Values by the names that other tools give them.
OTHER_WORDS = {
    ("mode", "average"): "ensemble",
    ("mode", "mean"): "ensemble",
    ("mode", "weighted"): "ensemble",
    ("mode", "switch"): "random",
    ("mode", "switching"): "random",
    ("sched", "multistep"): "step",
    ("sched", "none"): "constant",
    ("schedule", "none"): "constant",
}

R = TypeVar("R", bound=Recipe)

# Half a pair: a byte of a file name that is no UTF-8, or an escape in YAML.
SURROGATE = re.compile("[\ud800-\udfff]")
ENVIRONMENT_PREFIX = "DISTILL_"
# Folders, in which relative --data paths are looked up and decoded images kept; and switches.
NOT_KEYS = {"CACHE", "DATA", "DEBUG"}
# What a recipe says of one command alone: whoever goes on with its run has it no more.
OF_A_COMMAND = ("max_time",)


def read_yaml(path: Path, error: type[DistillError] = UsageError) -> dict[str, Any]:
    """A YAML mapping, its top-level keys with hyphens spelt as underscores.

    Args:
        path: The file.
        error: The kind of error: that of a file which somebody names, or of an artefact's.

    Raises:
        DistillError: Of that kind: it cannot be read, is no YAML or no mapping, or has a key twice.
    """
    value = read_yaml_value(path, "recipe", error=error)
    if not isinstance(value, dict):
        raise error(f"recipe {path} must be a mapping of keys to values")
    mapping = {str(key).replace("-", "_"): item for key, item in value.items()}
    if len(mapping) < len(value):
        keys = [str(key).replace("-", "_") for key in value]
        twice = next(key for key in mapping if keys.count(key) > 1)
        raise error(f"recipe {path} has the key '{twice:.80}' twice")
    return mapping


def parse_set(assignment: str) -> tuple[list[str], Any]:
    """`model_args.width=30` as a path and a YAML value."""
    path, separator, text = assignment.partition("=")
    if not separator or not path.strip():
        raise UsageError(f"--set takes key=value, got '{assignment}'")
    try:
        value = yaml_value(text)
    except BadYamlError:
        value = text
    keys = path.strip().split(".")
    if keys[0] == "objective" and len(keys) > 1:
        if len(keys) != 3:
            raise UsageError(
                f"--set {path.strip()}: a value of an objective is objective.NAME.KEY",
                hint="As --set objective.pseudo-label.threshold=0.9",
            )
        # Names of objectives have hyphens, their values underscores.
        return ["objective_values", keys[1], keys[2].replace("-", "_")], value
    return path.strip().replace("-", "_").split("."), value


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UsageError(f"--set {'.'.join(path)}: '{parent}' holds a value, not keys")
    values[last] = value


def from_environment(
    schema: type[Recipe], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """`DISTILL_EPOCHS=3` as the key `epochs`; variables of other verbs are ignored."""
    variables = os.environ if environment is None else environment
    keys = {
        name.removeprefix(ENVIRONMENT_PREFIX): text
        for name, text in variables.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    known = {name for model in RECIPES.values() for name in model.model_fields}
    for key in keys:
        if key not in NOT_KEYS and key.lower() not in known:
            raise UsageError(
                f"environment variable {ENVIRONMENT_PREFIX}{key} names no option. "
                f"{nearest(key.lower(), known)}"
            )
    return {
        key.lower(): text
        for key, text in keys.items()
        if key not in NOT_KEYS and key.lower() in schema.model_fields
    }


def check_command(recipe: Path | None, command: Any) -> None:
    """Refuses a recipe that is for no command, or does not say for which.

    Raises:
        UsageError: With the nearest command, or all of them.
    """
    if command is None:
        valid = f"Name one of: {', '.join(RECIPES)}"
        raise UsageError(f"recipe {recipe}: the key 'command' is missing", hint=valid)
    if str(command) not in RECIPES:
        raise UsageError(f"recipe {recipe}: command '{command}'? {nearest(str(command), RECIPES)}")


def ignore(text: str) -> None:
    """Tells nobody."""


def load(
    schema: type[R],
    *,
    recipe: Path | None = None,
    resumed: bool = False,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = ignore,
) -> R:
    """Merges every source of options and validates the result.

    Args:
        schema: The verb's recipe class.
        recipe: A recipe file.
        resumed: Whether it is that of a run to go on with, as an earlier command left it.
        assignments: `key=value` of `--set`.
        flags: Flags that were typed, and no others.
        environment: The process's environment where None.
        tell: Told in a line which variables of the environment set which values.

    Raises:
        UsageError: An unknown key (the nearest is named), a wrong type or range (the key is
            named), or a recipe for another verb.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        values = read_yaml(recipe, ArtifactError if resumed else UsageError)
        values = at_home(values, recipe.parent) if values.get("recorded") else values
    if resumed:
        values = {key: value for key, value in values.items() if key not in OF_A_COMMAND}
    command = values.get("command", schema.COMMAND)
    if command != schema.COMMAND:
        check_command(recipe, command)
        raise UsageError(f"recipe {recipe} is for `distill {command}`, not {schema.COMMAND}")
    spoken = from_environment(schema, environment)
    assigned = [parse_set(assignment) for assignment in assignments]
    set_to = {path[0]: value for path, value in assigned}
    typed = {**spoken, **set_to, **(flags or {})}
    values = said_again(values, typed)
    if is_seed_list(typed.get("seeds")):
        # A list names every seed: the one of the file, which a run's recipe.yaml has, is not among them.
        values.pop("seed", None)
    values.update(spoken)
    for path, value in assigned:
        _assign(values, path, value)
    values.update(flags or {})
    values["command"] = schema.COMMAND
    variables = {key: text for key, text in spoken.items() if values[key] is text}
    loaded = validate(schema, values, variables)
    if variables:
        set_by = (f"{_variable(key)}={text}" for key, text in variables.items())
        tell(f"from the environment: {', '.join(set_by)}")
    return loaded


def _variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.upper()


def validate(schema: type[R], values: Mapping[str, Any], variables: Collection[str] = ()) -> R:
    """The recipe of these values, or a UsageError of one line for the first that is wrong.

    Args:
        schema: The recipe class.
        values: Values by key.
        variables: The keys whose values the environment has set: messages name the variables.
    """
    for key, value in values.items():
        if any(map(SURROGATE.search, texts_in(value))):
            # pydantic fails on some of them, with an error of its own.
            subject = _subject(key, variables)
            raise UsageError(f"{subject}: must be text in UTF-8 (got {value!r:.80})")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain(schema, error, variables)) from None


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a value of mappings and lists, keys too."""
    left, seen = [value], set[int]()
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            # An alias of YAML may hold itself.
            seen.add(id(value))
            left += value
            left += value.values() if isinstance(value, Mapping) else ()


def _subject(key: str, variables: Collection[str]) -> str:
    return f"environment variable {_variable(key)}" if key in variables else key


def explain(schema: type[Recipe], error: ValidationError, variables: Collection[str] = ()) -> str:
    """A validation error in one line: key path or variable, what is wrong, what was given."""
    errors = error.errors(include_url=False)
    first, key = errors[0], key_path(errors[0])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'. {nearest(key, schema.model_fields)}"
    subject = _subject(key, variables)
    foreign = OTHER_WORDS.get((key, str(first["input"])))
    if foreign is not None:
        return f"{subject}: here '{first['input']}' is called '{foreign}'"
    return f"{subject}: {fault([other for other in errors if key_path(other) == key])}"


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML, every value spelt out; reads back to an equal recipe."""
    values = recipe.model_dump(mode="json")
    if recipe.recorded is not None and recipe.data_rules is None:
        values = {key: value for key, value in values.items() if key not in RULE_KEYS}
    ordered = {key: value for key, value in values.items() if key != "recorded"}
    if values["recorded"] is not None:
        ordered["recorded"] = values["recorded"]
    return yaml_text(ordered)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but for line breaks of Unicode, which it writes as they are and reads back as spaces."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text; in double quotes, where such a break is escaped, if it has one."""
        style = '"' if {*"\x85\u2028\u2029"} & set(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def yaml_text(value: Any) -> str:
    """A value of texts, numbers, lists and mappings as YAML that reads back to an equal one."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
