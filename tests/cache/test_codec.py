"""Logits to bytes and back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from distill_cli.cache.codec import SPELLED, bytes_per_row, codec
from distill_cli.cache.rows import Codec, first_bad_row
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.recipe.parsing import CODECS, check_codec

KEPT = Path(__file__).parents[1] / "fixtures" / "kept-0.2.0"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@given(st.integers(1, 20), st.integers(1, 12), st.sampled_from(sorted(DTYPES)), st.integers(0, 99))
def test_round_trip_is_rounding(rows: int, classes: int, name: str, seed: int) -> None:
    logits_NK = 9 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    how = codec(name, classes)
    encoded = how.encode(logits_NK)
    decoded_NK = how.logits(encoded)
    assert decoded_NK is not None
    assert decoded_NK.dtype == torch.float32
    assert torch.equal(decoded_NK, logits_NK.to(DTYPES[name]).float())
    layout = how.layout(rows)
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
    how = codec(name, 3)
    decoded_NK = how.logits(how.encode(logits_NK))
    assert decoded_NK is not None
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
        codec(name, 3).encode(logits_NK)


def test_unknown_codec() -> None:
    with pytest.raises(UsageError, match=r"'fp166'.*'fp16'"):
        codec("fp166", 3)


def rebuilt(row: list[float], kept: int, temperature: float, version: int = 2) -> list[float]:
    """The written rule, with plain numbers: one row through topk and back, at any temperature."""

    def half(value: float) -> float:
        return float(torch.tensor(max(-65504.0, min(65504.0, value))).half())

    classes = len(row)
    order = sorted(range(classes), key=lambda k: (-row[k], k))[:kept]

    def tail_logit(t: float) -> float:
        peak = max(row)
        mass = [math.exp((value - peak) / t) for value in row]
        inside = math.fsum(mass[k] for k in order)
        return math.log(math.fsum(mass[k] for k in range(classes) if k not in order) / inside)

    known = {1 / t: half(tail_logit(t)) for t in (1, 2, 4, 8)}
    known[0.0] = math.log((classes - kept) / kept)
    x = 1 / temperature
    places = sorted(known)
    low = max((p for p in places[:-1] if p <= x), default=0.0)
    high = places[places.index(low) + 1]
    logit = known[low] + (x - low) / (high - low) * (known[high] - known[low])
    peak = max(row)
    norm = peak + math.log(math.fsum(math.exp(value - peak) for value in row))
    stored = {k: half(row[k] - norm) for k in order}
    if version == 2 and temperature > 8:
        others = [row[k] for k in range(classes) if k not in order]
        slope = half(math.fsum(others) / len(others) - math.fsum(row[k] for k in order) / kept)

        def inside(s: float) -> float:
            return math.log(math.fsum(math.exp(value * s) for value in stored.values()))

        start = math.log(classes - kept)
        first, second = known[1 / 8] + inside(1 / 8), known[1 / 4] + inside(1 / 4)
        chord, next_chord = 8 * (first - start), 8 * (second - first)
        slope = max(slope + math.fsum(stored.values()) / kept, 2 * chord - next_chord)
        logit = start + x * (chord + (slope - chord) * (1 - 8 * x)) - inside(x)
    tail = 1 / (1 + math.exp(-logit))
    weights = {k: math.exp(value * x) for k, value in stored.items()}
    scale = (1 - tail) / math.fsum(weights.values())
    return [weights[k] * scale if k in weights else tail / (classes - kept) for k in range(classes)]


@given(
    st.integers(2, 30).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, k - 1))),
    st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0, 8.0, 11.0, 20.0, 40.0]),
    st.integers(0, 999),
    st.sampled_from([1, 2]),
)
def test_topk_against_plain_arithmetic(
    sizes: tuple[int, int], temperature: float, seed: int, version: int
) -> None:
    classes, kept = sizes
    logits_NK = 5 * torch.randn(4, classes, generator=torch.Generator().manual_seed(seed))
    how = codec(f"topk:{kept}", classes, version)
    stored = how.encode(logits_NK)
    assert ("slope" in stored) == (version == 2)
    assert {key: (t.dtype, tuple(t.shape)) for key, t in stored.items()} == dict(how.layout(4))
    assert how.logits(stored) is None
    found_NK = how.log_probs(stored, temperature, torch.float64).exp()
    for row, found in zip(logits_NK.tolist(), found_NK.tolist(), strict=True):
        assert found == pytest.approx(rebuilt(row, kept, temperature, version), rel=1e-6, abs=1e-12)
    single_NK = how.log_probs(stored, temperature)
    assert torch.allclose(single_NK.double().exp(), found_NK, atol=2e-6)


@given(st.integers(0, 999), st.floats(0.3, 1000), st.integers(1, 9))
def test_topk_is_a_distribution_at_every_temperature(seed: int, t: float, kept: int) -> None:
    logits_NK = 8 * torch.randn(5, 10, generator=torch.Generator().manual_seed(seed))
    how = codec(f"topk:{kept}", 10)
    probs_NK = how.log_probs(how.encode(logits_NK), t, torch.float64).exp()
    assert (probs_NK >= 0).all()
    assert torch.allclose(probs_NK.sum(-1), torch.ones(5, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0, 40.0])
def test_the_tail_is_close_to_that_of_the_full_logits(temperature: float) -> None:
    """The oracle: all logits of 1,000 classes, at stored temperatures and between them."""
    generator = torch.Generator().manual_seed(0)
    logits_NK = 2 * torch.randn(200, 1000, generator=generator)
    logits_NK[:, :5] += 9 * torch.rand(200, 5, generator=generator)
    how = codec("topk:10", 1000)
    stored = how.encode(logits_NK)
    full_NK = (logits_NK.double() / temperature).softmax(-1)
    found_NK = how.log_probs(stored, temperature, torch.float64).exp()
    inside_NK = torch.zeros_like(full_NK, dtype=torch.bool).scatter(1, stored["ids"].long(), True)
    tail_N, kept_N = ((x * ~inside_NK).sum(-1) for x in (full_NK, found_NK))
    assert ((tail_N - kept_N).abs() / tail_N).max() < 0.03
    # What is done elsewhere: the tail at T = 1, shared out evenly and then softened.
    plain_NK = logits_NK.double().softmax(-1)
    even_N1 = (plain_NK * ~inside_NK).sum(-1, keepdim=True) / 990
    naive_NK = plain_NK.where(inside_NK, even_N1).log().div(temperature).softmax(-1)

    def lost(other_NK: torch.Tensor) -> float:
        return float((full_NK * (full_NK.log() - other_NK.log())).sum(-1).mean())

    assert lost(found_NK) <= lost(naive_NK) * 1.001 + 1e-9
    if temperature >= 2:
        naive_N = (naive_NK * ~inside_NK).sum(-1)
        assert (kept_N - tail_N).abs().mean() < 0.3 * (naive_N - tail_N).abs().mean()


def even_tail(logits_NK: torch.Tensor, ids_NJ: torch.Tensor, temperature: float) -> torch.Tensor:
    """The best that an even tail can say: its mass and the shares of the J classes are exact."""
    full_NK = (logits_NK.double() / temperature).softmax(-1)
    inside_NK = torch.zeros_like(full_NK, dtype=torch.bool).scatter(1, ids_NJ.long(), True)
    tail_N1 = (full_NK * ~inside_NK).sum(-1, keepdim=True)
    return full_NK.where(inside_NK, tail_N1 / (full_NK.shape[1] - ids_NJ.shape[1]))


def lost(logits_NK: torch.Tensor, probs_NK: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(full ‖ probs) of each row, nats, fp64."""
    full_NK = (logits_NK.double() / temperature).softmax(-1)
    return (full_NK * (full_NK.log() - probs_NK.log())).sum(-1)


