"""D2L: when it turns, what alpha is, what is learnt before and after, and that it is remembered."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distill_cli.adapters.d2l import DimensionMemory
from distill_cli.adapters.hooks import HasSummary
from distill_cli.adapters.knowledge_refinery import ResidualMatrix
from distill_cli.adapters.target_matrix import TargetMatrix
from distill_cli.errors import UsageError
from distill_cli.objectives import d2l
from distill_cli.objectives.base import AdapterContext
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.d2l import DimensionDriven, mean_dimension, trust, turns
from distill_cli.objectives.hooks import ChecksEpochs, EpochVerdict, JudgesEpochs
from distill_cli.types import Batch, Mixing, Progress, StudentSignals
from tests.objectives.steps import batch_of

B, K = 12, 5
SETTING = AdapterContext(class_names=tuple("abcde"))
AT = Progress(epoch=0, step=3, total_steps=10)
lids = st.lists(st.floats(0.5, 50), min_size=1, max_size=20)


def batch(*, mixed: bool = False) -> Batch:
    target_B = torch.tensor([0, 1, 2, 3, 4, -1, 0, 1, 2, 3, 4, 0])
    share_B = torch.rand(B, generator=torch.Generator().manual_seed(5))
    return batch_of(
        target_B,
        mixing=Mixing(share_B=share_B, target_B=target_B.roll(1).clamp(min=0)) if mixed else None,
    )


def logits(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, K, generator=generator).requires_grad_()


def composed(objective: object) -> Composition:
    return Composition((Weighted(objective=objective, weight=Weight(start=1)),))


def remembering(alpha: float) -> nn.ModuleDict:
    adapters = composed(DimensionDriven()).adapters(SETTING)
    memory = adapters["d2l"]
    assert isinstance(memory, DimensionMemory)
    memory.alpha = alpha
    return adapters


def loss(z: Tensor, alpha: float, shown: Batch) -> Tensor:
    said = StudentSignals(logits=z)
    return composed(DimensionDriven())(said, None, shown, AT, remembering(alpha)).total


@pytest.mark.parametrize("mixed", [False, True])
def test_before_the_turn_it_is_cross_entropy(mixed: bool) -> None:
    one, two = logits(), logits()
    shown = batch(mixed=mixed)
    losses = [
        loss(one, 1.0, shown),
        composed(CrossEntropy())(StudentSignals(logits=two), None, shown, AT).total,
    ]
    for each in losses:
        each.backward()
    assert torch.allclose(*losses, atol=1e-7, rtol=0)
    assert torch.allclose(one.grad, two.grad, atol=1e-7, rtol=0)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_after_it_the_labels_are_the_papers(alpha: float, mixed: bool) -> None:
    """Loss and gradient by loops in fp64; the network's own answer is held still."""
    shown, z = batch(mixed=mixed), logits().detach().double().requires_grad_()
    loss(z, alpha, shown).backward()
    labelled = [row for row in range(B) if shown.target_B[row] >= 0]
    total, grad = 0.0, torch.zeros(B, K, dtype=torch.float64)
    for row in labelled:
        values = z[row].tolist()
        norm = math.log(sum(math.exp(value) for value in values))
        answer = max(range(K), key=lambda k: values[k])
        given = [0.0] * K
        share = 1.0 if shown.mixing is None else float(shown.mixing.share_B[row])
        given[int(shown.target_B[row])] += share
        if shown.mixing is not None:
            given[int(shown.mixing.target_B[row])] += 1 - share
        target = [alpha * given[k] + (1 - alpha) * (k == answer) for k in range(K)]
        total -= sum(t * (value - norm) for t, value in zip(target, values, strict=True))
        for k in range(K):
            grad[row, k] = (math.exp(values[k] - norm) - target[k]) / len(labelled)
    assert float(loss(z, alpha, shown).detach()) == pytest.approx(total / len(labelled), abs=1e-7)
    assert torch.allclose(z.grad, grad, atol=1e-7)


def test_unlabelled_samples_cost_nothing() -> None:
    z = logits()
    loss(z, 0.4, batch()).backward()
    assert float(z.grad[5].abs().sum()) == 0


@given(lids, st.integers(2, 8))
def test_the_turn_is_the_papers(history: list[float], window: int) -> None:
    expected = False
    if len(history) > window:
        before = history[len(history) - 1 - window : len(history) - 1]
        mean = sum(before) / window
        sd = math.sqrt(sum((value - mean) ** 2 for value in before) / window)
        margin = history[-1] - mean - 2 * sd
        if abs(margin) < 1e-9:
            return
        expected = margin > 0 and len(set(before)) > 1
    assert turns(history, window) == expected


def test_epochs_without_a_dimension_are_no_spread_to_turn_by() -> None:
    memory = DimensionMemory()
    for lid in (3.0, 0.0, 0.0, 0.0, 3.001):
        memory.note(lid)
    assert memory.lids == [3.0, 3.0, 3.0, 3.0, 3.001]
    assert not turns(memory.lids, 4)


