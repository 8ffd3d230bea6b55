"""The statistics against a plain fp64 loop over rows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from distill_cli.cache import statistics
from distill_cli.cache.statistics import measure, merged
from tests.cache.examples import dump, logits, plan, targets

TEMPERATURES = (1, 2, 4, 8, 20)


def softmax(row: list[float], temperature: float) -> list[float]:
    peak = max(row)
    weights = [math.exp((value - peak) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def divergence(full: list[float], stored: list[float], temperature: float) -> float:
    p, q = softmax(full, temperature), softmax(stored, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16"])
def test_manifest_figures_against_a_loop(tmp_path: Path, codec: str) -> None:
    one = plan(codec=codec)
    manifest = dump(tmp_path, one)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[codec]
    right = entropy = nll = 0.0
    bins = [[0, 0.0, 0] for _ in range(15)]
    lost: dict[int, list[float]] = {t: [] for t in TEMPERATURES}
    labelled = 0
    for view in range(one.views):
        full_NK = logits(one, view)
        for full, stored, target in zip(
            full_NK.tolist(), full_NK.to(dtype).tolist(), targets(one).tolist(), strict=True
        ):
            p = softmax(full, 1)
            entropy -= sum(a * math.log(a) for a in p)
            for t in TEMPERATURES:
                lost[t].append(divergence(full, stored, t))
            if target < 0:
                continue
            labelled += 1
            confidence, hit = max(p), p.index(max(p)) == target
            right, nll = right + hit, nll - math.log(p[target])
            place = bins[math.ceil(confidence * 15) - 1]
            place[0], place[1], place[2] = place[0] + 1, place[1] + confidence, place[2] + hit
    ece = sum(n / labelled * abs(hits / n - sure / n) for n, sure, hits in bins if n)
    assert manifest.labelled == labelled
    assert manifest.teacher_accuracy == right / labelled
    assert manifest.teacher_nll == pytest.approx(nll / labelled, rel=1e-12)
    assert manifest.teacher_ece == pytest.approx(ece, rel=1e-12)
    assert manifest.entropy == pytest.approx(entropy / (one.views * 37), rel=1e-12)
    for t in TEMPERATURES:
        found = manifest.truncation_error[t]
        assert found.mean_kl == pytest.approx(sum(lost[t]) / len(lost[t]), rel=1e-6, abs=1e-15)
        assert found.worst_kl == pytest.approx(max(lost[t]), rel=1e-6, abs=1e-15)
        assert (found.worst_kl == 0) == (codec == "fp32")


def test_parts_add_up_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    one = plan(samples=500)
    full_NK, target_N = logits(one, 0), targets(one)
    stored_NK = full_NK.half().float()
    whole = measure(full_NK, stored_NK, target_N)
    monkeypatch.setattr(statistics, "_CHUNK", 64)
    assert measure(full_NK, stored_NK, target_N) == whole
    halves = [measure(full_NK[s], stored_NK[s], target_N[s]) for s in (slice(99), slice(99, 500))]
    together = merged(halves)
    assert together.bin_count == whole.bin_count
    assert together.nll == pytest.approx(whole.nll, rel=1e-14)
    assert together.ece == pytest.approx(whole.ece, rel=1e-12)
    assert together.truncation_error[20].worst_kl == whole.truncation_error[20].worst_kl


def test_the_thread_count_changes_nothing() -> None:
    one = plan(samples=5000, classes=40)
    full_NK, target_N = logits(one, 0), targets(one)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(measure(full_NK, full_NK.half().float(), target_N))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_nothing_labelled() -> None:
    one = plan()
    found = measure(logits(one, 0), logits(one, 0), torch.full((37,), -1))
    assert (found.labelled, found.accuracy, found.nll, found.ece) == (0, 0, 0, 0)
    assert found.entropy > 0
