"""The rows of `python -m benchmarks` for a GPU take their turns, as far as a CPU can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, inputs


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
