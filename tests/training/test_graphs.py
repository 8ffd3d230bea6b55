"""Steps as CUDA graphs equal the same steps taken one operation at a time, to the bit, on a GPU."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

from distill_cli.errors import UsageError
from distill_cli.objectives import OBJECTIVES
from distill_cli.training.graphs import StepGraphs
from distill_cli.training.loop import Trainer
from tests.training.test_device_steps import (
    COMMON,
    DATA,
    TEACHERS,
    WAYS,
    assert_same,
    from_files,
    objective_of,
    trainer,
    with_files,
)
from tests.training.test_device_steps import folder as folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
EPOCHS = 3


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that sum in one order; cuBLAS reads this when it starts."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


def trained(folder: Path, tmp_path: Path, graphs: str, epochs: int, **options: Any) -> Trainer:
    options = with_files(folder, {**COMMON, **DATA, "precision": "bf16", **options})
    options |= {"device": "cuda", "deterministic": True, "graphs": graphs}
    run = trainer(folder, tmp_path, **options)
    torch.manual_seed(7)
    for _ in range(epochs):
        deque(run.epoch_steps(), maxlen=0)
        if run.state.epoch + 1 < epochs:
            run._end_epoch()
    return run


def check(folder: Path, tmp_path: Path, **options: Any) -> Trainer:
    eager, recorded = (
        trained(folder, tmp_path, graphs, EPOCHS, **options) for graphs in ("off", "on")
    )
    assert recorded.graphs is not None
    assert recorded.graphs.recorded, "something was recorded"
    assert_same(eager, recorded)
    return recorded


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective(folder: Path, tmp_path: Path, name: str) -> None:
    check(folder, tmp_path, **objective_of(name))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_stepping(folder: Path, tmp_path: Path, way: str) -> None:
    check(folder, tmp_path, teachers=["t0"], objective="kd", **WAYS[way])


@pytest.mark.parametrize("kind", TEACHERS)
def test_every_kind_of_teacher(folder: Path, tmp_path: Path, kind: str) -> None:
    run = check(folder, tmp_path, objective="kd", **TEACHERS[kind])
    assert run.graphs is not None
    several = kind in ("a cache a batch", "a network a batch")
    assert len(run.graphs.recorded) == 1 + several


OWN: dict[str, dict[str, Any]] = {
    "self": {"teachers": ["self"], "objective": "ce,pseudo-label"},
    "self in eval mode": {
        "teachers": ["self"],
        "objective": [{"name": "ce"}, {"name": "pseudo-label", "threshold": 0.2}],
        "self": {"mode": "eval"},
    },
    "adaptive, with fairness": {
        "teachers": ["self"],
        "objective": [
            {"name": "ce"},
            {"name": "pseudo-label", "adaptive": True, "fairness": 0.1, "momentum": 0.9},
        ],
    },
    "ema": {"teachers": ["ema"], "ema": 0.9, "objective": "ce,consistency"},
}


@pytest.mark.parametrize("network", ["mlp_16x1", "cifar_resnet8"])
@pytest.mark.parametrize("kind", OWN)
def test_students_that_teach_themselves(
    folder: Path, tmp_path: Path, kind: str, network: str
) -> None:
    """Two streams, and a view of the teacher's own."""
    streams: dict[str, Any] = {
        **{"labels_per_class": 10, "unlabelled_share": 0.75, "batch_size": 144},
        **{"augment": ["rotate:20", "shift:1"], "teacher_augment": ["shift:1"], "model": network},
        "model_args": COMMON["model_args"] if network.startswith("mlp") else {},
    }
    check(folder, tmp_path, **streams, **OWN[kind])


