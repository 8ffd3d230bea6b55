"""Any number of ranks follows the curve of one process: the same gradients up to rounding.

Each rank is a forked child, on the CPU. In fp64 every cast to fp32 on the way is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_cli.objectives import OBJECTIVES
from distill_cli.training.loop import Trainer
from distill_cli.types import UNLABELLED
from tests.ranks import started
from tests.training.test_device_steps import COMMON, DATA, GROUPS, TEACHERS, WAYS, objective_of
from tests.training.test_device_steps import folder as folder
from tests.training.test_device_steps import host_steps, state_of, trainer

RANKS = (1, 2, 3, 4)
# Batch norm over all ranks, with weights that a convolution shares out.
NETWORK: dict[str, Any] = {"model": "cifar_resnet8", "model_args": {}, "sync_bn": True}
CASES: dict[str, dict[str, Any]] = {
    **{f"objective {name}": objective_of(name) for name in OBJECTIVES},
    **{f"way {name}": way for name, way in WAYS.items()},
    **{f"teacher {name}": {"objective": "kd", **kind} for name, kind in TEACHERS.items()},
    "batch norm": NETWORK,
    "batch norm in parts": {**NETWORK, "accumulate": 2},
}


def made(folder: Path, tmp_path: Path, name: str) -> Trainer:
    """The run of a case, of whose first batch the first half has no label."""
    options = {**COMMON, **DATA, **CASES[name]}
    if "groups" in options:
        options["groups"] = str(folder / GROUPS)
    run = trainer(folder, tmp_path, **options)
    loader = run.loader
    if not loader.views.spec.mixes and loader.order_name == "shuffled":
        rows, _ = loader.order(0)
        loader.target_N = loader.target_N.clone()
        loader.target_N[rows[: loader.batch_size // 2]] = UNLABELLED
        if loader.target_NK is not None:
            loader.target_NK = loader.target_NK.clone()
            loader.target_NK[rows[: loader.batch_size // 2]] = UNLABELLED
        loader.__post_init__()
    return run


def gradients(run: Trainer) -> dict[str, Tensor]:
    parameters = [*run.network.named_parameters(), *run.adapters.named_parameters()]
    return {name: one.grad.clone() for name, one in parameters if one.grad is not None}


def widen(run: Trainer) -> None:
    """Has everything that is trained be in fp64."""
    run.network.double()
    run.adapters.double()
    if run.optimisation.ema is not None:
        run.optimisation.ema.module.double()
    for optimizer in run.optimisation.optimizers:
        optimizer.state.clear()
    run.optimisation.materialise()


def kept(folder: Path, tmp_path: Path, names: list[str], *, wide: bool) -> Callable[[], None]:
    """What a rank does: two steps of each case, whose gradients and state it keeps."""

    def does() -> None:
        import os

        torch.set_num_threads(1)
        rank = int(os.environ["RANK"])
        results: dict[str, Any] = {}
        for name in names:
            own = tmp_path / f"{rank}" / name
            own.mkdir(parents=True)
            run = made(folder, own, name)
            if wide:
                widen(run)
            with pytest.MonkeyPatch.context() as patch:
                if wide:
                    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
                host_steps(run, 1)
                first = gradients(run)
                host_steps(run, 1)
                results[name] = {"gradients": first, "state": state_of(run)}
        torch.save(results, tmp_path / f"{rank}.pt")

    return does


def results(folder: Path, tmp_path: Path, ranks: int, *, wide: bool) -> list[dict[str, Any]]:
    (folder / GROUPS).write_text("round: ['0', '6', '8', '9']\nstraight: ['1', '4', '7']\n")
    tmp_path.mkdir()
    does = kept(folder, tmp_path, list(CASES), wide=wide)
    for child in started(ranks, does):
        ended = child.end()
        assert ended.code == 0, ended.err.decode()
    return [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_gradients(folder: Path, tmp_path: Path, ranks: int) -> None:
    one = results(folder, tmp_path / "1", 1, wide=True)[0]
    several = results(folder, tmp_path / str(ranks), ranks, wide=True)
    bad = {}
    for name in CASES:
        for key, value in one[name]["gradients"].items():
            other = several[0][name]["gradients"][key]
            error = float((value - other).norm() / max(float(value.norm()), 1e-300))
            bad[name] = max(bad.get(name, 0), error)
        for result in several[1:]:
            for key, value in several[0][name]["state"].items():
                assert torch.equal(value, result[name]["state"][key]), (name, key)
    print({k: v for k, v in sorted(bad.items(), key=lambda i: -i[1])})
    assert max(bad.values()) < 1e-10
