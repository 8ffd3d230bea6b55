"""Layers that objectives look at: found, paired, and mapped onto each other by adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn
from torch.optim import Optimizer

from distill_cli.adapters.hooks import OwnOptimizer
from distill_cli.adapters.regressor import Regressor
from distill_cli.errors import counted
from distill_cli.models import Network
from distill_cli.models.taps import (
    Tap,
    last_map,
    middle,
    normalises,
    shape_of,
    stage_ends,
    taps_of,
)
from distill_cli.objectives.base import AUTO, AdapterContext, Pair, PairRule, TapShape, with_pairs
from distill_cli.objectives.compose import Composition, Weighted
from distill_cli.objectives.hooks import PairsLayers, ResolvesDefaults, TapsStudent, needs_of
from distill_cli.pipeline.objective.offers import check_pairs
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import BIAS, PENULTIMATE, Need, Teacher

Choose = Callable[[Sequence[Tap]], list[str]]
RULES: dict[PairRule, Choose] = {
    "middle": lambda taps: [middle(taps).name],
    "stages": lambda taps: [tap.name for tap in stage_ends(taps)],
    "last": lambda taps: [last_map(taps).name],
    "penultimate": lambda _: [PENULTIMATE],
    "classifier": lambda _: [BIAS, PENULTIMATE],
}


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers that a composition looks at.

    Attributes:
        composition: The composition, every pair of layers named.
        adapters: Adapters of its objectives, by name.
        taps: Layers of the student.
        descriptions: The pairs in words, one each.
        context_fingerprint: Identifies what adapters were made from beside the names of the
            classes; empty where there is nothing else.
        recorded: The pairs as recipe.yaml has them.
    """

    composition: Composition
    adapters: nn.ModuleDict
    taps: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    context_fingerprint: str = ""
    recorded: tuple[dict[str, Any], ...] = ()

    @cached_property
    def optimizers(self) -> dict[str, Optimizer]:
        """Optimisers of the adapters that have one of their own, by the objective's name."""
        return {
            name: adapter.optimizer()
            for name, adapter in self.adapters.named_modules()
            if isinstance(adapter, OwnOptimizer)
        }

    @property
    def shared(self) -> list[nn.Parameter]:
        """Parameters of the adapters that are moved with the student."""
        own = {
            id(parameter)
            for each in self.adapters.modules()
            if isinstance(each, OwnOptimizer)
            for parameter in each.parameters()
        }
        return [each for each in self.adapters.parameters() if id(each) not in own]


def find_layers(
    composed: Composition,
    network: Network,
    teacher: Teacher | None,
    *,
    context: AdapterContext | None = None,
    stop: bool = False,
) -> Layers:
    """Names the layers that are to be paired by rule, and has the teacher watch its own.

    Args:
        composed: A composition, its pairs named or not.
        network: The student.
        teacher: A live teacher, where any objective looks at layers.
        context: Facts about the classes; None for their names alone.
        stop: Neither network is to be run beyond these layers.

    Raises:
        UsageError: There is no such layer.
    """
    context = context or AdapterContext(class_names=network.class_names)
    context = replace(context, normalised=normalises(network))
    objectives = [part.objective for part in composed.parts]
    tapped = [name for one in objectives if isinstance(one, TapsStudent) for name in one.taps]
    if Need.FEATURES not in composed.needs:
        student_taps = taps_of(network) if tapped else []
        shapes = replace(
            context, student={name: _shape(network, name, student_taps) for name in tapped}
        )
        adapters = composed.adapters(shapes).to(network.mean.device)
        return Layers(
            composition=composed,
            adapters=adapters,
            taps=tuple(dict.fromkeys(tapped)),
            context_fingerprint=context.fingerprint,
        )
    assert isinstance(teacher, LiveTeacher), "what teachers offer is checked before"
    student_taps, teacher_taps = taps_of(network), taps_of(teacher.network)
    parts: list[Weighted] = []
    pairs: list[Pair] = []
    for part in composed.parts:
        if isinstance(part.objective, PairsLayers) and Need.FEATURES in needs_of(part.objective):
            rule = part.objective.info.rule
            assert rule is not None, "an objective of layers has a rule"
            named = part.objective.pairs or _by_rule(rule, student_taps, teacher_taps)
            filled = tuple(_filled(pair, rule, student_taps, teacher_taps) for pair in named)
            check_pairs(part.objective, filled)
            pairs += filled
            part = Weighted(objective=with_pairs(part.objective, filled), weight=part.weight)
        parts.append(part)
    guided = tuple(dict.fromkeys([*(pair[0] for pair in pairs), *tapped]))
    hinted = tuple(dict.fromkeys(pair[1] for pair in pairs))
    shapes = replace(
        context,
        student={name: _shape(network, name, student_taps) for name in guided},
        teacher={name: _shape(teacher.network, name, teacher_taps) for name in hinted},
    )
    teacher.watch(hinted, stop=stop)
    composed = Composition(tuple(_resolved(part, shapes) for part in parts))
    adapters = composed.adapters(shapes).to(network.mean.device)
    recorded = _recorded(composed, shapes, adapters)
    return Layers(
        composition=composed,
        adapters=adapters,
        taps=guided,
        descriptions=tuple(_in_words(entry) for entry in recorded),
        context_fingerprint=context.fingerprint,
        recorded=tuple(recorded),
    )


