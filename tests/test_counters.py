from __future__ import annotations

import re
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli import counters
from distill_cli.counters import (
    Purpose,
    below,
    draw,
    few_of,
    permutation,
    sample_key,
    splitmix64,
    uniform,
    uniform32,
)

MASK = (1 << 64) - 1
words = st.integers(-(2**63), 2**63 - 1)


def reference(word: int) -> int:
    """SplitMix64 as published, in Python's unbounded integers."""
    word = (word + 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def unsigned(tensor: torch.Tensor) -> int:
    return int(tensor) & MASK


def test_published_vectors() -> None:
    # The first outputs of splitmix64.c seeded with 1234567.
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(unsigned(splitmix64(torch.tensor(state))))
        state += 0x9E3779B97F4A7C15
        state = (state & MASK) - (1 << 64) if (state & MASK) >> 63 else state & MASK
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(words)
def test_equals_python_reference(word: int) -> None:
    assert unsigned(splitmix64(torch.tensor(word))) == reference(word & MASK)


@given(words, words, words)
def test_draw_equals_reference_chain(seed: int, view: int, key: int) -> None:
    state = reference(seed & MASK)
    for word in (int(Purpose.AUGMENT), view, key):
        state = reference(state ^ (word & MASK))
    assert unsigned(draw(seed, Purpose.AUGMENT, torch.tensor(view), key)) == state


def test_vectorised_equals_one_by_one() -> None:
    views, keys = torch.arange(5)[:, None], torch.arange(-3, 4)[None]
    table = draw(7, Purpose.ORDER, views, keys)
    assert table.shape == (5, 7)
    assert int(table[3, 2]) == int(draw(7, Purpose.ORDER, 3, -1))


def test_uniform_is_uniform_and_in_range() -> None:
    numbers = uniform(draw(0, Purpose.AUGMENT, torch.arange(100_000)))
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    # chi² with 19 degrees of freedom: 43.8 is its 99.9 % quantile.
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 43.8


def test_below_stays_below() -> None:
    numbers = below(draw(1, Purpose.AUGMENT, torch.arange(10_000)), 7)
    assert set(numbers.tolist()) == set(range(7))


@given(st.integers(1, 200), st.integers(0, 5))
def test_permutation(n: int, epoch: int) -> None:
    order = permutation(3, Purpose.ORDER, n, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, permutation(3, Purpose.ORDER, n, epoch))


def test_streams_differ() -> None:
    rows = torch.arange(1000)
    assert not torch.equal(draw(0, Purpose.ORDER, rows), draw(0, Purpose.AUGMENT, rows))
    assert not torch.equal(draw(0, Purpose.ORDER, rows), draw(1, Purpose.ORDER, rows))


def test_sample_key_is_stable() -> None:
    assert sample_key("cat/1.png") == sample_key("cat/1.png") != sample_key("cat/2.png")
    assert -(2**63) <= sample_key("x") < 2**63
    # blake2b-64 of "a", from the reference implementation.
    assert sample_key("a") & MASK == 0x40F89E395B66422F


def test_uniform32_is_the_upper_bits_on_every_device() -> None:
    bits = draw(3, Purpose.GATE, torch.arange(10_000))
    expected = [(int(word) % (1 << 64) >> 40) / (1 << 24) for word in bits]
    found = uniform32(bits)
    assert found.dtype == torch.float32
    assert found.tolist() == expected
    assert 0 <= min(expected) < 1e-3 < 1 - 1e-3 < max(expected) < 1


@given(st.integers(0, 300), st.integers(0, 40), st.integers(0, 99))
def test_few_of_many_are_those_that_hash_lowest(n: int, count: int, first: int) -> None:
    """Whatever their order; and fewer of them are some of these."""
    words = torch.arange(first, first + n) * 7
    kept = few_of(words, count)
    assert kept.tolist() == sorted(kept.tolist())
    assert len(kept) == min(n, count)
    mixed = permutation(1, Purpose.ORDER, n)
    assert set(words[mixed][few_of(words[mixed], count)].tolist()) == set(words[kept].tolist())
    assert set(few_of(words, count // 2).tolist()) <= set(kept.tolist())


def test_few_of_many_have_no_period() -> None:
    for period in (2, 3, 10, 64):
        classes = few_of(torch.arange(512 * period), 512) % period
        assert torch.bincount(classes, minlength=period).max() < 2 * 512 / period + 10


def test_nothing_is_sampled_by_a_stride() -> None:
    """`rows[::step]` looks at one class where labels repeat; `few_of` does not."""
    package = Path(counters.__file__).parent
    for path in package.rglob("*.py"):
        strides = re.findall(r"\[::\s*[^\]\s-][^\]]*\]", path.read_text(encoding="utf-8"))
        assert not strides, f"{path.name}: {strides}"