@given(lids, st.integers(1, 30))
def test_trust_is_the_papers(history: list[float], finished: int) -> None:
    lowest = history[0]
    for value in history:
        lowest = min(lowest, value)
    expected = math.exp(-(finished / 30) * history[-1] / lowest)
    assert trust(history, finished, 30) == pytest.approx(expected, rel=1e-12)
    assert 0 <= trust(history, finished, 30) < 1


def through(
    objective: DimensionDriven, sequence: list[float], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[EpochVerdict], DimensionMemory, list[float]]:
    """A training whose dimensions are given: verdicts, memory, and alpha after each epoch."""
    said = iter(sequence)
    monkeypatch.setattr(d2l, "mean_dimension", lambda batches, k: next(said))
    memory, verdicts, alphas = objective.adapters(SETTING), [], []
    assert isinstance(memory, DimensionMemory)
    for finished in range(1, len(sequence) + 1):
        verdict = objective.after_epoch(lambda **_: [], finished, len(sequence), memory)
        verdicts.append(verdict)
        alphas.append(memory.alpha)
    return verdicts, memory, alphas


FALL = [9.0, 7.0, 6.0, 5.5, 5.2, 5.1]


def test_it_turns_once_after_the_first_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jumps in epochs 3 and 5 come too early, the one in 9 is the turn, that in 11 is late."""
    sequence = [9.0, 5.0, 30.0, 5.0, 40.0, 5.2, 5.1, 5.0, 8.0, 5.0, 90.0, 5.0]
    objective = DimensionDriven(initial_epochs=5, window=3)
    verdicts, memory, alphas = through(objective, sequence, monkeypatch)
    assert [verdict.roll_back for verdict in verdicts] == [
        finished == 9 for finished in range(1, 13)
    ]
    assert [bool(verdict.figures["turned"]) for verdict in verdicts] == [
        verdict.roll_back for verdict in verdicts
    ]
    assert memory.turn == 9
    assert [verdict.figures["lid"] for verdict in verdicts] == sequence
    # The figure is what the epoch was trained with; the memory has the next one's.
    assert [verdict.figures["alpha"] for verdict in verdicts] == [1.0, *alphas[:-1]]
    assert alphas[:8] == [1.0] * 8
    for finished in (9, 10, 11):
        expected = math.exp(-finished / 12 * sequence[finished - 1] / 5.0)
        assert alphas[finished - 1] == pytest.approx(expected)
    assert alphas[11] == alphas[10], "no epoch comes after the last"


@pytest.mark.parametrize("epochs", [10, 15, 20])
def test_by_default_three_tenths_come_first(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever steeper rises turn as soon as they are looked at."""
    sequence = [1.3**epoch for epoch in range(epochs)]
    _, memory, _ = through(DimensionDriven(window=2), sequence, monkeypatch)
    assert memory.turn == round(0.3 * epochs) + 2 + 1


def test_it_may_be_forced_and_then_turns_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = DimensionDriven(initial_epochs=0, window=2, turn_epoch=4)
    sequence = [5.0, 5.1, 99.0, 5.0, 5.0, 99.0, 5.0]
    verdicts, memory, _ = through(objective, sequence, monkeypatch)
    assert [verdict.roll_back for verdict in verdicts].index(True) == 3
    assert sum(verdict.roll_back for verdict in verdicts) == 1
    assert memory.turn == 4


def test_the_last_epoch_is_never_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts, memory, _ = through(
        DimensionDriven(initial_epochs=1, window=2), [5.0, 5.0, 5.1, 5.0, 50.0], monkeypatch
    )
    assert not any(verdict.roll_back for verdict in verdicts)
    assert memory.turn == 0
    assert memory.looks == 1


def test_without_a_turn_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _, memory, alphas = through(DimensionDriven(initial_epochs=1, window=2), FALL, monkeypatch)
    assert alphas == [1.0] * len(FALL)
    assert isinstance(memory, HasSummary)
    (line,) = memory.summary(SETTING.class_names)
    assert "none of 2 epochs" in line
    assert "alpha 1" in line
    _, memory, _ = through(DimensionDriven(), FALL, monkeypatch)
    assert "before a turn is looked for" in memory.summary(SETTING.class_names)[0]


def test_features_without_a_dimension_leave_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = [0.0, 4.0, 0.0, 3.0, 0.0, 0.0, 0.0]
    objective = DimensionDriven(turn_epoch=1)
    verdicts, memory, alphas = through(objective, sequence, monkeypatch)
    assert memory.lids == [4.0, 4.0, 3.0, 3.0, 3.0, 3.0]
    assert [verdict.figures["lid"] for verdict in verdicts] == sequence
    assert all(0 < alpha < 1 for alpha in alphas)


