"""Logits to bytes and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.cache.codec import SPELLED, codec, first_bad_row
from distill_cli.errors import ArtifactError, UsageError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@given(st.integers(1, 20), st.integers(1, 12), st.sampled_from(sorted(DTYPES)), st.integers(0, 99))
def test_round_trip_is_rounding(rows: int, classes: int, name: str, seed: int) -> None:
    logits_NK = 9 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    encoded = codec(name).encode(logits_NK)
    decoded_NK = codec(name).decode(encoded)
    assert decoded_NK.dtype == torch.float32
    assert torch.equal(decoded_NK, logits_NK.to(DTYPES[name]).float())
    layout = codec(name).layout(rows, classes)
    assert {key: (t.dtype, tuple(t.shape)) for key, t in encoded.items()} == dict(layout)
    assert all(dtype in SPELLED for dtype, _ in layout.values())


LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("fp16", [3.0, 1.0, -1e9]),  # a masked class
        ("fp16", [3.0, 1.0, -LARGEST]),
        ("fp16", [7e4, 7e4 - 2, 0.0]),
        ("fp16", [LARGEST, 0.0, -LARGEST]),
        ("bf16", [3.0, 1.0, -1e9]),
        ("bf16", [3.0, 1.0, -LARGEST]),
        ("bf16", [LARGEST, 0.0, -LARGEST]),
    ],
)
def test_what_does_not_fit_keeps_its_softmax(name: str, row: list[float]) -> None:
    logits_NK = torch.tensor([row, [1.0, 2.0, 3.0]])
    decoded_NK = codec(name).decode(codec(name).encode(logits_NK))
    assert decoded_NK.isfinite().all()
    assert torch.allclose(decoded_NK.softmax(1), logits_NK.softmax(1), atol=1e-3)
    assert decoded_NK[1].tolist() == [1.0, 2.0, 3.0], "rows that fit are not shifted"


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused_with_the_row(name: str, value: float) -> None:
    logits_NK = torch.zeros(5, 3)
    logits_NK[3, 1] = logits_NK[4, 0] = value
    assert first_bad_row(logits_NK) == 3
    with pytest.raises(ArtifactError, match="row 3"):
        codec(name).encode(logits_NK)


def test_unknown_codec() -> None:
    with pytest.raises(UsageError, match=r"'fp166'.*'fp16'"):
        codec("fp166")
