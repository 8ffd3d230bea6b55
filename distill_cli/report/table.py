"""Groups of runs side by side: figures for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from distill_cli.report.groups import Group
from distill_cli.types import RunResult

# Ratios closer to one than this are said as equal: timings of one machine vary by as much.
NEAR = 1.1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One group, each cell as text.

    Attributes:
        label: What was trained.
        errors: Test errors, mean ± sd.
        top1: Test accuracy in per cent.
        nll: Test NLL.
        ece: Test ECE in per cent.
        params: Parameters.
        size: Of the weights file.
        latency: Of one image.
        seeds: Runs in the group.
        against: In words, against the first group; empty for that one.
    """

    label: str
    errors: str
    top1: str
    nll: str
    ece: str
    params: str
    size: str
    latency: str
    seeds: int
    against: str


COLUMNS = {
    "label": "what",
    "errors": "test errors",
    "top1": "accuracy",
    "nll": "NLL",
    "ece": "ECE",
    "params": "parameters",
    "size": "size",
    "latency": "one image",
    "seeds": "seeds",
    "against": "against the first",
}


def rows(groups: Sequence[Group]) -> list[Row]:
    """The table of groups, each described against the first."""
    return [
        Row(
            label=group.label,
            errors=plus_minus(group, "test_errors", 1, ".1f"),
            top1=plus_minus(group, "test_top1", 100, ".2f") + " %",
            nll=plus_minus(group, "test_nll", 1, ".3f"),
            ece=plus_minus(group, "test_ece", 100, ".1f") + " %",
            params=count(group.mean("params") or 0),
            size=size(group.mean("model_bytes") or 0),
            latency=f"{group.mean('latency_ms') or 0:.3f} ms",
            seeds=len(group.runs),
            against="" if group is groups[0] else against(group, groups[0]),
        )
        for group in groups
    ]


def notes(groups: Sequence[Group]) -> list[str]:
    """What makes the groups not comparable."""
    said = []
    runs = [run for group in groups for run in group.runs]
    data = {(run.recorded.get("dataset") or {}).get("fingerprint") for run in runs}
    if len(data) > 1 or len({run.result.test_samples for run in runs}) > 1:
        said.append("the runs were made on different data: their errors cannot be compared")
    if len({run.recorded.get("device") for run in runs}) > 1:
        said.append("the runs were made on different devices: their times cannot be compared")
    return said


def against(group: Group, reference: Group) -> str:
    """`11× smaller, 4× faster, 3 errors more`."""
    parts = [
        _ratio(group, reference, "params", "smaller", "larger"),
        _ratio(group, reference, "latency_ms", "faster", "slower"),
        _errors(group, reference),
    ]
    return ", ".join(part for part in parts if part)


def _ratio(group: Group, reference: Group, figure: str, less: str, more: str) -> str:
    mine, theirs = group.mean(figure) or 0, reference.mean(figure) or 0
    if not mine or not theirs:
        return ""
    ratio = max(mine, theirs) / min(mine, theirs)
    if ratio < NEAR:
        return ""
    shown = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}".removesuffix(".0")
    return f"{shown}× {less if mine < theirs else more}"


def _errors(group: Group, reference: Group) -> str:
    difference = (group.mean("test_errors") or 0) - (reference.mean("test_errors") or 0)
    shown = f"{abs(difference):.1f}".removesuffix(".0")
    if shown == "0":
        return "as many errors"
    return f"{shown} error{'' if shown == '1' else 's'} {'more' if difference > 0 else 'fewer'}"


def plus_minus(group: Group, figure: str, scale: float, form: str) -> str:
    """Mean ± sd, the sd left out below two runs and the decimals where a count is whole."""
    mean, sd = group.mean(figure), group.sd(figure)
    assert mean is not None, f"every run has {figure}"
    if sd is None:
        whole = figure == "test_errors"
        return f"{mean:.0f}" if whole else f"{scale * mean:{form}}"
    return f"{scale * mean:{form}} ± {scale * sd:{form}}"


def count(number: float) -> str:
    """1.2 M, 14.3 K, 810."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """1.2 MB, 57 KB, 810 B."""
    return count(number) + "B" if number >= 1000 else f"{number:.0f} B"


def to_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Every group with mean and sd of every figure, and its runs."""
    return [
        {
            "label": group.label,
            "runs": [str(run.folder) for run in group.runs],
            "seeds": [run.recipe.get("seed") for run in group.runs],
            "figures": {
                field.name: {"mean": group.mean(field.name), "sd": group.sd(field.name)}
                for field in fields(RunResult)
            },
            "against_first": "" if group is groups[0] else against(group, groups[0]),
        }
        for group in groups
    ]
