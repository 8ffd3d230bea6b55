"""Abilities are declared by class: no name of a hyper-parameter claims one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
import torch
from torch import nn

import distill_cli.adapters.hooks as adapter_hooks
import distill_cli.objectives.hooks as hooks
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import AdapterContext, ObjectiveInfo, Step
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.hooks import EpochVerdict, needs_of
from distill_cli.pipeline.objective.entries import layers_of
from distill_cli.pipeline.objective.rules import undivided
from distill_cli.pipeline.objective.sources import related
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import TeacherRecipe
from distill_cli.types import Need, Progress, StudentSignals, Term, Terms
from tests.objectives.test_compose import batch

ABILITIES = [
    cls
    for module in (hooks, adapter_hooks)
    for _, cls in inspect.getmembers(module, inspect.isabstract)
    if cls.__module__ == module.__name__
]
TAKEN = sorted({name for cls in ABILITIES for name in cls.__abstractmethods__})


@dataclass(frozen=True, kw_only=True)
class Planted:
    """An objective whose hyper-parameters are called as what others are able to do."""

    info: ClassVar[ObjectiveInfo] = ObjectiveInfo(name="planted", summary="-", paper="-")

    adapters: float = 1.0
    after_epoch: float = 1.0
    check: float = 1.0
    coupled: bool = True
    looks: str = "layers.0"
    model: str = "a model"
    needs: frozenset[Need] = frozenset(Need)
    optimizer: str = "sgd"
    order: str = "balanced"
    pairs: tuple[tuple[str, str], ...] = (("s", "t"),)
    relations: float = 1.0
    resolved: bool = True
    soft_samples: float = 1.0
    summary: str = "short"
    taps: tuple[str, ...] = ("layers.0",)
    whole_batch: bool = True

    def __call__(self, step: Step) -> Terms:
        return {"planted": Term(loss_B=step.student.logits_BK.sum(dim=-1))}


def test_a_hyper_parameter_claims_no_ability() -> None:
    planted = Planted()
    assert {field.name for field in fields(planted)} >= {*TAKEN, "looks"}
    assert len(ABILITIES) >= 13
    for ability in ABILITIES:
        assert not isinstance(planted, ability), ability
    assert needs_of(planted) == frozenset()


def test_a_composition_asks_nothing_of_it() -> None:
    part = Weighted(objective=Planted(), weight=Weight(start=1.0))
    composed = Composition((part,))
    assert (composed.orders, composed.needs, composed.judging) == ({}, frozenset(), ())
    assert not composed.adapters(AdapterContext())
    assert composed.after_epoch(lambda **_: [], 1, 2, nn.ModuleDict()) == EpochVerdict()
    assert undivided(composed) == []
    assert layers_of(part) == ()
    student = StudentSignals(logits=torch.ones(8, 4))
    progress = Progress(epoch=0, step=0, total_steps=1)
    assert float(composed(student, None, batch(), progress).total) == 4


def test_a_parameter_called_model_names_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "planted", Planted)
    entries = [{"name": "planted", "model": "a model"}, {"name": "label-mix", "model": "a run"}]
    assert related(validate(TeacherRecipe, {"objective": entries})) == ["a run"]
