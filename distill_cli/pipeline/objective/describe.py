"""Descriptions of objectives, read off their dataclasses, annotations and docstrings."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

from pydantic import TypeAdapter

from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import AUTO, Objective, parameters_of
from distill_cli.objectives.hooks import (
    PairsLayers,
    SelectsSamples,
    WantsOrder,
    WholeBatch,
    needs_of,
)
from distill_cli.pipeline.objective.rules import companions
from distill_cli.recipe.stage import SELF

HEAD = """# Methods

Made from the objectives by `python -m distill_cli.pipeline.objective.describe > docs/methods.md`; `distill
methods show NAME` says the same of one. Unless said otherwise: z the logits, p = softmax z, y the
label, δ_y one-hot, T a temperature, K classes; terms are averaged over the samples of a batch.
"""

# The flags by which examples give an objective what it needs to know of classes and labels.
GIVEN = {
    "groups": "--groups groups.yaml",
    "hierarchy": "--coarse-labels hierarchy.yaml",
    "noise": "--noise-matrix noise.csv",
    "unlabelled": "--labels-fraction 0.1",
}


def describe() -> list[dict[str, Any]]:
    """Every objective: what it is, and all that a script must know to run it."""
    return [described(cls) for cls in OBJECTIVES.values()]


def described(cls: type[Objective]) -> dict[str, Any]:
    """One objective as it is by default.

    `targets` are the kinds of targets that it is for; `combine_with` names the objectives of which
    one must stand beside it, none where it may stand alone; `order` is the order of samples that it
    wants, None where any will do.
    """
    made = cls()
    paired = ("pairs",) if isinstance(made, PairsLayers) else ()
    return {
        "name": cls.info.name,
        "summary": cls.info.summary,
        "paper": cls.info.paper,
        "needs": sorted(needs_of(made)),
        "targets": sorted(cls.info.targets),
        "combine_with": [other.info.name for other in companions(cls)],
        "order": made.order if isinstance(made, WantsOrder) else None,
        "parameters": {
            # Layers that nobody names are paired by the objective's rule.
            name: {"default": AUTO if name in paired else default}
            for name, default in parameters_of(cls).items()
        },
    }


def at_length(cls: type[Objective]) -> dict[str, Any]:
    """The description with the equation, ranges, weights and command lines to try."""
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
            last, _, help_text = line.strip().partition(": ")
            helps[last] = help_text
        elif last and line.strip():
            helps[last] += f" {line.strip()}"
    return helps


def ranges_of(cls: type[Objective]) -> dict[str, str]:
    """The range of each parameter, as its annotation has it."""
    schema = TypeAdapter(cls).json_schema()
    bounds = {
        "exclusiveMinimum": "> {}",
        "minimum": "≥ {}",
        "exclusiveMaximum": "< {}",
        "maximum": "≤ {}",
    }
    ranges = {}
    for key, schema_of_key in schema.get("properties", {}).items():
        kinds = [
            kind
            for kind in schema_of_key.get("anyOf", [schema_of_key])
            if kind.get("type") != "null"
        ]
        kind = kinds[0] if kinds else schema_of_key
        words = [text.format(f"{kind[name]:g}") for name, text in bounds.items() if name in kind]
        words = words or [str(value) for value in kind.get("enum", [])]
        ranges[key] = ", ".join(words)
    return ranges


def facts(cls: type[Objective]) -> dict[str, str]:
    """Facts to know before using an objective, by heading."""
    info = cls.info
    weights = info.default_weights
    asks = {
        "teacher": "a teacher (distill student --teachers …)",
        "logits": "its raw logits",
        "features": "its layers, so that it is a live network and no cache",
        "groups": "groups of classes (--groups)",
        "hierarchy": "labels that name groups of classes (--coarse-labels)",
        "noise": "a matrix of how often labels are wrong (--noise-matrix)",
        "unlabelled": "images without a label (--labels-fraction, --unlabelled)",
        "model": "a trained run",
    }
    method = described(cls)
    needs = method["needs"]
    lines = {"needs": ", ".join(words for need, words in asks.items() if need in needs)}
    lines["needs"] = lines["needs"] or "nothing but labels"
    if maybe := info.needs - set(needs):
        lines["may use"] = ", ".join(words for need, words in asks.items() if need in maybe)
    if info.name == SELF:
        lines["needs"] = "a copy, which `distill teacher train` trains first, or a teacher's run"
    if beside := method["combine_with"]:
        lines["beside"] = f"a soft label, for the samples that it chooses: {', '.join(beside)}"
    elif info.owns:
        lines["defines"] = " and ".join(sorted(thing.value for thing in info.owns))
    else:
        lines["weights"] = (
            f"{weights.ce:g} · cross-entropy + {weights.objective:g} · this, where named alone"
        )
    if info.defaults:
        lines["defaults"] = info.defaults
    made = cls()
    if method["order"] is not None:
        lines["order"] = f"{method['order']}, unless --order says otherwise"
    if info.coupled:
        lines["couples"] = "the samples of a batch: not with --accumulate"
    elif isinstance(made, WholeBatch) and made.whole_batch:
        lines["looks"] = "at a batch as a whole: not with --accumulate"
    lines["targets"] = " and ".join(method["targets"])
    return lines


def examples(cls: type[Objective]) -> list[str]:
    """Command lines to try, with a teacher's run and a file of groups where they are needed."""
    info, method = cls.info, described(cls)
    needs = method["needs"]
    name = ",".join([info.name, *method["combine_with"][:1]])
    start = "distill teacher train --data digits"
    if "teacher" in needs and info.name != SELF:
        start = "distill student --teachers runs/teacher-1"
    if info.targets == {"sigmoid"}:
        start += " --targets sigmoid"
    given = "".join(f" {flag}" for need, flag in GIVEN.items() if need in needs)
    lines = [f"{start} --objective {name}{given}"]
    if issubclass(cls, SelectsSamples):
        entries = "{name: label-smoothing, epsilon: 0.1}, " + _entry(cls)
        return [*lines, f"{start} --set 'objective=[{entries}]'"]
    if info.name == SELF or not _numbers(cls):
        return lines
    hard = "" if info.owns else f"{{name: ce, weight: {info.default_weights.ce:g}}}, "
    return [*lines, f"{start}{given} --set 'objective=[{hard}{_entry(cls)}]'"]


