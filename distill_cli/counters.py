"""Random draws of views, order and mixtures as hashes of counters, without a generator's state.

A draw is `splitmix64(… splitmix64(splitmix64(seed) ^ word₁) … ^ wordₙ)` over the words (purpose,
view, sample key, draw). The same words give the same bits on any device, batch or worker count,
and after any restart. SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014. Test vectors: docs/counters.md.

int64 throughout, with masked (logical) right shifts: torch has no shifts for uint64.
"""

from __future__ import annotations

from enum import IntEnum, unique
from hashlib import blake2b

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


@unique
class Purpose(IntEnum):
    """Purpose of a draw, so that no two uses share a stream. Never renumber: caches depend on it."""

    SPLIT = 1
    ORDER = 2
    AUGMENT = 3
    TEACHER = 4
    PAIR = 5
    MIX = 6
    LIBRARY = 7
    LABEL = 8
    PROBE = 9
    GATE = 10
    ROWS = 11
    STUDENT = 12
    KNOWN = 13


def _signed(word: int) -> int:
    word &= _MASK
    return word - (1 << 64) if word >> 63 else word


def _shift_right(word: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64: the sign bits that an arithmetic shift drags in are masked."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(word: Tensor) -> Tensor:
    """The SplitMix64 finaliser of `word + γ`, elementwise on int64 (wraps modulo 2⁶⁴)."""
    word = word + _signed(_GAMMA)
    word = (word ^ _shift_right(word, 30)) * _signed(_MIX_1)
    word = (word ^ _shift_right(word, 27)) * _signed(_MIX_2)
    return word ^ _shift_right(word, 31)


def draw(seed: int, purpose: Purpose, *words: Tensor | int) -> Tensor:
    """64 random bits for every combination of the (broadcast) words.

    Args:
        seed: Any integer, taken modulo 2⁶⁴.
        purpose: Stream of the draw.
        words: int64 tensors or integers, broadcast against each other.

    Returns:
        int64 tensor of the broadcast shape (a scalar if all words are integers).
    """
    # Leading integers are hashed as integers: a tensor of them would be a copy to the device.
    state: Tensor | int = _splitmix64_of(seed)
    for word in (int(purpose), *words):
        if isinstance(state, Tensor):
            state = splitmix64(state ^ (word if isinstance(word, Tensor) else _signed(word)))
        elif isinstance(word, Tensor):
            state = splitmix64(word ^ _signed(state))
        else:
            state = _splitmix64_of(state ^ word)
    return state if isinstance(state, Tensor) else torch.tensor(_signed(state), dtype=torch.int64)


def _splitmix64_of(word: int) -> int:
    """`splitmix64` of an integer modulo 2⁶⁴."""
    word = (word + _GAMMA) & _MASK
    word = ((word ^ (word >> 30)) * _MIX_1) & _MASK
    word = ((word ^ (word >> 27)) * _MIX_2) & _MASK
    return word ^ (word >> 31)


def uniform(bits: Tensor) -> Tensor:
    """float64 in [0, 1) from the upper 53 of 64 random bits."""
    return _shift_right(bits, 11).double() * (1.0 / (1 << 53))


def uniform32(bits: Tensor) -> Tensor:
    """float32 in [0, 1) from the upper 24 bits: exact, so the same on devices without fp64."""
    return _shift_right(bits, 40).float() * (1.0 / (1 << 24))


def below(bits: Tensor, n: int) -> Tensor:
    """int64 in [0, n); the bias is under n / 2⁵³."""
    return (uniform(bits) * n).long()


def permutation(
    seed: int, purpose: Purpose, n: int, *words: int, device: torch.device | None = None
) -> Tensor:
    """A permutation of range(n), int64, a pure function of its arguments but for where it lies."""
    keys = draw(seed, purpose, *words, torch.arange(n, device=device))
    return torch.argsort(keys, stable=True)


def few_of(word_N: Tensor, count: int) -> Tensor:
    """int64 positions, ascending, of the `count` words that hash lowest; all if there are fewer.

    A sample of rows must not depend on their order: every s-th row may be of one class, one camera,
    one file format.

    Args:
        word_N: int64 key of each sample, or its row where keys are not known.
        count: Largest number of positions.
    """
    if len(word_N) <= count:
        return torch.arange(len(word_N))
    return draw(0, Purpose.ROWS, word_N).argsort(stable=True)[:count].sort().values


def sample_key(sample_id: str) -> int:
    """First 8 bytes of blake2b of a sample id, as a signed 64-bit integer: its word in `draw`."""
    digest = blake2b(sample_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