BITS: dict[str, dict[str, Any]] = {
    "lsq": {"weight_bits": 2, "act_bits": 4},
    "wrpn": {"weight_bits": 4, "act_bits": 8, "quantizer": "wrpn"},
    "ternary": {"quantizer": "ternary"},
    "binary": {"weight_bits": 1, "quantizer": "binary"},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", BITS)
def test_networks_of_few_bits(folder: Path, tmp_path: Path, kind: str, precision: str) -> None:
    network: dict[str, Any] = {"model": "cifar_resnet8", "model_args": {}, "ema": 0.9}
    options = {**network, **BITS[kind], "teachers": ["t0"], "objective": "ce,kd"}
    check(folder, tmp_path, **options, precision=precision)


@pytest.mark.parametrize("kind", [kind for kind in TEACHERS if "cache" in kind])
def test_caches_that_do_not_fit_are_streamed_and_recorded(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bits of caches that lie on the device."""
    resident = trained(folder, tmp_path, "on", EPOCHS, objective="kd", **TEACHERS[kind])
    monkeypatch.setattr("distill_cli.training.device_steps.room_on", lambda device: -1)
    assert_same(resident, check(folder, tmp_path, objective="kd", **TEACHERS[kind]))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_network_with_batch_norm_in_every_precision(
    folder: Path, tmp_path: Path, precision: str
) -> None:
    network = {"model": "cifar_resnet8", "model_args": {}, "precision": precision}
    check(folder, tmp_path, **network, augment=["crop:1", "flip"], ema=0.99, clip_grad=1.0)


def test_fp16_whose_first_steps_overflow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler skips them, and the momentum must not be what memory held."""
    plain = torch.amp.GradScaler
    large = lambda device, enabled: plain(device, enabled=enabled, init_scale=2.0**40)  # noqa: E731
    monkeypatch.setattr("torch.amp.GradScaler", large)
    run = check(folder, tmp_path, precision="fp16")
    assert 1 <= run.optimisation.scaler.get_scale() < 2.0**40, "it was lowered"
    assert all(value.isfinite().all() for value in run.network.state_dict().values())


def test_library_transforms_are_made_outside(folder: Path, tmp_path: Path) -> None:
    check(folder, tmp_path, augment=["v2/RandomRotation:degrees=10", "shift:1"])


def test_images_that_workers_read_are_copied_ahead(folder: Path, tmp_path: Path) -> None:
    """The recorded step reads them from one place, while the next ones are on their way."""
    options = {**from_files(tmp_path), "workers": 2}
    check(folder, tmp_path, **options)


def test_a_stopped_run_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """In the middle of an epoch, recorded before and after, or not at all."""
    whole = trained(folder, tmp_path, "on", EPOCHS, ema=0.9)
    torn = trained(folder, tmp_path, "on", 1, ema=0.9)
    torn._end_epoch()
    for graphs in ("on", "off"):
        options = {**COMMON, **DATA, "precision": "bf16", "ema": 0.9, "deterministic": True}
        options |= {"device": "cuda", "graphs": graphs}
        again = trainer(folder, tmp_path, **options)
        again.run, again.key = torn.run, torn.key
        again.start(resume=True)
        again.network.train()
        for _ in range(EPOCHS - 1):
            deque(again.epoch_steps(), maxlen=0)
            if again.state.epoch + 1 < EPOCHS:
                # Into a folder of its own: the next one goes on from the same checkpoint.
                again.run = tmp_path / f"again-{graphs}"
                again._end_epoch()
        assert_same(whole, again)


def test_compiled_and_recorded_is_compiled(folder: Path, tmp_path: Path) -> None:
    """Equality is between compiled steps, for a compiler sums in an order of its own."""
    network = {"model": "cifar_resnet8", "model_args": {}, "augment": ["crop:1", "flip"]}
    check(folder, tmp_path, **network, compile=True)


def test_what_cannot_be_recorded_stays_eager_and_draws_on() -> None:
    """The generator must not wait for the end of a recording that failed."""
    told: list[str] = []
    device = torch.device("cuda")
    graphs = StepGraphs(device, must=False, tell=told.append)
    values = torch.ones(64, device=device)
    taken: list[float] = []

    def body(step: int) -> None:
        taken.append(float(torch.nn.functional.dropout(values, 0.5).sum()))

    for step in range(8):
        graphs.take(body, step, 0)
    assert len(told) == 1
    assert "one operation at a time" in told[0]
    assert len(taken) == 8
    assert len(set(taken)) > 1


def test_what_must_be_recorded_and_cannot_is_refused() -> None:
    graphs = StepGraphs(torch.device("cuda"), must=True)
    values = torch.ones(4, device="cuda")
    for step in range(3):
        graphs.take(lambda step: print(values.sum().item()), step, 0)
    with pytest.raises(UsageError, match="this step cannot be recorded"):
        graphs.take(lambda step: print(values.sum().item()), 3, 0)


def test_another_thread_may_use_the_device_meanwhile() -> None:
    """As the one that commits a dump's shards does."""
    device = torch.device("cuda")
    graphs = StepGraphs(device, must=True)
    values = torch.ones(1000, 1000, device=device)
    done = Event()

    def copies() -> None:
        while not done.is_set():
            values.cpu()

    thread = Thread(target=copies)
    thread.start()
    try:
        for step in range(8):
            graphs.take(lambda step: (values @ values).sum(), step, 0)
    finally:
        done.set()
        thread.join()
    assert graphs.recorded
