"""Rows of `python -m benchmarks` take their turns, as far as a CPU can, and what studies run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import cases, few_labels, gpu, inputs, wrong_labels


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few images of noise, small batches and networks, and nothing compiled."""

    def data(name: str) -> str:
        path = tmp_path / f"{name}.tar"
        if not path.exists():
            with inputs.tarfile.open(path, "w") as out:
                size = (28, 28) if name == "mnist" else (32, 32, 3)
                inputs._noise(out, {"train": 4, "test": 1}, size)
        return str(path)

    def network(folder: Path, name: str, *args: Any) -> Path:
        return plain(folder, "cifar_resnet8" if "resnet" in name else "mlp_16x1", *args)

    plain = gpu.ours.network
    monkeypatch.setattr(gpu, "data", data)
    monkeypatch.setattr(gpu.ours, "network", network)
    for name, value in {"BATCH": 8, "LARGE": 16, "COUNT": 2, "COMPILED": False}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu.CASES)
def test_every_row_of_a_gpu_takes_a_turn(small: Path, name: str) -> None:
    cases = list(gpu.CASES[name](small / "work"))
    assert len(cases) >= 2
    for case in cases:
        assert case.ours() > 0, case.name
        assert case.other() > 0, case.name


@pytest.mark.slow
def test_streams_take_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "nothing"))
    rows = list(cases.streams(tmp_path, labelled=2, per_class=60))
    assert len(rows) == 2
    for case in rows:
        assert case.ours() > 0, case.name
        assert case.other() > 0, case.name


@pytest.mark.slow
def test_known_images_are_those_of_the_labels_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_labels, "FRACTION", 0.5)
    data = tmp_path / "data.tar"
    with inputs.tarfile.open(data, "w") as out:
        inputs._noise(out, {"train": 40, "test": 2}, (28, 28))
    with inputs.tarfile.open(few_labels.known_images(tmp_path, data)) as known:
        splits = [name.split("/")[:2] for name in known.getnames()]
    for label in map(str, range(inputs.CLASSES)):
        counts = {split: splits.count([split, label]) for split in ("train", "val", "test")}
        assert counts == {"train": 18, "val": 2, "test": 2}


@pytest.mark.parametrize("kind", wrong_labels.NOISES)
def test_true_matrices_of_noise(kind: str) -> None:
    rows = wrong_labels.true_matrix(kind)
    for label, row in enumerate(rows):
        assert sum(row) == pytest.approx(1)
        assert row[label] == pytest.approx(0.6)
        after = row[(label + 1) % 10]
        assert after == pytest.approx({"sym": 0.4 / 9, "pair": 0.4}[kind])
        others = sorted(row)[:-2] if kind == "pair" else sorted(row)[:-1]
        assert others == pytest.approx([0.0 if kind == "pair" else after] * len(others))
