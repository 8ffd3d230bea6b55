"""Rows for a CPU: whether 16 bits and compiling pay there.

`--precision auto` takes bf16 where the processor has its instructions (AVX-512 BF16, AMX), else fp32;
both sides of a row are asked for by name, so that the row says what auto gains or loses. Rates are by
the processor's seconds over the number of threads: turns that take each other's place in time do not
help where another program takes half of a machine from one of them. OMP_WAIT_POLICY=PASSIVE, set before,
keeps threads that wait from counting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import ours
from benchmarks.cases import BATCH, Case
from benchmarks.inputs import small_images

# Network, data, images of a class: some steps a turn, one where bf16 takes seconds for it.
NETWORKS = (
    ("mlp_800x2", "mnist", 300),
    ("cifar_resnet20", "cifar10", 15),
    ("cifar_resnet8x4", "cifar10", 15),
)


def processor_seconds() -> float:
    """Of this process and of those that it waited for, as compilers."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Steps:
    """A training by the processor's seconds; those of the first turn beyond another's are compiling.

    Args:
        run: The training.
    """

    def __init__(self, run: ours.Run) -> None:
        self.run = run
        self.seconds: list[float] = []

    def __call__(self) -> float:
        """Images a second, of as many threads as torch has."""
        start, loader = processor_seconds(), self.run.trainer.loader
        self.run()
        self.seconds.append((processor_seconds() - start) / torch.get_num_threads())
        return loader.steps * loader.batch_size / self.seconds[-1]

    def compiling(self) -> float:
        """Seconds of the processor that compiling took."""
        return (self.seconds[0] - self.seconds[-1]) * torch.get_num_threads()


def on_cpu(root: Path) -> Iterator[Case]:
    """Compiled over not, and bf16 over fp32, of training steps on hard labels."""
    # Compiled anew, by this process: a kernel that is found on disk would hide what it took.
    torch._inductor.config.force_disable_caches = True
    torch._inductor.config.compile_threads = 1
    for model, data, per_class in NETWORKS:
        images = small_images(root, data, per_class)
        augment = ["shift:2"] if data == "mnist" else ["crop:4", "flip"]
        common: dict[str, Any] = {
            **{"data": str(images), "model": model, "augment": augment},
            **{"batch_size": BATCH, "device": "cpu"},
        }
        plain, compiled, low = (
            Steps(ours.training(root / f"{model}-{name}", **common, **way))
            for name, way in {
                "plain": {"precision": "fp32", "compile": False},
                "compiled": {"precision": "fp32", "compile": True},
                "low": {"precision": "bf16", "compile": False},
            }.items()
        )
        yield Case(
            name=f"{model} on the CPU in fp32, --compile over not, by processor time",
            ours=compiled,
            other=plain,
            compiling=compiled.compiling,
        )
        yield Case(
            name=f"{model} on the CPU, --precision bf16 over fp32, by processor time",
            ours=low,
            other=plain,
        )