def _resolved(part: Weighted, context: AdapterContext) -> Weighted:
    objective = part.objective
    if not isinstance(objective, ResolvesDefaults):
        return part
    return replace(part, objective=objective.resolved(context))


def _by_rule(
    rule: PairRule, student_taps: Sequence[Tap], teacher_taps: Sequence[Tap]
) -> tuple[Pair, ...]:
    """Pairs from the last to the first, as far as both networks have layers."""
    chosen = zip(
        reversed(RULES[rule](student_taps)), reversed(RULES[rule](teacher_taps)), strict=False
    )
    return tuple(reversed(list(chosen)))


def _filled(
    pair: Pair, rule: PairRule, student_taps: Sequence[Tap], teacher_taps: Sequence[Tap]
) -> Pair:
    """A pair of which one layer may be left to the rule."""
    guided, hinted = pair
    return (
        RULES[rule](student_taps)[-1] if guided == AUTO else guided,
        RULES[rule](teacher_taps)[-1] if hinted == AUTO else hinted,
    )


def _shape(network: Network, name: str, taps: Sequence[Tap]) -> TapShape:
    known = next((tap for tap in taps if tap.name == name), None) or shape_of(network, name)
    return TapShape(
        channels=known.channels,
        height=known.height,
        width=known.width,
        rectified=known.rectified and name != PENULTIMATE,
    )


def _recorded(
    composed: Composition, shapes: AdapterContext, adapters: nn.ModuleDict
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for part in composed.parts:
        if not isinstance(part.objective, PairsLayers):
            continue
        # An adapter's first children are of its pairs, in their order.
        name = part.objective.info.name
        regressors = list(adapters[name].children()) if name in adapters else []
        for index, (guided, hinted) in enumerate(part.objective.pairs):
            entry: dict[str, Any] = {
                "objective": name,
                "student": guided,
                "student_shape": list(shapes.student[guided].size),
                "teacher": hinted,
                "teacher_shape": list(shapes.teacher[hinted].size),
            }
            if regressors and isinstance(regressor := regressors[index], Regressor):
                entry["regressor"] = regressor.description
                entry["regressor_params"] = sum(p.numel() for p in regressor.parameters())
            entries.append(entry)
    return entries


def _in_words(entry: dict[str, Any]) -> str:
    sizes = ["×".join(map(str, entry[f"{network}_shape"])) for network in ("student", "teacher")]
    words = (
        f"{entry['objective']}: the student's {entry['student']} ({sizes[0]}) learns from the "
        f"teacher's {entry['teacher']} ({sizes[1]})"
    )
    if "regressor" in entry:
        words += f" through a regressor ({entry['regressor']}, {counted(entry['regressor_params'], 'parameter')})"
    return words
