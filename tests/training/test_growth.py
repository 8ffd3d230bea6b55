"""Terms that outgrow what they were at the first step: said once each, with what to try."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill_cli.objectives.compose import Loss, Weight
from distill_cli.training.growth import Growth
from distill_cli.training.state import State
from distill_cli.types import Batch
from tests.conftest import Outcome
from tests.pipeline.run.test_kept import KEPT

KD, CE = ("dist", Weight(start=1.0)), ("ce", Weight(start=1.0))


def loss(hint: float, inter: float = 1.0, ce: float = 2.0, weight: float = 200.0) -> Loss:
    terms = {"hint": hint, "inter": inter, "ce": ce}
    weights = {"hint": ("hint", Weight(start=weight)), "inter": KD, "ce": CE}
    total = sum(weights[name][1].start * terms[name] for name in terms)
    return Loss(
        total=torch.tensor(total),
        terms={name: torch.tensor(value) for name, value in terms.items()},
        weights=weights,
    )


def begun(first: Loss) -> Growth:
    growth = Growth()
    growth.note(first, first=True)
    return growth


def now(growth: Growth, later: Loss) -> list[str]:
    growth.note(later, first=False)
    return growth.look({name: float(value) for name, value in later.terms.items()}, 0.5)


def test_said_beyond_a_thousand_times_and_once_a_term() -> None:
    growth = begun(loss(0.5))
    assert now(growth, loss(499.0)) == []
    [said] = now(growth, loss(501.0))
    assert said.startswith("hint: more than 1,000 times what it was at step 1 (100 then, 1e+05 now")
    assert said.endswith("Try a weight of 2 in place of 200, or a lower --lr")
    assert now(growth, loss(1e9)) == []
    [said] = now(growth, loss(1e9, inter=1001.0))
    assert said.startswith("dist, term inter: ")
    assert list(growth.warnings) == ["hint", "inter"]


def test_the_largest_is_said_first() -> None:
    growth = begun(loss(0.5))
    said = now(growth, loss(1e5, inter=1e9))
    assert [each.split(":")[0] for each in said] == ["dist, term inter", "hint"]


def test_what_is_weighed_counts() -> None:
    growth = begun(loss(0.5))
    assert now(growth, loss(900.0, weight=100.0)) == []
    assert len(now(growth, loss(900.0, weight=120.0))) == 1
    growth = begun(loss(0.5))
    assert now(growth, loss(1e12, weight=0.0)) == []


def test_a_weight_that_fades_counts_as_it_stands() -> None:
    """A recorded step says nothing of its weight: it is known from how far training is."""
    growth = Growth()
    fading = ("hint", Weight(start=100.0, end=0.0, schedule="linear"))
    only = Loss(
        total=torch.tensor(50.0), terms={"hint": torch.tensor(0.5)}, weights={"hint": fading}
    )
    growth.note(only, first=True)
    assert growth.look({"hint": 600.0}, 0.5) == [], "600 · 50 is 600 times 0.5 · 100"
    [said] = growth.look({"hint": 600.0}, 0.0)
    assert said.startswith("hint: more than 1,000 times what it was at step 1 (50 then, 6e+04 now")


@pytest.mark.parametrize("start", [0.0, 1e-6])
def test_what_begins_as_nothing_is_held_against_the_loss(start: float) -> None:
    growth = begun(loss(start))
    assert now(growth, loss(10.0)) == [], "2,000 beside a loss of 3 is no thousand times as much"
    [said] = now(growth, loss(16.0))
    assert "more than 1,000 times what the whole loss was at step 1" in said


def test_alone_there_is_no_weight_to_change() -> None:
    growth = Growth()
    for value in (2.0, 3000.0):
        only = Loss(
            total=torch.tensor(value), terms={"ce": torch.tensor(value)}, weights={"ce": CE}
        )
        growth.note(only, first=value == 2.0)
    [said] = growth.look({"ce": 3000.0}, 0.5)
    assert said.endswith("weighted). Try a lower --lr")


def part() -> Batch:
    row = torch.arange(2)
    return Batch(images_BCHW=torch.zeros(2, 1, 1, 1), target_B=row, index_B=row, view_B=row, step=0)


def test_the_parts_of_the_first_step_add_up_and_a_checkpoint_remembers() -> None:
    told: list[str] = []
    state = State()
    for share in (0.25, 0.25):
        state.note(None, part(), loss(share, inter=0.5, ce=1.0))
    state.step += 1
    state.look(told.append, epochs=9, steps=1)
    assert state.growth.first == pytest.approx({"hint": 100, "inter": 1, "ce": 2, "loss": 103})
    again = State.from_state_dict(json.loads(json.dumps(state.state_dict())))
    for each in (state, again):
        each.next_epoch(1.0, 1.0)
        each.note(None, part(), loss(600.0))
        each.step += 1
        each.look(told.append, epochs=9, steps=1)
    first, second = told
    assert first == second
    last = State.from_state_dict(again.state_dict())
    last.note(None, part(), loss(6e6))
    last.step += 1
    last.look(told.append, epochs=9, steps=1)
    assert len(told) == 2, "said before the checkpoint, not again"


def test_a_checkpoint_before_the_first_look_remembers_too() -> None:
    """A run that goes on from it warned of nothing: what the first step was like was lost."""
    told: list[str] = []
    state = State()
    state.note(None, part(), loss(1.0))
    state.step += 1
    again = State.from_state_dict(json.loads(json.dumps(state.state_dict())))
    for each in (state, again):
        each.note(None, part(), loss(6e6))
        each.step += 1
        each.look(told.append, epochs=9, steps=5)
    assert len(told) == 2
    assert told[0] == told[1]


def test_a_checkpoint_without_it_goes_on() -> None:
    values = State().state_dict()
    del values["growth"]
    state = State.from_state_dict(values)
    state.epoch = 3
    state.note(None, part(), loss(1e9))
    state.step += 1
    state.look(lambda text: pytest.fail(text), epochs=9, steps=1)


def test_a_run_that_blew_up_says_so_and_ends_well(
    here: Path, distill: Callable[..., Outcome]
) -> None:
    """Hints of 25 times their weight and no batch norm: exit code 0, and no word before.

    The teacher is a fixture and the precision fp32, for what blows up depends on both; rates from
    0.01 to 0.03 all blow up, under two kinds of kernels.
    """
    (here / "r.yaml").write_text(
        "objective:\n  - {name: ce}\n"
        "  - {name: hint, weight: 5000, normalised: false, gradient_scale: 1}\n"
    )
    outcome = distill(
        *("student", "--teachers", KEPT / "teacher", "-r", "r.yaml", "--model", "mlp_8x2"),
        *("--epochs", 2, "-b", 128, "--lr", 0.02, "--precision", "fp32", "--out", "s"),
    )
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "Try a weight of 50 in place of 5000, or a lower --lr" in err
    *grown, chance = json.loads((here / "s/result.json").read_text())["warnings"]
    assert any(each.startswith("hint: more than 1,000 times") for each in grown)
    assert chance.startswith("no better than chance: right on")
    assert err.endswith(f"warning: {chance}")
