"""The teacher gate against exact sums, and what it lets through."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.counters import sample_key
from distill_cli.data.dataset import open_dataset
from distill_cli.data.split_images import ImageTable
from distill_cli.errors import ArtifactError
from distill_cli.models import InputSpec, create_network
from distill_cli.pipeline.inputs.teacher_checks import check_knowledge
from distill_cli.teachers import gate
from distill_cli.teachers.gate import LEVEL, ROWS, GateVerdict, judge, judge_labels, sampled
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.events import Silent


@given(st.integers(1, 60), st.floats(0.02, 0.98), st.data())
def test_p_value_is_the_binomial_tail(rows: int, majority: float, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, rows))
    tail = math.fsum(
        math.comb(rows, k) * majority**k * (1 - majority) ** (rows - k)
        for k in range(correct, rows + 1)
    )
    verdict = GateVerdict(correct=correct, rows=rows, majority=majority)
    assert verdict.p_value == pytest.approx(tail, rel=1e-9, abs=1e-12)
    assert verdict.passed == (verdict.p_value < LEVEL)


def test_guessers_pass_one_time_in_a_hundred_at_most() -> None:
    generator = torch.Generator().manual_seed(0)
    target_N = torch.arange(400) % 10
    passed = 0
    for _ in range(400):
        verdict = judge(torch.randn(400, 10, generator=generator), target_N)
        assert verdict is not None
        assert verdict.majority == pytest.approx(0.1)
        passed += verdict.passed
    assert passed <= 10


def test_a_weak_teacher_passes_and_a_constant_one_does_not() -> None:
    target_N = torch.cat([torch.zeros(70, dtype=torch.int64), torch.arange(30) % 3 + 1])
    constant = judge(torch.tensor([[1.0, 0, 0, 0]]).expand(100, 4), target_N)
    assert constant is not None
    assert constant.accuracy == constant.majority == 0.7
    assert not constant.passed
    logits_NK = torch.nn.functional.one_hot(target_N, 4).float()
    logits_NK[:15] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    good = judge(logits_NK, target_N)
    assert good is not None
    assert good.passed


def test_only_labelled_rows_count() -> None:
    target_N = torch.tensor([-1, 0, 1, -1])
    assert sampled(torch.arange(4), target_N).tolist() == [1, 2]
    verdict = judge(torch.eye(2).repeat(2, 1), target_N)
    assert verdict is not None
    assert (verdict.rows, verdict.correct) == (2, 0)
    assert judge(torch.zeros(3, 2), torch.full((3,), -1)) is None


def test_few_images_cannot_tell() -> None:
    assert not GateVerdict(correct=2, rows=2, majority=0.5).conclusive
    assert GateVerdict(correct=2, rows=7, majority=0.5).conclusive


@given(st.integers(1, 5000))
def test_the_sample_is_spread_over_all_rows(count: int) -> None:
    rows = sampled(torch.arange(count), torch.zeros(count, dtype=torch.int64))
    assert len(rows) == min(count, ROWS)
    assert rows.equal(rows.unique())
    assert 0 <= int(rows[0]) <= int(rows[-1]) < count
    if count > 2 * ROWS:
        # A quarter in each quarter, but for the luck of the draw.
        assert torch.histc(rows.float(), 4, 0, count).min() > ROWS / 8


@given(st.integers(2, 100), st.integers(1, 3))
def test_labels_that_repeat_are_all_asked_of(period: int, rounds: int) -> None:
    """Every s-th row of labels 0 … s − 1, 0 … s − 1 was of one class."""
    count = rounds * ROWS * period
    target_N = torch.arange(count) % period
    asked_N = target_N[sampled(torch.arange(count), target_N)]
    assert torch.bincount(asked_N).max() <= 2 * ROWS / period + 20
    assert len(asked_N.unique()) == period or period > 40


def test_an_untrained_teacher_is_refused_though_labels_repeat() -> None:
    """With one class asked of, naming it always was right, and the gate could not tell."""
    torch.manual_seed(0)
    names = tuple("abcdefghij")
    view = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.3,))
    network = create_network("mlp_8x1", class_names=names, view=view)
    device = torch.device("cpu")
    teacher = LiveTeacher(network, device)
    rows = 10 * ROWS
    held_out = ImageTable(
        images_NCHW=torch.randint(0, 256, (rows, 1, 8, 8), dtype=torch.uint8),
        label_N=torch.arange(rows) % 10,
        key_N=torch.tensor([sample_key(f"index:{row}") for row in range(rows)]),
        sample_ids=tuple(f"index:{row}" for row in range(rows)),
    )
    dataset = replace(open_dataset("digits"), val=held_out)
    with pytest.raises(ArtifactError, match=r"of 512 held-out images.*no better than chance"):
        check_knowledge(["t"], [teacher], dataset, device, Silent())


def test_several_labels_against_other_images() -> None:
    generator = torch.Generator().manual_seed(0)
    label_NK = (torch.rand(200, 4, generator=generator) < 0.3).to(torch.int8)
    noise_NK = torch.randn(200, 4, generator=generator)
    good = judge_labels(label_NK + noise_NK, label_NK)
    assert good.passed
    assert good.conclusive
    assert good.p_value == 1 / 200
    assert good.average_precision > good.shuffled
    assert "mAP" in good.finding("images")
    for constant in (torch.zeros(200, 4), torch.arange(4.0).expand(200, 4)):
        same = judge_labels(constant, label_NK)
        assert same.p_value == 1
        assert not same.passed


@pytest.mark.slow
def test_guessers_of_labels_pass_one_time_in_a_hundred_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Sixty rows are permuted in the same ways for each.
    monkeypatch.setattr(gate, "permutation", cache(gate.permutation))
    generator = torch.Generator().manual_seed(0)
    label_NK = torch.randint(0, 2, (60, 3), generator=generator)
    guesses = [judge_labels(torch.randn(60, 3, generator=generator), label_NK) for _ in range(60)]
    assert sum(guess.passed for guess in guesses) <= 3


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_too_few_rows_of_labels_tell_nothing(rows: int) -> None:
    label_NK = torch.eye(3, dtype=torch.int8)[:rows]
    assert not judge_labels(label_NK.float(), label_NK).conclusive


def test_all_rows_of_several_labels_are_asked_of() -> None:
    target_N, label_NK = torch.full((1000,), -1), torch.zeros(1000, 2)
    key_N = torch.arange(1000)
    assert not len(sampled(key_N, target_N))
    assert len(sampled(key_N, target_N, label_NK)) == ROWS
    assert len(sampled(key_N[:9], target_N[:9], label_NK[:9])) == 9