def teachers_logits(kind: str) -> tuple[torch.Tensor, str]:
    """Logits, and a codec for them."""
    generator = torch.Generator().manual_seed(0)
    if kind == "digits":
        # A trained network's, on held-out and test images.
        rows = load_file(KEPT / "labels" / "eval.safetensors")
        return torch.cat([rows["val.logits"], rows["test.logits"]]), "topk:3"
    logits_NK = 2 * torch.randn(200, 1000, generator=generator)
    if kind == "sure":
        logits_NK[:, 7] += 60
    elif kind == "heavy":
        logits_NK = logits_NK * (0.2 + torch.randn(200, 1000, generator=generator).abs()) ** 2
    return logits_NK, "topk:10"


KINDS = ["digits", "plain", "sure", "heavy"]


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_t_8_little_more_is_lost_than_by_the_best_even_tail(kind: str) -> None:
    logits_NK, name = teachers_logits(kind)
    how = codec(name, logits_NK.shape[1])
    stored = how.encode(logits_NK)
    for temperature in (8.5, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 100.0):
        best_N = lost(logits_NK, even_tail(logits_NK, stored["ids"], temperature), temperature)
        probs_NK = how.log_probs(stored, temperature, torch.float64).exp()
        lost_N = lost(logits_NK, probs_NK, temperature)
        assert lost_N.mean() < 1.005 * best_N.mean() + 1e-8, (kind, temperature)
        assert (lost_N < 1.05 * best_N + 1e-5).all(), (kind, temperature)


def test_format_1_lost_several_times_that() -> None:
    logits_NK, name = teachers_logits("sure")
    old = codec(name, 1000, 1)
    stored = old.encode(logits_NK)
    best_N = lost(logits_NK, even_tail(logits_NK, stored["ids"], 12.0), 12.0)
    lost_N = lost(logits_NK, old.log_probs(stored, 12.0, torch.float64).exp(), 12.0)
    assert lost_N.mean() > 2.5 * best_N.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_up_to_t_8_both_formats_say_the_same(kind: str) -> None:
    logits_NK, name = teachers_logits(kind)
    labels = [
        [
            how.log_probs(how.encode(logits_NK), temperature)
            for temperature in (0.5, 1.0, 1.3, 2.0, 3.0, 4.0, 6.0, 8.0)
        ]
        for how in (codec(name, logits_NK.shape[1], version) for version in (1, 2))
    ]
    assert all(torch.equal(old, new) for old, new in zip(*labels, strict=True))


