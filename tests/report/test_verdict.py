"""The verdict against closed forms, scipy and its symmetries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distill_cli.errors import UsageError
from distill_cli.report.verdict import verdict

MIRROR = {"helped": "did not help", "did not help": "helped", "cannot be told": "cannot be told"}
errors = st.integers(0, 2000)
pairs = st.lists(st.tuples(errors, errors), min_size=2, max_size=8)
several = st.lists(errors, min_size=2, max_size=8)


def test_two_seeds_by_hand() -> None:
    """t(0.975, 1) = tan(0.475 π); of differences −3 and −5 the standard error is 1."""
    found = verdict([10, 12], [7, 7])
    half = math.tan(0.475 * math.pi)
    assert found.difference == -4
    assert found.low == pytest.approx(-4 - half)
    assert found.high == pytest.approx(-4 + half)
    assert found.kind == "cannot be told"
    assert found.seeds == 2


def test_three_seeds_by_hand() -> None:
    """t(0.975, 2) = q·sqrt(2 / (1 − q²)) with q = 0.95."""
    found = verdict([20, 22, 24], [10, 11, 12], 360)
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3)
    assert found.difference == -11
    assert found.interval == (pytest.approx(-11 - half), pytest.approx(-11 + half))
    assert found.kind == "helped"
    assert found.sentence == (
        "helped: 11.0 fewer errors of 360 on average, 95 % interval −13.5 to −8.5 "
        "(3 seeds, one test set)"
    )


def test_it_hurt() -> None:
    found = verdict([10, 11, 12], [20, 22, 24])
    assert found.kind == "did not help"
    assert found.sentence.startswith("did not help, it hurt: 11.0 more errors on average")


def test_it_cannot_be_told() -> None:
    found = verdict([10, 11, 12], [9, 14, 10])
    assert found.kind == "cannot be told"
    assert "95 % interval −" in found.sentence
    assert "3 seeds" in found.sentence


@given(pairs)
def test_paired_is_the_paired_t_interval(drawn: list[tuple[int, int]]) -> None:
    hard, distilled = zip(*drawn, strict=True)
    differences = [d - h for h, d in drawn]
    found = verdict(hard, distilled)
    if len(set(differences)) == 1:
        assert found.interval == (differences[0], differences[0])
    else:
        reference = stats.ttest_rel(distilled, hard).confidence_interval(0.95)
        assert found.interval == (pytest.approx(reference.low), pytest.approx(reference.high))


@given(several, several)
def test_unpaired_is_the_welch_interval(hard: list[int], distilled: list[int]) -> None:
    found = verdict(hard, distilled, paired=False)
    if len(set(hard)) == len(set(distilled)) == 1:
        assert found.interval == (distilled[0] - hard[0],) * 2
    else:
        test = stats.ttest_ind(distilled, hard, equal_var=False)
        reference = test.confidence_interval(0.95)
        assert found.low == pytest.approx(reference.low, abs=1e-9)
        assert found.high == pytest.approx(reference.high, abs=1e-9)
    assert found.seeds == min(len(hard), len(distilled))


@given(pairs, st.booleans())
def test_swapping_the_sides_mirrors_the_verdict(drawn: list[tuple[int, int]], paired: bool) -> None:
    hard, distilled = zip(*drawn, strict=True)
    one, other = verdict(hard, distilled, paired=paired), verdict(distilled, hard, paired=paired)
    assert one.difference == -other.difference
    assert one.interval == (pytest.approx(-other.high), pytest.approx(-other.low))
    if one.interval != (0, 0):
        assert other.kind == MIRROR[one.kind]


@given(pairs, st.integers(-500, 500), st.booleans())
def test_shifting_both_sides_changes_nothing(
    drawn: list[tuple[int, int]], shift: int, paired: bool
) -> None:
    hard, distilled = zip(*drawn, strict=True)
    moved = verdict([h + shift for h in hard], [d + shift for d in distilled], paired=paired)
    before = verdict(hard, distilled, paired=paired)
    assert moved.difference == pytest.approx(before.difference, abs=1e-9)
    assert moved.low == pytest.approx(before.low, abs=1e-6)
    assert moved.high == pytest.approx(before.high, abs=1e-6)


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(drawn: list[tuple[int, int]], random: object) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = verdict(*zip(*drawn, strict=True))
    other = verdict(*zip(*shuffled, strict=True))
    assert one.difference == other.difference
    assert one.kind == other.kind


@given(pairs)
def test_the_kind_follows_from_the_interval(drawn: list[tuple[int, int]]) -> None:
    found = verdict(*zip(*drawn, strict=True))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.difference <= found.high
    assert (found.kind == "helped") == (found.high < 0)
    assert (found.kind == "did not help") == (found.low >= 0)
    assert found.sentence.startswith(found.kind)


def test_one_seed_says_why_not() -> None:
    found = verdict([10], [4], 360)
    assert found.kind == "cannot be told"
    assert found.interval is None
    assert found.difference == -6
    assert "one seed" in found.sentence
    assert "6.0 fewer errors of 360" in found.sentence


def test_no_runs() -> None:
    found = verdict([], [])
    assert (found.kind, found.difference, found.interval) == ("cannot be told", None, None)
    assert verdict([1, 2], [], paired=False).kind == "cannot be told"


@pytest.mark.parametrize(
    ("distilled", "kind", "said"),
    [
        ([8, 9, 10], "helped", "the same with every seed, so no interval"),
        ([12, 13, 14], "did not help", "it hurt: 2.0 more errors"),
        ([10, 11, 12], "did not help", "no difference with any seed"),
    ],
)
def test_no_spread(distilled: list[int], kind: str, said: str) -> None:
    found = verdict([10, 11, 12], distilled)
    assert found.kind == kind
    assert said in found.sentence


def test_unpaired_says_so_and_takes_unequal_lengths() -> None:
    found = verdict([30, 31, 32, 33], [10, 11], 360, paired=False)
    assert found.kind == "helped"
    assert "4 and 2 seeds, not paired" in found.sentence


def test_pairs_need_partners() -> None:
    with pytest.raises(UsageError, match=r"3 runs.*with 2.*same seeds") as refused:
        verdict([1, 2, 3], [1, 2])
    assert refused.value.exit_code == 2
