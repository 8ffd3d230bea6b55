"""Weights in parts on two ranks: what two ranks with whole weights train, and half of it on each.

Each rank is a forked child, on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Children have imported what this process has.
import torch
import torch.distributed.fsdp
from torch import Tensor

from distill_cli.sharding import local, whole
from distill_cli.training.loop import Trainer
from tests.ranks import started
from tests.training.test_device_steps import COMMON, DATA, host_steps, trainer
from tests.training.test_device_steps import folder as folder

STEPS = 50
TAUGHT: dict[str, Any] = {"teachers": ["t0"], "objective": "kd"}
CONVOLUTIONS: dict[str, Any] = {"model": "cifar_resnet8", "model_args": {}, "lr": 0.02}
# What is trained, and which networks lie in parts.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "student and teacher": ("both", {**TAUGHT, "clip_grad": 0.5}),
}
SLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher": ("teachers", {**TAUGHT, "mode": "ensemble", "teachers": ["t0", "t1"]}),
    "clipped by value": ("student", {"clip_grad": 0.01, "clip_mode": "value"}),
    "adamw, accumulated": ("student", {"opt": "adamw", "lr": 0.001, "accumulate": 2}),
    "convolutions": ("both", {**TAUGHT, **CONVOLUTIONS}),
    "convolutions, one batch norm": ("student", {**CONVOLUTIONS, "sync_bn": True}),
    # An adapter that is trained, gates of the classifier, and its bias, which is looked at.
    "hints": ("both", {**TAUGHT, **CONVOLUTIONS, "objective": "kd,hint", "teachers": ["t0"]}),
    # Its draws of classes follow the gates: at a larger rate rounding grows from step to step.
    "gates": ("student", {**CONVOLUTIONS, "objective": "dropmax", "lr": 0.001}),
    "norms": ("both", {**TAUGHT, **CONVOLUTIONS, "objective": "feature-norm-kd"}),
}


def weights(run: Trainer) -> dict[str, Tensor]:
    """Everything that training changes in the network and the adapters, whole."""
    state = {**run.network.state_dict(), **run.adapters.state_dict()}
    return {
        name: whole(value).clone() for name, value in state.items() if isinstance(value, Tensor)
    }


def held(tensors: list[Tensor]) -> tuple[int, int]:
    """Bytes of tensors on this rank, and of all of them."""
    return (
        sum(local(one).numel() * one.element_size() for one in tensors),
        sum(one.numel() * one.element_size() for one in tensors),
    )


def trained(folder: Path, root: Path, cases: dict[str, Any]) -> Callable[[], None]:
    """What a rank does: each case in whole weights and in parts, kept."""

    def does() -> None:
        torch.set_num_threads(1)
        found: dict[str, Any] = {}
        for name, (networks, options) in cases.items():
            runs = []
            for shard in ("none", networks):
                own = root / os.environ["RANK"] / name / shard
                own.mkdir(parents=True)
                run = trainer(folder, own, **{**COMMON, **DATA, **options, "shard": shard})
                host_steps(run, STEPS)
                runs.append(weights(run))
            state = run.optimisation.optimizer.state.values()
            found[name] = {
                "weights": runs,
                "parameters": held(list(run.network.parameters())),
                "state": sum(v.nbytes for one in state for v in one.values() if v.ndim),
            }
        torch.save(found, root / f"{os.environ['RANK']}.pt")

    return does


def compare(folder: Path, root: Path, cases: dict[str, tuple[str, dict[str, Any]]]) -> None:
    for child in started(2, trained(folder, root, cases)):
        ended = child.end()
        assert ended.code == 0, ended.err.decode()
    ranks = [torch.load(root / f"{rank}.pt") for rank in range(2)]
    for name, (networks, _) in cases.items():
        plain, parts = ranks[0][name]["weights"]
        assert plain.keys() == parts.keys()
        for key, value in plain.items():
            error = float((value.double() - parts[key].double()).norm())
            assert error <= 1e-6 * float(value.double().norm()) + 1e-9, (name, key)
        for result in ranks:
            assert all(torch.equal(result[name]["weights"][1][key], parts[key]) for key in parts)
            here, everywhere = result[name]["parameters"]
            if networks == "teachers":
                assert here == everywhere
            else:
                assert 0.45 < here / everywhere < 0.55
                assert 0.45 < result[name]["state"] / ranks[0][name]["state"] < 2.1


def test_two_ranks_in_parts_equal_two_in_whole(folder: Path, tmp_path: Path) -> None:
    compare(folder, tmp_path, CASES)


@pytest.mark.slow
def test_every_kind_of_network_and_adapter(folder: Path, tmp_path: Path) -> None:
    compare(folder, tmp_path, SLOW)
