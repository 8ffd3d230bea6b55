"""Defaults that objectives had in earlier versions."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.category_structure import WEIGHTS, CategoryStructure
from distill_cli.recipe import earlier
from distill_cli.recipe.earlier import defaults_then, other_formula, parameters_then

BEGUN = Path(__file__).parent.parent / "fixtures" / "begun-0.1.0"
THEN: dict[str, dict[str, Any]] = json.loads((BEGUN / "defaults.json").read_text())


def defaults_now(name: str) -> dict[str, Any]:
    cls = OBJECTIVES[name]
    usual = {
        "weight": cls.info.default_weights.objective,
        "hard_weight": cls.info.default_weights.ce,
    }
    own = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
    if name == "category-structure":
        # Weights have their defaults by form: those of terms that the default form lacks are of
        # the form that has them all.
        own |= WEIGHTS["release"] | WEIGHTS[CategoryStructure().form]
    values: dict[str, Any] = json.loads(json.dumps({**usual, **own}))
    return values


@pytest.mark.parametrize("name", THEN)
def test_every_default_that_changed_is_entered(name: str) -> None:
    now, entered = defaults_now(name), defaults_then("0.1.0", name)
    unknown = sorted(entered.keys() - now.keys())
    assert not unknown, f"{name} has no {unknown}: what is entered has to be one of its parameters"
    then = THEN[name]
    found = {key: entered.get(key, now.get(key)) for key in then}
    assert found == then, f"{name}: enter the old value under 0.1.0 in recipe/earlier.py"
    new = sorted(now.keys() - then.keys() - entered.keys())
    assert not new, f"{name}: enter under 0.1.0 at which {new} it does what it did before"


def test_what_a_version_had_is_what_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "0.1.0": {"x": {"weight": 1.0, "rate": 0.1}},
        "0.10.0": {"x": {"rate": 0.3}, "y": {"hard_weight": 0.5}},
        "0.9.0": {"x": {"rate": 0.2, "form": "paper"}},
    }
    monkeypatch.setattr(earlier, "EARLIER", table)
    first = {"weight": 1.0, "rate": 0.1, "form": "paper"}
    assert defaults_then("0.1.0", "x") == first
    assert defaults_then("not installed", "x") == first
    assert parameters_then("0.1.0", {"name": "x"}) == {"rate": 0.1, "form": "paper"}
    assert defaults_then("0.2.0", "x") == {"rate": 0.2, "form": "paper"}
    assert defaults_then("0.9.1", "x") == {"rate": 0.3}
    assert defaults_then("0.9.0", "y") == {"hard_weight": 0.5}
    for version in ("0.11.0", "1.0.0", None):
        assert defaults_then(version, "x") == {}


def test_a_formula_that_changed_is_told_from_the_values_that_meant_it() -> None:
    kd, structure = {"name": "kd"}, {"name": "category-structure", "form": "release"}
    assert other_formula("0.1.0", [kd, structure]) == "category-structure, form: release"
    assert other_formula("0.1.0", [kd, {**structure, "form": "paper"}]) is None
    for version in ("0.2.0", None):
        assert other_formula(version, [kd, structure]) is None


@pytest.mark.parametrize("form", [None, "paper", "release", "teacher-free"])
def test_defaults_of_one_form_are_no_other_forms(form: str | None) -> None:
    entry = {"name": "category-structure", **({"form": form} if form else {})}
    then = parameters_then("0.1.0", entry)
    wanted = {"intra_weight": 0.002, "inter_weight": 0.04} if form in (None, "paper") else {}
    assert then == wanted
    CategoryStructure(**{key: value for key, value in {**then, **entry}.items() if key != "name"})
