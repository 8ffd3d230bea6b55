"""Rows for a CPU: whether 16 bits and compiling pay there.

`--precision auto` takes bf16 where the processor has its instructions (AVX-512 BF16, AMX), else fp32;
both sides of a row are asked for by name, so that the row says what auto would gain or lose.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks import ours
from benchmarks.cases import BATCH, Case
from benchmarks.inputs import small_images

# Network, data, images of a class: turns of a few seconds.
NETWORKS = (
    ("mlp_800x2", "mnist", 1000),
    ("cifar_resnet20", "cifar10", 57),
    ("cifar_resnet8x4", "cifar10", 29),
)


class Compiled:
    """A training whose first step compiles; the seconds that this takes are noted.

    Args:
        run: The training.
    """

    def __init__(self, run: ours.Run) -> None:
        self.run, self.seconds = run, 0.0

    def __call__(self) -> float:
        """Images a second."""
        if not self.seconds:
            moments = [time.perf_counter()]
            moments += [time.perf_counter() for _ in self.run.trainer.epoch_steps()]
            first, *others = (after - before for before, after in pairwise(moments))
            self.seconds = first - statistics.median(others)
            self.run.trainer.state.next_epoch(1.0, 0.0)
        return self.run()


def on_cpu(root: Path) -> Iterator[Case]:
    """bf16 over fp32, and compiled over not, of training steps on hard labels."""
    # Compiled anew: a kernel that is found on disk would hide what it took.
    torch._inductor.config.force_disable_caches = True
    for model, data, per_class in NETWORKS:
        images = small_images(root, data, per_class)
        augment = ["shift:2"] if data == "mnist" else ["crop:4", "flip"]
        common: dict[str, Any] = {
            **{"data": str(images), "model": model, "augment": augment},
            **{"batch_size": BATCH, "device": "cpu"},
        }
        plain, low, compiled = (
            ours.training(root / f"{model}-{name}", **common, **way)
            for name, way in {
                "plain": {"precision": "fp32", "compile": False},
                "low": {"precision": "bf16", "compile": False},
                "compiled": {"precision": "fp32", "compile": True},
            }.items()
        )
        yield Case(name=f"{model} on the CPU, --precision bf16 over fp32", ours=low, other=plain)
        timed = Compiled(compiled)
        yield Case(
            name=f"{model} on the CPU in fp32, --compile over not",
            ours=timed,
            other=plain,
            compiling=lambda timed=timed: timed.seconds,
        )
