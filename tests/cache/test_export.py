"""Labels for other tools: what is written, and that it says what the cache says."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_cli.cache import export as exports
from distill_cli.cache.export import export
from distill_cli.cache.reader import CacheReader
from distill_cli.errors import UsageError
from tests.cache.examples import PLAN, dump, ids, logits, plan


def nothing(done: int, total: int) -> None:
    pass


def test_an_npz_has_the_logits_and_all_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(tmp_path / "c")
    monkeypatch.setattr(exports, "ROWS", 10)
    seen: list[tuple[int, int]] = []
    file, options = tmp_path / "labels.npz", {"view": 1, "temperature": None}
    count = lambda done, total: seen.append((done, total))  # noqa: E731
    assert export(CacheReader(tmp_path / "c"), file, progress=count, **options) == "logits"
    assert seen == [(10, 37), (20, 37), (30, 37), (37, 37)]
    with np.load(file) as archive:
        assert np.array_equal(archive["logits"], logits(PLAN, 1).numpy())
        assert archive["samples"].tolist() == ids(37)
        assert archive["classes"].tolist() == list(PLAN.dataset.class_names)
    again = tmp_path / "again.npz"
    export(CacheReader(tmp_path / "c"), again, progress=nothing, **options)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("codec", ["fp16", "topk:3"])
def test_a_csv_has_the_probabilities(tmp_path: Path, codec: str) -> None:
    dump(tmp_path / "c", plan(codec=codec))
    reader, file = CacheReader(tmp_path / "c"), tmp_path / "labels.csv"
    assert export(reader, file, view=0, temperature=2.0, progress=nothing) == "probabilities"
    header, *rows = csv.reader(file.open(newline=""))
    assert header == ["sample", *(f"class {k}" for k in range(5))]
    assert [row[0] for row in rows] == ids(37)
    index_B = torch.arange(37)
    stored = reader.gather(index_B, torch.zeros_like(index_B))
    expected_NK = reader.codec.log_probs(stored, 2.0, torch.float64).exp().float()
    found_NK = torch.tensor([[float(cell) for cell in row[1:]] for row in rows])
    assert torch.equal(found_NK, expected_NK)


def test_top_k_without_a_temperature_is_probabilities_at_1(tmp_path: Path) -> None:
    dump(tmp_path / "c", plan(codec="topk:3").in_format(1))
    file = tmp_path / "labels.npz"
    kind = export(CacheReader(tmp_path / "c"), file, view=0, temperature=None, progress=nothing)
    assert kind == "probabilities"
    with np.load(file) as archive:
        assert archive.files == ["probabilities", "classes"], "format 1 names no samples"
        assert np.allclose(archive["probabilities"].sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "name", "options", "fault"),
    [
        ({}, "l.npz", {"view": 2, "temperature": None}, "views 0 to 1"),
        ({"sample_ids": False}, "l.csv", {"view": 0, "temperature": None}, "FILE.npz"),
        ({"targets": "sigmoid"}, "l.npz", {"view": 0, "temperature": 2.0}, "by itself"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, changes: dict, name: str, options: dict, fault: str
) -> None:
    dump(tmp_path / "c", replace(PLAN, **changes))
    with pytest.raises(UsageError, match=fault):
        export(CacheReader(tmp_path / "c"), tmp_path / name, progress=nothing, **options)
    assert not (tmp_path / name).exists()
