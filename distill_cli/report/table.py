"""Groups of runs side by side: figures for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill_cli.errors import counted
from distill_cli.report.against import describe_against
from distill_cli.report.format import (
    NOTHING,
    count,
    milliseconds,
    plus_minus,
    size,
)
from distill_cli.report.groups import Group, ranked
from distill_cli.report.pareto import pareto, same_test
from distill_cli.report.row import Row, bits_of
from distill_cli.report.run_names import group_names
from distill_cli.report.same_images import (
    same_test_images,
    same_training_images,
    trained_on,
    training_images,
)
from distill_cli.types import FIGURES


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Groups side by side.

    Attributes:
        groups: The groups that are compared, the best first.
        reference: The one that the others are described against.
        rows: Its rows, one a group.
        notes: Reasons why the groups are not comparable, in words.
    """

    groups: tuple[Group, ...]
    reference: Group
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def reference_row(self) -> Row:
        """The row of the reference."""
        return self.rows[self.groups.index(self.reference)]


def comparison(groups: Sequence[Group]) -> Comparison:
    """Groups side by side, the best first, each described against the first that is given."""
    assert groups, "the first group is what the others are described against"
    best_first = ranked(groups)
    names = group_names([[run.folder for run in group.runs] for group in best_first])
    return Comparison(
        groups=tuple(best_first),
        reference=groups[0],
        rows=tuple(
            _row(group, groups[0], name) for group, name in zip(best_first, names, strict=True)
        ),
        notes=tuple(notes(groups)),
    )


def _row(group: Group, reference: Group, runs: str) -> Row:
    params, weights = group.mean("params"), group.mean("model_bytes")
    images = {trained_on(run) for run in group.runs} - {None}
    speed, samples = group.mean("images_per_second"), group.values("test_samples")
    return Row(
        runs=runs,
        label=group.label,
        errors=errors(group),
        test_samples=" / ".join(f"{number:.0f}" for number in dict.fromkeys(samples)) or NOTHING,
        top1=_per_cent(group, "test_top1", decimals=2),
        held_out=_per_cent(group, "val_top1", decimals=2),
        map=_per_cent(group, "test_map", decimals=2),
        f1=_per_cent(group, "test_f1", decimals=2),
        nll=plus_minus(group.mean("test_nll"), group.sd("test_nll"), decimals=3),
        ece=_per_cent(group, "test_ece", decimals=1),
        params=NOTHING if params is None else count(params),
        size=NOTHING if weights is None else size(weights),
        bits=bits_of(group.mean("weight_bits"), group.mean("act_bits")),
        packed=NOTHING if group.bytes is None else size(group.bytes),
        latency=milliseconds(group.mean("latency_ms")),
        speed=NOTHING if speed is None else count(speed),
        agreement=_per_cent(group, "teacher_agreement", decimals=1),
        images=" / ".join(f"{number:,}" for number in images) or NOTHING,
        divergence=plus_minus(group.mean("val_teacher_kl"), group.sd("val_teacher_kl"), decimals=4),
        seeds=len(group.runs),
        against="" if group is reference else describe_against(group, reference),
    )


def errors(group: Group) -> str:
    """`8.4 ± 1.1`, and a whole number for one run."""
    mean, sd = group.mean("test_errors"), group.sd("test_errors")
    return plus_minus(mean, sd, decimals=0 if sd is None else 1)


def _per_cent(group: Group, figure: str, *, decimals: int) -> str:
    text = plus_minus(group.mean(figure), group.sd(figure), decimals=decimals, scale=100)
    return text if text == NOTHING else f"{text} %"


def notes(groups: Sequence[Group]) -> list[str]:
    """Reasons why the groups are not comparable, and runs that do not count, in words."""
    sentences = []
    runs = [run for group in groups for run in group.runs]
    if not same_test(groups):
        sentences.append(
            "the runs were tested on different images: their errors cannot be compared"
        )
    elif others := [run for run in runs if same_training_images(runs[0], run) is False]:
        counts = [training_images(run) for run in (runs[0], others[0])]
        numbers = "" if None in counts else f" ({counts[0]:,} and {counts[1]:,})"
        known = all(same_test_images(runs[0], run) for run in others)
        tested = (
            "they were tested on the same" if known else "whether test is the same is not noted"
        )
        sentences.append(f"the runs learnt from different training images{numbers}; {tested}")
    if seen := [run for run in runs if run.recipe.get("transductive")]:
        sentences.append(
            f"{counted(len(seen), 'run')} learnt from the test images, without their labels (transductive): their "
            "errors are not of unseen images"
        )
    devices = {run.recorded.get("device") for run in runs} - {None}
    if len(devices) > 1:
        sentences.append("the runs were made on different devices: their times cannot be compared")
    return [*sentences, *_repeats(groups)]


def _repeats(groups: Sequence[Group]) -> list[str]:
    pairs = [
        (run, next(first for first in group.runs if first.seed == run.seed))
        for group in groups
        for run in group.repeats
    ]
    names = iter(group_names([[run.folder] for pair in pairs for run in pair]))
    sentences = []
    for run, first in pairs:
        name, first_name = next(names), next(names)
        sentence = f"{name} has the recipe and the seed of {first_name}, which alone counts"
        errors = [one.result.test_errors for one in (run, first) if one.result is not None]
        if len(set(errors)) > 1:
            sentence += f" ({errors[0]} and {errors[1]} test errors)"
        sentences.append(sentence)
    return sentences


def to_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Every group with mean and sd of every figure (null where unknown), its runs, and its rank.

    The order is that in which they were given. `on_front` is null where the test images differ.
    """
    best_first, front = ranked(groups), pareto(groups)
    comparable = same_test(groups)
    return [
        {
            "label": group.label,
            "rank": 1 + best_first.index(group),
            "role": group.role,
            "runs": [str(run.folder) for run in group.runs],
            "seeds": [run.seed for run in group.runs],
            "repeats": [str(run.folder) for run in group.repeats],
            "figures": {name: {"mean": group.mean(name), "sd": group.sd(name)} for name in FIGURES},
            "bytes": group.bytes,
            "on_front": group in front if comparable else None,
            "against_first": "" if index == 0 else describe_against(group, groups[0]),
        }
        for index, group in enumerate(groups)
    ]