def test_the_mean_is_over_samples_that_have_a_dimension() -> None:
    generator = torch.Generator().manual_seed(0)
    rows_BD = torch.randn(30, 4, generator=generator)
    same_BD = torch.zeros(30, 4)
    found = mean_dimension([rows_BD, same_BD], 10)
    assert found == mean_dimension([rows_BD], 10)
    total = 0.0
    for i, row in enumerate(rows_BD.double().tolist()):
        others = [other for j, other in enumerate(rows_BD.double().tolist()) if j != i]
        radii = sorted(math.dist(row, other) for other in others)[:10]
        total += -1 / (sum(math.log(radius / radii[-1]) for radius in radii) / 10)
    assert found == pytest.approx(total / 30, rel=1e-9)
    assert mean_dimension([same_BD], 10) == 0


def test_dead_features_are_one_place() -> None:
    """A cluster of equal rows is no neighbourhood: it may not decide the mean."""
    rows_BD = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    dead_BD = torch.cat([rows_BD, torch.zeros(60, 4)])
    one_BD = torch.cat([rows_BD, torch.zeros(1, 4)])
    assert mean_dimension([dead_BD], 10) == pytest.approx(mean_dimension([one_BD], 10))
    # Of two places, each is at one distance from the other alone.
    assert mean_dimension([torch.eye(2)[torch.arange(40) % 2]], 10) == 0


def test_what_it_remembers_round_trips_without_pickles() -> None:
    adapters = remembering(0.25)
    memory = adapters["d2l"]
    assert isinstance(memory, DimensionMemory)
    memory.lids, memory.turn, memory.looks = [0.1, 1 / 3], 7, 2
    buffer = io.BytesIO()
    torch.save(adapters.state_dict(), buffer)
    buffer.seek(0)
    fresh = remembering(1.0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    other = fresh["d2l"]
    assert isinstance(other, DimensionMemory)
    assert (other.lids, other.turn, other.looks, other.alpha) == ([0.1, 1 / 3], 7, 2, 0.25)
    assert not list(fresh.parameters())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"turn_epoch": 10}, "no epoch comes after"),
        ({"turn_epoch": 11}, "no epoch comes after"),
        ({"initial_epochs": 5, "window": 4}, "initial_epochs 5"),
        ({"k": 128}, "neighbours"),
        ({"samples": 100}, "samples"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, int], said: str) -> None:
    objective = DimensionDriven(**values)
    assert isinstance(objective, ChecksEpochs)
    with pytest.raises(UsageError, match=said):
        objective.check(10)


@pytest.mark.parametrize("values", [{"turn_epoch": 9}, {"initial_epochs": 4, "window": 4}, {}])
def test_what_can_be_is_not(values: dict[str, int]) -> None:
    DimensionDriven(**values).check(10)


@pytest.mark.parametrize("values", [{"k": 1}, {"window": 1}, {"turn_epoch": 0}])
def test_parameters_have_bounds(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DimensionDriven).validate_python(values)


def test_a_composition_gathers_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d2l, "mean_dimension", lambda batches, k: 4.0)
    forced = composed(DimensionDriven(turn_epoch=2))
    adapters = forced.adapters(SETTING)
    assert forced.judging == ("d2l",)
    verdicts = [forced.after_epoch(lambda **_: [], done, 5, adapters) for done in (1, 2, 3)]
    assert [verdict.roll_back for verdict in verdicts] == [False, True, False]
    assert all(set(verdict.figures) == {"lid", "alpha", "turned"} for verdict in verdicts)
    plain = composed(CrossEntropy())
    assert plain.judging == ()
    assert plain.after_epoch(lambda **_: [], 1, 5, nn.ModuleDict()) == EpochVerdict()


def test_protocols_tell_objectives_and_adapters_apart() -> None:
    assert isinstance(DimensionDriven(), JudgesEpochs)
    assert not isinstance(CrossEntropy(), JudgesEpochs)
    assert not isinstance(CrossEntropy(), ChecksEpochs)
    assert isinstance(ResidualMatrix(3, 0.1), HasSummary)
    assert not isinstance(TargetMatrix(torch.eye(3)), HasSummary)


def test_parts_of_a_batch_sum_to_the_whole() -> None:
    z, shown = logits(), batch()
    whole = loss(z, 0.3, shown)
    parts = [loss(z[part.index_B], 0.3, replace(part, whole=shown)) for part in shown.split(3)]
    assert float(sum(parts)) == pytest.approx(float(whole), abs=1e-6)


def test_the_label_that_the_network_gives_itself_carries_no_gradient() -> None:
    """Were the answer a soft, differentiable one, or the label's share learnt, this would differ."""
    z = logits()
    loss(z, 0.0, replace(batch(), target_B=torch.zeros(B, dtype=torch.int64))).backward()
    other = logits()
    F.cross_entropy(other, other.argmax(dim=-1)).backward()
    assert torch.allclose(z.grad, other.grad, atol=1e-7)
