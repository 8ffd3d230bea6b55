"""The statistics against a plain fp64 loop over rows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from distill_cli.cache import rows
from distill_cli.cache.codec import codec
from distill_cli.cache.statistics import measure
from distill_cli.cache.sums import Statistics, merged
from tests.cache.examples import dump, logits, plan, targets

TEMPERATURES = (1, 2, 4, 8, 20)


def softmax(row: list[float], temperature: float) -> list[float]:
    peak = max(row)
    weights = [math.exp((value - peak) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def divergence(full: list[float], stored: list[float], temperature: float) -> float:
    p, q = softmax(full, temperature), softmax(stored, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_manifest_figures_against_a_loop(tmp_path: Path, name: str) -> None:
    one = plan(codec=name)
    manifest = dump(tmp_path, one)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
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
    seen = manifest.calibration
    assert list(seen.labelled) == [n for n, _, _ in bins]
    assert list(seen.correct) == [hits for _, _, hits in bins]
    assert sum(seen.views) == 37 * one.views
    assert seen.confidence == pytest.approx([sure for _, sure, _ in bins], rel=1e-12)
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
        assert (found.worst_kl == 0) == (name == "fp32")


def test_parts_add_up_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    one = plan(samples=500)
    full_NK, target_N = logits(one, 0), targets(one)
    how = codec("fp16", 5)

    def measured(rows: slice) -> Statistics:
        return measure(full_NK[rows], how.encode(full_NK[rows]), how, target_N[rows])

    whole = measured(slice(500))
    monkeypatch.setattr(rows, "CHUNK", 64)
    assert measured(slice(500)) == whole
    together = merged([measured(slice(99)), measured(slice(99, 500))])
    assert together.bin_views == whole.bin_views
    assert sum(whole.bin_views) == 500
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
            for name in ("fp16", "topk:7"):
                how = codec(name, 40)
                found.append(measure(full_NK, how.encode(full_NK), how, target_N))
    finally:
        torch.set_num_threads(before)
    assert found[:2] == found[2:4] == found[4:]


def test_nothing_labelled() -> None:
    one = plan()
    how = codec("fp32", 5)
    full_NK = logits(one, 0)
    found = measure(full_NK, how.encode(full_NK), how, torch.full((37,), -1))
    assert (found.labelled, found.accuracy, found.nll, found.ece) == (0, 0, 0, 0)
    assert found.entropy > 0