def _numbers(cls: type[Objective]) -> list[tuple[str, float]]:
    """The parameters that are numbers, with their defaults."""
    named = parameters_of(cls)
    return [
        (k, v) for k, v in named.items() if isinstance(v, int | float) and not isinstance(v, bool)
    ]


def _entry(cls: type[Objective]) -> str:
    """The objective in a list, with its weight and its first number."""
    weight = (
        ""
        if cls.info.owns or issubclass(cls, SelectsSamples)
        else cls.info.default_weights.objective
    )
    [(key, value), *_] = _numbers(cls)
    weight_key = f", weight: {weight:g}" if isinstance(weight, float) else ""
    return f"{{name: {cls.info.name}{weight_key}, {key}: {value:g}}}"


def plain(value: Any) -> str:
    """A default as a person writes it in a recipe."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def page() -> str:
    """docs/methods.md: all of them, as Markdown."""
    parts = [HEAD]
    for cls in OBJECTIVES.values():
        method = at_length(cls)
        paper = "" if method["paper"] == "—" else f" {method['paper']}."
        summary = f"{method['summary'][0].upper()}{method['summary'][1:]}.{paper}"
        parts.append(f"## `{method['name']}`\n\n{summary}\n")
        parts.append(f"{method['equation']}\n")
        parts += [f"- {label}: {text}" for label, text in method["facts"].items()]
        if method["parameters"]:
            parts.append("\n| parameter | default | range | what it is |\n|---|---|---|---|")
        for key, value in method["parameters"].items():
            cells = (f"`{key}`", plain(value["default"]), value["range"], value["help"])
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n" + "\n".join(f"    {line}" for line in method["try"]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
