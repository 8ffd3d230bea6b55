"""Did it help? The answer for each group of runs beside which the same network learnt hard labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from distill_cli.report.format import plain
from distill_cli.report.groups import BITS, NETWORK, NOT_THE_RECIPE, UNWRITTEN, Group, role_of
from distill_cli.report.same_images import same_test_images
from distill_cli.report.verdict import SEEDS, Kind, Verdict, verdict
from distill_cli.types import RunResult

# What a network learns from, and in which way: distillation itself, not a difference beside it.
LEARNING = {
    *("teachers", "mode", "objective", "label_smoothing", "temperature", "alpha", "alpha_end"),
    *("schedule", "targets", "order", "teacher_precision", "class_map", "force"),
    *("objective_values", "peer", "mutual"),
}
# The objectives of hard labels, by kind of targets.
HARD = ("ce", "bce")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A group beside its baseline, the same network on hard labels.

    Attributes:
        group: The group.
        baseline: The baseline.
        verdict: Whether it has fewer test errors than the baseline.
        differing: Keys other than the labels in which their recipes differ, with both values.
    """

    group: Group
    baseline: Group
    verdict: Verdict
    differing: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """The answer."""
        return self.verdict.kind

    @property
    def sentence(self) -> str:
        """The verdict in words, with what differs beside the labels; no full stop."""
        sentence = self.verdict.sentence
        if self.differing:
            sentence += f". Not only the labels differ: {', '.join(self.differing)}"
        return sentence

    def to_json(self) -> dict[str, Any]:
        """The verdict, the label of the baseline and what differs."""
        return {
            **vars(self.verdict),
            "baseline": self.baseline.label,
            "differing": list(self.differing),
        }


def judged(groups: Sequence[Group]) -> list[Judged]:
    """A verdict on each group that has a baseline among the others, in their order.

    Of several baselines, one of as many bits is taken before any other, then the one whose recipe
    differs least; of these, the one of most seeds.
    """
    baselines = [group for group in groups if is_baseline(group)]
    outcomes = []
    for group in groups:
        fitting = [other for other in baselines if _comparable(group, other)]
        if group in baselines or not fitting:
            continue
        ranks = []
        for other in fitting:
            keys = _differing_keys(group, other)
            ranks.append((any(key in BITS for key in keys), len(keys), -len(other.runs)))
        outcomes.append(_judged(group, fitting[ranks.index(min(ranks))]))
    return outcomes


def is_baseline(group: Group) -> bool:
    """Whether nobody and nothing but hard labels taught it: cross-entropy alone, without smoothing."""
    recipe = group.runs[0].recipe
    objective = recipe.get("objective") or "ce"
    entries = objective if isinstance(objective, list) else [objective]
    plain_labels = all(
        (entry.get("name") in HARD and not entry.get("epsilon"))
        if isinstance(entry, Mapping)
        else entry in HARD
        for entry in entries
    )
    return role_of(recipe) == "teacher" and plain_labels and not recipe.get("label_smoothing")


def _comparable(group: Group, other: Group) -> bool:
    one, two = group.runs[0], other.runs[0]
    same_network = all(one.recipe.get(key) == two.recipe.get(key) for key in NETWORK)
    pairs = product(group.runs, other.runs)
    return same_network and all(same_test_images(*pair) is True for pair in pairs)


def _differing_keys(group: Group, baseline: Group) -> list[str]:
    """Keys other than those of distillation in which the recipes differ.

    Those that one of them has not are passed over, as another verb's, but where absence means a value.
    """
    one, two = group.runs[0].recipe, baseline.runs[0].recipe
    shared = [key for key in one if key in two]
    keys = dict.fromkeys((*shared, *(key for key in UNWRITTEN if key in one or key in two)))
    return [
        key
        for key in keys
        if key not in NOT_THE_RECIPE | LEARNING and _value(one, key) != _value(two, key)
    ]


def _differing(group: Group, baseline: Group) -> list[str]:
    """`epochs 12 and 30`: the keys in which the recipes differ, the group's value first."""
    one, two = group.runs[0].recipe, baseline.runs[0].recipe
    keys = _differing_keys(group, baseline)
    return [f"{key} {plain(_value(one, key))} and {plain(_value(two, key))}" for key in keys]


def _value(recipe: Mapping[str, Any], key: str) -> Any:
    return recipe.get(key, UNWRITTEN.get(key))


def _judged(group: Group, baseline: Group) -> Judged:
    """Paired by seed where enough seeds are common; else all runs of both sides."""
    hard, distilled = _by_seed(baseline), _by_seed(group)
    common = [seed for seed in distilled if seed in hard]
    paired = hard.keys() == distilled.keys() or len(common) >= SEEDS
    if paired:
        hard = {seed: hard[seed] for seed in common}
        distilled = {seed: distilled[seed] for seed in common}
    hard_errors, errors = (
        [float(result.test_errors) for result in results.values()] for results in (hard, distilled)
    )
    samples = {result.test_samples for result in (*hard.values(), *distilled.values())}
    outcome = verdict(hard_errors, errors, samples.pop() if len(samples) == 1 else None, paired)
    return Judged(
        group=group,
        baseline=baseline,
        verdict=outcome,
        differing=tuple(_differing(group, baseline)),
    )


def _by_seed(group: Group) -> dict[Any, RunResult]:
    return {run.seed: run.result for run in group.runs if run.result is not None}
