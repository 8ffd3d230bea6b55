"""The verdict against closed forms, scipy and its symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distill_cli.errors import UsageError
from distill_cli.report.verdict import verdict

MIRROR = {"helped": "did not help", "did not help": "helped", "cannot be told": "cannot be told"}
errors = st.integers(0, 2000)
pairs = st.lists(st.tuples(errors, errors), min_size=3, max_size=8)
several = st.lists(errors, min_size=3, max_size=8)


def of_counts(hard: list[int], distilled: list[int]) -> float:
    """Half of the interval of Poisson counts, half an error added to each side."""
    sides = ((sum(side) + 0.5) / len(side) ** 2 for side in (hard, distilled))
    return float(stats.norm.ppf(0.975)) * math.sqrt(sum(sides))


@pytest.mark.parametrize("distilled", [[7, 9], [9, 11], [0, 30]])
def test_two_seeds_are_too_few(distilled: list[int]) -> None:
    """Two differences that happen to be equal were a zero spread, and so a sure answer."""
    found = verdict([10, 12], distilled, 360)
    assert found.kind == "cannot be told"
    assert found.interval is None
    assert found.difference == sum(distilled) / 2 - 11
    assert "two seeds are too few for an interval, three are the least" in found.sentence
    unpaired = verdict([10, 12, 14], distilled, 360, paired=False)
    assert (unpaired.kind, unpaired.interval) == ("cannot be told", None)


def test_three_seeds_by_hand() -> None:
    """t(0.975, 2) = q·sqrt(2 / (1 − q²)) with q = 0.95, of the differences −10, −110 and −210."""
    found = verdict([400, 500, 600], [390, 390, 390], 10_000)
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * 100 / math.sqrt(3)
    assert found.difference == -110
    assert found.interval == (pytest.approx(-110 - half), pytest.approx(-110 + half))
    assert found.kind == "cannot be told"


def test_equal_differences_are_counts_all_the_same() -> None:
    """Binomial of 360 at the means, half an error in each total of three seeds."""
    found = verdict([20, 22, 24], [10, 12, 14], 360)
    variances = [m * (1 - m / 360) for m in (66.5 / 3, 36.5 / 3)]
    half = 1.959964 * math.sqrt(sum(variances) / 3)
    assert found.interval == (pytest.approx(-10 - half), pytest.approx(-10 + half))
    assert found.kind == "helped"
    assert found.sentence == (
        "helped: 10.0 fewer errors of 360 on average, 95 % interval −16.5 to −3.5 "
        "(3 seeds, one test set)"
    )


def test_it_hurt() -> None:
    found = verdict([10, 11, 12], [30, 32, 34])
    assert found.kind == "did not help"
    assert found.sentence.startswith("did not help, it hurt: 21.0 more errors on average")


def test_it_cannot_be_told() -> None:
    found = verdict([10, 11, 12], [9, 14, 10])
    assert found.kind == "cannot be told"
    assert "95 % interval −" in found.sentence
    assert "3 seeds" in found.sentence


@given(pairs)
def test_paired_is_the_paired_t_interval(drawn: list[tuple[int, int]]) -> None:
    """Or that of counts, where that is wider."""
    hard, distilled = map(list, zip(*drawn, strict=True))
    found = verdict(hard, distilled)
    half = of_counts(hard, distilled)
    if len({d - h for h, d in drawn}) > 1:
        reference = stats.ttest_rel(distilled, hard).confidence_interval(0.95)
        half = max(half, (reference.high - reference.low) / 2)
    assert found.difference is not None
    assert found.high == pytest.approx(found.difference + half)
    assert found.low == pytest.approx(found.difference - half)


@given(several, several)
def test_unpaired_is_the_welch_interval(hard: list[int], distilled: list[int]) -> None:
    """Or that of counts, where that is wider."""
    found = verdict(hard, distilled, paired=False)
    half = of_counts(hard, distilled)
    if len(set(hard)) > 1 or len(set(distilled)) > 1:
        test = stats.ttest_ind(distilled, hard, equal_var=False)
        reference = test.confidence_interval(0.95)
        half = max(half, (reference.high - reference.low) / 2)
    assert found.difference is not None
    assert found.low == pytest.approx(found.difference - half, abs=1e-9)
    assert found.high == pytest.approx(found.difference + half, abs=1e-9)
    assert found.seeds == min(len(hard), len(distilled))


@pytest.mark.parametrize("mean", [2, 20])
@pytest.mark.parametrize("together", [0.0, 0.9])
def test_no_effect_is_rarely_taken_for_help(mean: int, together: float) -> None:
    """Binomial errors on 360 images, by seeds that share some of them: no help in truth.

    "helped" in at most 3.5 % of draws and zero in the interval in at least 94 %.
    """
    generator = np.random.default_rng(mean)
    for seeds in (3, 4, 6, 10):
        draws = 800
        shared = generator.binomial(360, together * mean / 360, (draws, seeds))
        hard, distilled = (
            shared + generator.binomial(360, (1 - together) * mean / 360, (draws, seeds))
            for _ in range(2)
        )
        found = [verdict(h, d, 360) for h, d in zip(hard.tolist(), distilled.tolist(), strict=True)]
        assert sum(each.kind == "helped" for each in found) <= 0.035 * draws
        covered = sum(each.low <= 0 <= each.high for each in found if each.interval is not None)
        assert covered >= 0.94 * draws


def test_a_real_effect_is_still_found() -> None:
    """Half of 20 errors gone; t on two degrees of freedom finds it in 40 % too."""
    generator = np.random.default_rng(0)
    for seeds, least in ((3, 0.3), (5, 0.8)):
        hard = generator.binomial(360, 20 / 360, (400, seeds)).tolist()
        distilled = generator.binomial(360, 10 / 360, (400, seeds)).tolist()
        kinds = [verdict(h, d, 360).kind for h, d in zip(hard, distilled, strict=True)]
        assert kinds.count("helped") >= least * 400
        assert "did not help" not in kinds


@given(pairs, st.booleans())
def test_swapping_the_sides_mirrors_the_verdict(drawn: list[tuple[int, int]], paired: bool) -> None:
    hard, distilled = zip(*drawn, strict=True)
    one, other = verdict(hard, distilled, paired=paired), verdict(distilled, hard, paired=paired)
    assert one.difference == -other.difference
    assert one.interval == (pytest.approx(-other.high), pytest.approx(-other.low))
    assert other.kind == MIRROR[one.kind]


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


def test_no_errors_at_all_are_not_certain() -> None:
    found = verdict([0, 0, 0], [0, 0, 0], 360)
    assert found.kind == "cannot be told"
    assert found.low is not None
    assert -1 < found.low < 0
    assert "as many errors of 360 on average, 95 % interval −0.7 to +0.7" in found.sentence


def test_unpaired_says_so_and_takes_unequal_lengths() -> None:
    found = verdict([30, 31, 32, 33], [10, 11, 12], 360, paired=False)
    assert found.kind == "helped"
    assert "4 and 3 seeds, not paired" in found.sentence


def test_pairs_need_partners() -> None:
    with pytest.raises(UsageError, match=r"3 runs.*with 2.*same seeds") as refused:
        verdict([1, 2, 3], [1, 2])
    assert refused.value.exit_code == 2
