"""Rows for a GPU: the whole step as one graph, beside loops by hand that do the same.

The data are CIFAR-10 and MNIST as they are (`DISTILL_DATA`): small stand-ins would be over before a
GPU is warm.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import bare, ours
from benchmarks.cases import Case, tensors
from distill_cli.models import load_model
from distill_cli.pipeline.run.together import Lane

CROPS: dict[str, Any] = {"augment": ["crop:4", "flip"]}


def data(name: str) -> str:
    return str(Path(os.environ["DISTILL_DATA"]) / f"{name}.tar.gz")


def by_hand(run: ours.Run, pad: int, *, compile: bool, flips: bool = True) -> bare.Captured:
    """The captured loop by hand with the same network, precision, batch and augmentation."""
    plan = run.plan
    torch.manual_seed(0)
    net = load_model(ours.network(plan.run / "bare", str(plan.recipe.model), plan)).net
    net = net.to(plan.runtime.device).to(memory_format=plan.runtime.memory_format)
    size, autocast = plan.recipe.batch_size, plan.runtime.autocast
    return bare.Captured(net, *tensors(plan), size, pad, autocast, compile=compile, flips=flips)


def graphs(root: Path) -> Iterator[Case]:
    """Training on hard labels, compiled and captured on both sides."""
    if not torch.cuda.is_available():
        raise SystemExit("the case 'graphs' needs a CUDA device")
    rows: tuple[tuple[str, int, str, float], ...] = (
        ("mlp_800x2", 128, "mnist", 0.80),
        ("cifar_resnet20", 128, "cifar10", 0.95),
        ("cifar_resnet20", 1024, "cifar10", 0.95),
        ("cifar_resnet8x4", 128, "cifar10", 0.95),
    )
    for model, batch, name, least in rows:
        grey = name == "mnist"
        run = ours.training(
            root / f"{model}-{batch}",
            data=data(name),
            model=model,
            batch_size=batch,
            graphs="on",
            compile=True,
            **({"augment": ["shift:2"]} if grey else CROPS),
        )
        yield Case(
            name=f"{model}, batch {batch}, over a bare loop, both compiled and captured whole",
            ours=run,
            other=by_hand(run, 2 if grey else 4, compile=True, flips=not grey),
            least=least,
        )


def graphs_cached(root: Path) -> Iterator[Case]:
    """From caches, and live teachers, over hard labels: captured throughout."""
    common: dict[str, Any] = {"data": data("cifar10"), **CROPS}
    student: dict[str, Any] = {"model": "cifar_resnet20", "batch_size": 128, "graphs": "on"}
    hard = ours.training(root / "hard", **common, **student)
    caches = []
    for seed in range(5):
        net = ours.network(root / f"teacher-{seed}", "cifar_resnet8", hard.plan, seed)
        caches.append(ours.cache(root / f"cache-{seed}", net, views=2, **common))
    one = ours.student(root / "one", caches[:1], data=data("cifar10"), **student)
    five = ours.student(root / "five", caches, mode="random", data=data("cifar10"), **student)
    yield Case(name="from a cache, over hard labels, captured", ours=one, other=hard, least=0.97)
    yield Case(name="from five caches, over one, captured", ours=five, other=one, least=0.97)
    whole = by_hand(hard, 4, compile=False)
    yield Case(name="from a cache, over a bare loop captured whole", ours=one, other=whole)
    teacher = ours.network(root / "t56", "cifar_resnet56", hard.plan)
    eager: dict[str, Any] = {**student, "graphs": "off"}
    off = ours.training(root / "eager", **common, **eager)
    yield Case(name="cifar_resnet20 captured, over the same eagerly", ours=hard, other=off)
    live, slow = (
        ours.student(root / f"live-{way['graphs']}", [teacher], **common, **way)
        for way in (student, eager)
    )
    yield Case(name="live cifar_resnet56 captured, over the same eagerly", ours=live, other=slow)


class Together:
    """Several trainings at once, as `--seeds` takes them; a turn is an epoch of each.

    Args:
        make: Makes the training of a seed.
        count: How many.
    """

    def __init__(self, make: Callable[[int], ours.Run], count: int) -> None:
        device = torch.device("cuda", torch.cuda.current_device())
        self.lanes = [Lane(device) for _ in range(count)]
        self.runs = []
        for seed, lane in enumerate(self.lanes):
            with lane.taken():
                self.runs.append(make(seed))

    def __call__(self) -> float:
        """Images a second in all."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        turns = deque(
            (lane, run.trainer.epoch_steps())
            for lane, run in zip(self.lanes, self.runs, strict=True)
        )
        while turns:
            lane, steps = turns.popleft()
            with lane.taken():
                if next(steps, turns) is not turns:
                    turns.append((lane, steps))
        torch.cuda.synchronize()
        seconds, images = time.perf_counter() - start, 0
        for run in self.runs:
            loader = run.trainer.loader
            images += loader.steps * loader.batch_size
            run.trainer.state.next_epoch(images / seconds, 0.0)
        return images / seconds


def together(root: Path) -> Iterator[Case]:
    """Eight students at once over one, images in all."""
    rows: tuple[tuple[str, str, dict[str, Any], float], ...] = (
        ("cifar_resnet20", "cifar10", CROPS, 1.9),
        ("mlp_800x2", "mnist", {"augment": ["shift:2"]}, 2.8),
    )
    for model, name, augment, least in rows:

        def make(
            seed: int,
            prefix: str = "many",
            model: str = model,
            name: str = name,
            augment: dict[str, Any] = augment,
        ) -> ours.Run:
            options: dict[str, Any] = {"data": data(name), "model": model, "batch_size": 128}
            out = root / f"{prefix}-{model}-{seed}"
            return ours.training(out, seed=seed, graphs="on", **options, **augment)

        yield Case(
            name=f"{model}, eight at once over one, in all",
            ours=Together(make, 8),
            other=make(0, "one"),
            least=least,
        )
