"""Draws of labels: seeded, of every class alike, exact, and no matter of other rows."""

from __future__ import annotations

import math
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_cli.data.label_draws import (
    Pool,
    Stream,
    allotted,
    any_other,
    flipped_by,
    held_of,
    part_of,
    ranked,
    share_of,
    the_next,
)
from distill_cli.types import UNLABELLED

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)
LABELS = st.lists(st.integers(-1, 3), min_size=1, max_size=60)
RATE = st.floats(0.01, 0.99)
SEED = st.integers(0, 3)


def keys(rows: int) -> Tensor:
    return torch.arange(rows) * 7919 - 12345


def by_loops(counts: list[int], total: int) -> list[int]:
    """Webster's rule as a book has it: one seat after another, by the largest quotient."""
    seats = [0] * len(counts)
    for _ in range(total):
        quotients = [
            -1.0 if seats[k] == n else math.inf if seats[k] == 0 else n / (seats[k] + 0.5)
            for k, n in enumerate(counts)
        ]
        seats[quotients.index(max(quotients))] += 1
    return seats


@given(counts=COUNTS, share=st.floats(0, 1))
def test_a_total_is_allotted(counts: list[int], share: float) -> None:
    total = round(share * sum(counts))
    seats = allotted(counts, total)
    assert seats == by_loops(counts, total)
    assert sum(seats) == total
    assert all(0 <= s <= n for s, n in zip(seats, counts, strict=True))
    classes = sum(n > 0 for n in counts)
    if total >= classes:
        assert all(s > 0 for s, n in zip(seats, counts, strict=True) if n), "one of each class"
    if total < sum(counts):
        more = allotted(counts, total + 1)
        assert all(a <= b for a, b in zip(seats, more, strict=True)), "no class loses by more"


@given(counts=COUNTS, share=st.floats(0.0001, 1), more=st.floats(0.0001, 1))
def test_a_share_has_every_class(counts: list[int], share: float, more: float) -> None:
    known = share_of(counts, share)
    assert all((k > 0) == (n > 0) for k, n in zip(known, counts, strict=True)), "one of each class"
    assert sum(known) == max(round(share * sum(counts)), sum(n > 0 for n in counts))
    fewer, most = sorted((share, more))
    pairs = zip(share_of(counts, fewer), share_of(counts, most), strict=True)
    assert all(a <= b for a, b in pairs), "no class loses by more"


def test_mnist_has_1800() -> None:
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    seats = allotted(counts, 1800)
    assert sum(seats) == 1800
    assert all(abs(s - 0.03 * n) < 1 for s, n in zip(seats, counts, strict=True))


@given(labels=LABELS, seed=SEED, rate=RATE)
def test_noise_is_exact(labels: list[int], seed: int, rate: float) -> None:
    label_N, key_N = torch.tensor(labels), keys(len(labels))
    parts = [torch.arange(0, len(labels), 2), torch.arange(1, len(labels), 2)]
    for kind in ("sym", "pair"):
        other = any_other(4, seed) if kind == "sym" else the_next(4)
        noisy_N = flipped_by(label_N, key_N, parts, rate, other, seed)
        assert bool((noisy_N[label_N == UNLABELLED] == UNLABELLED).all())
        for rows in parts:
            for label in range(4):
                of_class = rows[label_N[rows] == label]
                changed = of_class[noisy_N[of_class] != label]
                assert len(changed) == round(rate * len(of_class))
                into = Counter(noisy_N[changed].tolist())
                if kind == "pair":
                    assert set(into) <= {(label + 1) % 4}
                elif len(changed) >= 3:
                    assert len(into) == 3
                    assert max(into.values()) - min(into.values()) <= 1, "all others alike"


@given(labels=LABELS, seed=SEED, rate=st.floats(0.01, 0.9), shuffle=st.integers(0, 99))
def test_a_draw_is_of_the_samples(labels: list[int], seed: int, rate: float, shuffle: int) -> None:
    """Another order of rows, and other rows of other classes, change nothing; more lies in less."""
    label_N, key_N = torch.tensor(labels), keys(len(labels))
    generator = torch.Generator().manual_seed(shuffle)
    order = torch.randperm(len(labels), generator=generator)
    whole = torch.arange(len(labels))
    other = any_other(4, seed)
    noisy_N = flipped_by(label_N, key_N, [whole], rate, other, seed)
    assert flipped_by(label_N[order], key_N[order], [whole], rate, other, seed).equal(
        noisy_N[order]
    )
    others = torch.where(label_N == 0, label_N, (label_N.clamp(min=1)) % 3 + 1)
    again_N = flipped_by(others, key_N, [whole], rate, other, seed)
    assert again_N[label_N == 0].equal(noisy_N[label_N == 0])
    more_N = flipped_by(label_N, key_N, [whole], rate + 0.09, other, seed)
    changed = noisy_N != label_N
    assert more_N[changed].equal(noisy_N[changed])


def test_seeds_and_streams_differ() -> None:
    rows, key_N = torch.arange(50), keys(50)
    drawn = [ranked(rows, key_N, seed, stream).tolist() for seed in (0, 1) for stream in Stream]
    assert len({tuple(one) for one in drawn}) == len(drawn)


@given(labels=LABELS, share=st.floats(0.01, 0.99), seed=SEED)
def test_a_part_is_of_every_class(labels: list[int], share: float, seed: int) -> None:
    label_N, key_N, rows = torch.tensor(labels), keys(len(labels)), torch.arange(len(labels))
    total = math.floor(share * len(labels))
    taken = part_of(rows, label_N, key_N, total, seed) if total else rows[:0]
    assert len(taken) == total
    assert taken.tolist() == sorted(set(taken.tolist()))
    if 0 < total < len(labels):
        more = part_of(rows, label_N, key_N, total + 1, seed)
        assert set(taken.tolist()) < set(more.tolist()), "a smaller part lies in a larger one"


@given(
    fit=st.integers(0, 30),
    held=st.integers(0, 10),
    count=st.integers(1, 40),
    fraction=st.floats(0.05, 0.5),
)
def test_held_out_labels_are_taken_from_those_known(
    fit: int, held: int, count: int, fraction: float
) -> None:
    pool = Pool(fit=torch.arange(fit), held=torch.arange(held), in_play=fit + held)
    known, chosen = pool.known(count, fraction)
    assert len(known) + len(chosen) == min(count, fit + held), "as many as there may be"
    wanted = held_of(min(count, fit + held), fraction)
    assert wanted == (
        0 if count < 5 or fit + held < 5 else max(1, round(min(count, fit + held) * fraction))
    )
    if wanted <= held and min(count, fit + held) - wanted <= fit:
        assert len(chosen) == wanted
