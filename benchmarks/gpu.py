"""Rows for a GPU: the whole step as one graph, beside loops by hand that do the same.

The data are CIFAR-10 and MNIST as they are (`DISTILL_DATA`): small stand-ins would be over before a
GPU is warm. Without a GPU nothing is recorded: a test takes a turn of every row on a few images then.
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
from benchmarks.cases import Case, bits_over_full, tensors
from distill_cli.models import load_model
from distill_cli.pipeline.run.together import Lane

CROPS: dict[str, Any] = {"augment": ["crop:4", "flip"]}
BATCH, LARGE, COUNT = 128, 1024, 8
COMPILED = True
# As up to 0.3.0: one operation at a time, teachers in fp32.
BEFORE: dict[str, Any] = {"graphs": "off", "compile": False}
FP32: dict[str, Any] = {"teacher_precision": "fp32"}


def recorded(*, compile: bool = False) -> dict[str, Any]:
    """The options of a training whose steps are recorded."""
    graphs = "on" if torch.cuda.is_available() else "auto"
    return {"graphs": graphs, "compile": compile and COMPILED}


def data(name: str) -> str:
    return str(Path(os.environ["DISTILL_DATA"]) / f"{name}.tar.gz")


def by_hand(
    run: ours.Run, pad: int, *, compile: bool = False, flips: bool = True, capture: bool = True
) -> bare.Training:
    """The loop by hand with the same network, precision, batch and augmentation."""
    plan = run.plan
    torch.manual_seed(0)
    net = load_model(ours.network(plan.run / "bare", str(plan.recipe.model), plan)).net
    net = net.to(plan.runtime.device).to(memory_format=plan.runtime.memory_format)
    loop = (net, *tensors(plan), plan.recipe.batch_size, pad, plan.runtime.autocast)
    if not (capture and torch.cuda.is_available()):
        return bare.Training(*loop)
    return bare.Captured(*loop, compile=compile and COMPILED, flips=flips)


# Networks, whether the batch is large, data and the ratio to reach.
NETWORKS: tuple[tuple[str, bool, str, float], ...] = (
    ("mlp_800x2", False, "mnist", 0.80),
    ("cifar_resnet20", False, "cifar10", 0.95),
    ("cifar_resnet20", True, "cifar10", 0.95),
    ("cifar_resnet8x4", False, "cifar10", 0.95),
)


def graphs(root: Path) -> Iterator[Case]:
    """Training on hard labels, compiled and captured on both sides."""
    for model, large, name, least in NETWORKS:
        batch = LARGE if large else BATCH
        grey = name == "mnist"
        run = ours.training(
            root / f"{model}-{batch}",
            data=data(name),
            model=model,
            batch_size=batch,
            **recorded(compile=True),
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
    network: dict[str, Any] = {"model": "cifar_resnet20", "batch_size": BATCH}
    student = {**network, **recorded()}
    hard = ours.training(root / "hard", **common, **student)
    caches = []
    for seed in range(5):
        net = ours.network(root / f"teacher-{seed}", "cifar_resnet8", hard.plan, seed)
        caches.append(ours.cache(root / f"cache-{seed}", net, views=2, **common))
    one = ours.student(root / "one", caches[:1], data=data("cifar10"), **student)
    five = ours.student(root / "five", caches, mode="random", data=data("cifar10"), **student)
    yield Case(name="from a cache, over hard labels, captured", ours=one, other=hard, least=0.97)
    yield Case(name="from five caches, over one, captured", ours=five, other=one, least=0.97)
    compiled = {**network, **recorded(compile=True)}
    whole = ours.student(root / "compiled", caches[:1], data=data("cifar10"), **compiled)
    yield Case(
        name="cifar_resnet20 from a cache, over a bare loop on hard labels, both compiled and captured",
        ours=whole,
        other=by_hand(whole, 4, compile=True),
        least=0.95,
    )


def over_before(root: Path) -> Iterator[Case]:
    """What a GPU makes of it now, over one operation at a time, with the bare eager loop beside."""
    common: dict[str, Any] = {"data": data("cifar10"), **CROPS}
    network: dict[str, Any] = {"model": "cifar_resnet20", "batch_size": BATCH}
    now = {**network, **recorded(compile=True)}
    hard = ours.training(root / "hard", **common, **now)
    before = ours.training(root / "hard-before", **common, **network, **BEFORE)
    yield Case(
        name="cifar_resnet20 compiled and captured, over eager steps",
        ours=hard,
        other=before,
        least=3.5,
    )
    yield Case(
        name="eager steps of cifar_resnet20, over a bare eager loop",
        ours=before,
        other=by_hand(before, 4, capture=False),
    )
    teacher = ours.network(root / "t56", "cifar_resnet56", hard.plan)
    slow = ours.student(root / "live-before", [teacher], **common, **network, **BEFORE, **FP32)
    for name, precision, least in (("fp32 too", FP32, 3.0), ("its default", {}, 4.0)):
        yield Case(
            name=f"live cifar_resnet56 in {name}, compiled and captured, over eager steps with it in fp32",
            ours=ours.student(root / f"live-{least}", [teacher], **common, **now, **precision),
            other=slow,
            least=least,
        )


def dumps_captured(root: Path) -> Iterator[Case]:
    """Dumps of four views, over a dump as up to 0.3.0 and over bare inference captured whole."""
    common: dict[str, Any] = {"data": data("cifar10"), **CROPS}
    plan = ours.training(root / "plan", model="cifar_resnet20", batch_size=BATCH, **common).plan
    teacher = ours.network(root / "t56", "cifar_resnet56", plan)
    dump: dict[str, Any] = {**common, "views": 4, "codec": "fp16"}
    captured = ours.Dump(root / "captured", teacher, graphs=recorded()["graphs"], **dump)
    eager: dict[str, Any] = {"graphs": "off", "teacher_batch": 256, **FP32}
    yield Case(
        name="dump of cifar_resnet56 captured, over one operation at a time in fp32 by 256 rows",
        ours=captured,
        other=ours.Dump(root / "before", teacher, **dump, **eager),
        least=5.0,
    )
    net = load_model(teacher).net.to(plan.runtime.device)
    net = net.to(memory_format=plan.runtime.memory_format)
    images, _ = tensors(plan, held_out=True)
    inference: bare.Inference = bare.Inference(net, images, BATCH, 4)
    if torch.cuda.is_available():
        inference = bare.CapturedInference(net, images, 4096, 4, plan.runtime.autocast)
    yield Case(
        name="dump of cifar_resnet56 captured, over bare inference captured whole",
        ours=captured,
        other=inference,
    )


class Together:
    """Several trainings at once, as `--seeds` takes them; a turn is an epoch of each.

    Args:
        make: Makes the training of a seed.
        count: How many.
    """

    def __init__(self, make: Callable[[int], ours.Run], count: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.lanes = [Lane(self.device) for _ in range(count)]
        self.runs = []
        for seed, lane in enumerate(self.lanes):
            with lane.taken():
                self.runs.append(make(seed))

    def __call__(self) -> float:
        """Images a second in all."""
        bare.synchronize(self.device)
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
        bare.synchronize(self.device)
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
            options: dict[str, Any] = {"data": data(name), "model": model, "batch_size": BATCH}
            out = root / f"{prefix}-{model}-{seed}"
            return ours.training(out, seed=seed, **recorded(), **options, **augment)

        yield Case(
            name=f"{model}, eight at once over one, in all",
            ours=Together(make, COUNT),
            other=make(0, "one"),
            least=least,
        )


def few_bits(root: Path) -> Iterator[Case]:
    """Training with weights of few bits over full precision, captured on both sides."""
    yield from bits_over_full(root, data=data("cifar10"), **recorded())


CASES = {
    "graphs": graphs,
    "graphs-cached": graphs_cached,
    "before": over_before,
    "dumps-captured": dumps_captured,
    "together": together,
    "bits-captured": few_bits,
}
