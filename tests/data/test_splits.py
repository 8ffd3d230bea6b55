"""A split is a function of sample ids."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from distill_cli.data.splits import stratified

# Any text; `st.text()` would first make a table of all that Unicode knows of every character.
CHARACTERS = st.integers(0, 0xD7FF) | st.integers(0xE000, 0x10FFFF)
TEXTS = st.lists(CHARACTERS.map(chr), max_size=8).map("".join)
SAMPLES = st.dictionaries(TEXTS, st.integers(0, 3), min_size=1, max_size=60)
FRACTION = st.floats(0.01, 0.99)


def held(samples: dict[str, int], order: list[str], fraction: float, seed: int) -> set[str]:
    rows = stratified(order, [samples[name] for name in order], fraction, seed)
    return {order[row] for row in rows}


@given(samples=SAMPLES, fraction=FRACTION, seed=st.integers(0, 9), shuffle=st.integers(0, 99))
def test_order_does_not_matter(
    samples: dict[str, int], fraction: float, seed: int, shuffle: int
) -> None:
    order = list(samples)
    shuffled = random.Random(shuffle).sample(order, len(order))
    assert held(samples, order, fraction, seed) == held(samples, shuffled, fraction, seed)


@given(samples=SAMPLES, fraction=FRACTION)
def test_every_class_is_on_both_sides(samples: dict[str, int], fraction: float) -> None:
    out = held(samples, list(samples), fraction, 0)
    for label in set(samples.values()):
        members = [name for name in samples if samples[name] == label]
        count = sum(name in out for name in members)
        assert abs(count - len(members) * fraction) <= 1
        if len(members) > 1:
            assert 0 < count < len(members)
        else:
            assert count == 0


@given(samples=SAMPLES, fraction=FRACTION, added=TEXTS, label=st.integers(0, 3))
def test_adding_a_sample_moves_at_most_one_other(
    samples: dict[str, int], fraction: float, added: str, label: int
) -> None:
    rest = {name: of for name, of in samples.items() if name != added}
    more = {**rest, added: label}
    before, after = (held(part, list(part), fraction, 0) for part in (rest, more))
    assert len((before ^ after) - {added}) <= 1


def test_seeds_differ() -> None:
    samples = {f"{index}": index % 2 for index in range(100)}
    drawn = {frozenset(held(samples, list(samples), 0.1, seed)) for seed in range(5)}
    assert len(drawn) == 5