def test_the_tails_mass_is_smooth_where_the_rules_meet_and_exact_at_the_ends() -> None:
    logits_NK, name = teachers_logits("plain")
    how = codec(name, 1000)
    stored = how.encode(logits_NK)
    at_8, beyond = (how.log_probs(stored, t, torch.float64) for t in (8.0, 8.0 + 1e-9))
    assert torch.allclose(at_8, beyond, atol=1e-8)
    # Near 1/T = 0 the log-probabilities are −log K + (v − mean v)/T: of the tail on average exactly.
    temperature = 1e4
    inside_NK = torch.zeros(200, 1000, dtype=torch.bool).scatter(1, stored["ids"].long(), True)
    found_NK = how.log_probs(stored, temperature, torch.float64) * temperature
    full_NK = (logits_NK.double() / temperature).log_softmax(-1) * temperature
    tails_N = [(x * ~inside_NK).sum(-1) / 990 for x in (found_NK, full_NK)]
    assert torch.allclose(*tails_N, atol=0.01)


@pytest.mark.parametrize("seen", [20, 500, 999])
def test_masked_classes_do_not_bend_the_tail(seen: int) -> None:
    """A class at −1e9 is in the stored slope; the rows are no worse for it than those of format 1."""
    logits_NK = 2 * torch.randn(100, 1000, generator=torch.Generator().manual_seed(3))
    logits_NK[:, seen:] = -1e9

    def mean_lost(how: Codec, temperature: float) -> float:
        probs_NK = how.log_probs(how.encode(logits_NK), temperature, torch.float64).exp()
        full_NK = (logits_NK.double() / temperature).softmax(-1)
        ratio_NK = (full_NK / probs_NK.clamp(min=1e-300)).where(full_NK > 0, 1.0)
        return float((full_NK * ratio_NK.log()).sum(-1).mean())

    for temperature in (9.0, 12.0, 20.0, 50.0, 300.0):
        old, new = (mean_lost(codec("topk:10", 1000, version), temperature) for version in (1, 2))
        assert new < old * 1.001 + 1e-6, temperature


def test_topk_that_keeps_all_but_one_class_loses_rounding_only() -> None:
    logits_NK = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    how = codec("topk:5", 6)
    stored = how.encode(logits_NK)
    for temperature in (1.0, 2.0, 4.0, 8.0):
        full_NK = (logits_NK.double() / temperature).softmax(-1)
        assert torch.allclose(
            how.log_probs(stored, temperature, torch.float64).exp(), full_NK, atol=2e-3
        )


def test_topk_of_ties_and_masked_classes() -> None:
    logits_NK = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0], [3.0, -1e9, -1e9, -1e9, -1e9]])
    how = codec("topk:3", 5)
    stored = how.encode(logits_NK)
    assert stored["ids"][0].tolist() == [0, 1, 2]
    for temperature in (0.1, 1.0, 40.0):
        probs_NK = how.log_probs(stored, temperature).exp()
        assert probs_NK.isfinite().all()
        assert probs_NK[1, 0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "classes", "size", "ids"),
    [
        ("topk:10", 1000, 50, torch.uint16),
        ("topk:100", 21841, 410, torch.uint16),
        ("topk:3", 10, 19, torch.uint8),
        ("topk:3", 256, 19, torch.uint8),
        ("topk:3", 257, 22, torch.uint16),
        ("topk:3", 70_000, 28, torch.int32),
    ],
)
def test_bytes_of_a_row(name: str, classes: int, size: int, ids: torch.dtype) -> None:
    how = codec(name, classes)
    assert bytes_per_row(how) == size
    highest = torch.zeros(2, classes)
    highest[0, -1] = 5
    stored = how.encode(highest)
    assert stored["ids"].dtype == ids
    assert int(stored["ids"][0, 0].long()) == classes - 1
    assert bytes_per_row(codec("fp16", 10)) == 20


def test_topk_of_all_classes_is_dense() -> None:
    assert codec("topk:10", 10).name == "fp16"
    assert codec("topk:11", 10).name == "fp16"
    assert codec("topk:9", 10).name == "topk:9"
    for name in ("topk:0", "topk:09", "topk:", "topk:-1", "topk:x", "topk:" + "9" * 5000):
        with pytest.raises(UsageError):
            codec(name, 10)


def test_the_recipe_spells_the_codecs_that_there_are() -> None:
    for name in CODECS:
        assert codec(check_codec(name), 1000).name == name
    for name in ("topk:1", "topk:999"):
        assert codec(check_codec(name), 1000).name == name
    for name in ("fp8", "topk:0", "topk:007"):
        with pytest.raises(ValueError, match=name):
            check_codec(name)
