"""How long a training will take, measured on a few steps over noise; nothing is read or written."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

from distill_cli import runtime
from distill_cli.data.loader import Loader
from distill_cli.data.noise import drawn_rows, noise_beside, noise_like
from distill_cli.pipeline.inputs.data import worker_count
from distill_cli.pipeline.inputs.other_views import streams_of
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.sharding import local
from distill_cli.training.events import Silent
from distill_cli.training.loop import Trainer
from distill_cli.training.state import State
from distill_cli.types import WHOLE

# Seconds of timed steps, and how many of them at most.
SECONDS, STEPS = 0.6, 12
# Images of the first steps that are timed, and how fast their number grows from there.
SMALLEST, GROWTH = 8, 4


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A measurement of a few training steps, in seconds.

    Attributes:
        images: In each step that was timed: a batch, or as much of it as could be timed quickly.
        steps: The number of steps that were timed.
        making: Time for the view of one image, made by one process.
        step: Time of a step, divided by its images.
        held_out: Time to evaluate one held-out image.
    """

    images: int
    steps: int
    making: float
    step: float
    held_out: float


def seconds_of(prepared: PreparedRun, loader: Loader, speed: Speed) -> float:
    """How long all epochs will take: making views, steps, and held-out images after each epoch.

    Workers make views beside the steps: whoever is slower counts. What reading from a slow disk,
    checkpoints, compilation and the end of a run cost is not in it.

    Args:
        prepared: The run.
        loader: The batches of the run.
        speed: Measured on it.
    """
    workers, dataset = worker_count(prepared.recipe), prepared.dataset
    a_view, held_out = speed.making + speed.step, speed.held_out
    if workers and loader.views.by_workers:
        a_view = max(speed.making / workers, speed.step)
    if dataset.from_files:
        held_out = max(speed.making / max(1, workers), held_out)
    training = loader.steps * loader.batch_size * a_view
    return prepared.recipe.epochs * (training + len(dataset.val.label_N) * held_out)


def measure(prepared: PreparedRun) -> Speed:
    """Times steps of a run's network, objectives and teachers on noise like its images.

    From few images on up to a whole batch, as far as that is quick. The network's weights change.
    """
    most = -(-prepared.recipe.batch_size // prepared.recipe.accumulate)
    images = min(SMALLEST, most)
    with runtime.fast_kernels(prepared.runtime):
        while True:
            speed = _at(prepared, images)
            taken = images * (speed.making + speed.step)
            if images == most or taken * GROWTH > SECONDS:
                return speed
            images = min(GROWTH * images, most)


def _at(prepared: PreparedRun, images: int) -> Speed:
    """The speed at so many images a step."""
    # Whole and here: parts and processes are what the arithmetic is for.
    alone = {"batch_size": images, "accumulate": 1, "workers": 0, "compile": False}
    recipe = prepared.recipe.model_copy(update=alone)
    streams = streams_of(recipe, prepared.dataset, images, WHOLE)
    rows = drawn_rows(prepared.dataset, images)
    if streams is not None:
        rows = streams.shown(0)[0][:images]
    noise, specs = noise_like(prepared.dataset, rows), prepared.specs
    if specs.teacher_images is not None:
        specs = replace(specs, teacher_images=noise_beside(specs.teacher_images, rows))
    prepared = replace(prepared, dataset=noise, specs=specs, recipe=recipe)
    trainer = trainer_of(prepared, Silent())
    trainer.network.train()
    trainer.state = State()
    _timed_step(trainer, 0)
    taken: list[tuple[float, float]] = []
    while not taken or (len(taken) < STEPS and sum(map(sum, taken)) < SECONDS):
        taken.append(_timed_step(trainer, len(taken) + 1))
    started = time.perf_counter()
    trainer.evaluate(trainer.network)
    held_out = time.perf_counter() - started
    making, step = (statistics.median(times) for times in zip(*taken, strict=True))
    return Speed(
        images=images,
        steps=len(taken),
        making=making / images,
        step=step / images,
        held_out=held_out / max(1, len(noise.val.label_N)),
    )


def _timed_step(trainer: Trainer, epoch: int) -> tuple[float, float]:
    """Seconds of making a batch, and of a step on it; each epoch of the noise is one batch."""
    started = time.perf_counter()
    batch = next(trainer.loader.epoch(epoch))
    batch.images_BCHW[0, 0, 0, 0].item()  # A GPU only says that it began.
    made = time.perf_counter()
    trainer.train_step(batch)
    local(next(trainer.network.parameters())).sum().item()
    return made - started, time.perf_counter() - made
