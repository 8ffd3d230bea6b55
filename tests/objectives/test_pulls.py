"""How hard objectives pull: docs/pulls.md against what is measured, and what it must speak of.

fp32 on a CPU, whatever instructions it has: networks trained for eighty steps differ between
machines by some per cent, and the page may be off by half.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.gradients import DEFAULTS, NETWORKS, OTHERS, Pull, pull
from benchmarks.pulls import LEAST, MOST, PAGE, REASONS, complaints, page, read
from distill_cli.objectives import OBJECTIVES

TEXT = PAGE.read_text()
SAID = read(TEXT)
CASES = {**DEFAULTS, **OTHERS}
# What is this small on the page differs by rounding alone.
NOTHING = 1e-4


def same(found: float | None, said: float | None) -> bool:
    assert found is not None
    assert said is not None
    if max(found, said) < NOTHING:
        return True
    return said / 1.5 < found < said * 1.5


def check(network: str, case: str) -> None:
    found, said = pull(network, case), SAID[case, network]
    assert same(found.start, said.start), (found, said)
    assert same(found.end, said.end), (found, said)
    assert same(found.beside, said.beside), (found, said)


@pytest.mark.parametrize("case", CASES)
def test_the_page_says_how_hard_an_objective_pulls(case: str) -> None:
    check("mlp", case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_page_says_how_hard_it_pulls_on_a_network_with_maps(case: str) -> None:
    check("resnet", case)


def test_every_objective_is_on_the_page_and_every_default_acts_or_has_a_reason() -> None:
    assert DEFAULTS.keys() == OBJECTIVES.keys()
    assert SAID.keys() == {(case, network) for case in CASES for network in NETWORKS}
    assert complaints(SAID, REASONS) == []
    for case, reason in REASONS.items():
        (line,) = [line for line in TEXT.splitlines() if line.startswith(f"- `{case}`, ")]
        assert line.endswith(reason)
    # The page is what its figures make of it.
    assert page(SAID) == TEXT


@pytest.mark.parametrize(("weight", "inside"), [(1e-6, False), (0.9, True), (1e6, False)])
def test_a_planted_weight_is_found(weight: float, inside: bool) -> None:
    planted = pull("mlp", "kd", trained=False, weight=weight)
    found = complaints({**SAID, ("kd", "mlp"): planted}, REASONS)
    assert (found == []) == inside
    assert inside or "kd pulls with" in found[0]
    assert (LEAST <= planted.most <= MOST) == inside


@pytest.mark.parametrize("start", [0.0, LEAST])
def test_the_larger_moment_counts(start: float) -> None:
    key = ("knowledge-refinery", "mlp")
    for end, fails in ((0.5, False), (LEAST / 2, start < LEAST), (2 * MOST, True)):
        changed = {**SAID, key: replace(SAID[key], start=start, end=end)}
        assert bool(complaints(changed, REASONS)) == fails


def test_a_reason_that_nothing_needs_is_found() -> None:
    assert complaints(SAID, {**REASONS, "ce": "because"}) == ["ce needs no reason"]
    for case in REASONS:
        fewer = {name: reason for name, reason in REASONS.items() if name != case}
        assert any(said.startswith(case) for said in complaints(SAID, fewer))


def test_cross_entropy_is_the_unit() -> None:
    found = pull("mlp", "ce")
    assert (found.start, found.beside) == pytest.approx((1, 1), rel=1e-5)
    half = pull("mlp", "ce", trained=False, weight=0.5)
    assert half == Pull(start=pytest.approx(0.5, rel=1e-5))
    assert torch.is_grad_enabled()
