"""The one loop: all that mutates is here. It names no method."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from distill_cli.data.loader import Loader
from distill_cli.models import Network
from distill_cli.objectives.hooks import Probe
from distill_cli.training import checkpoint
from distill_cli.training.device_steps import device_steps
from distill_cli.training.events import EpochEvent, Sink, step_event
from distill_cli.training.graphs import StepGraphs
from distill_cli.training.optimisation import Optimisation
from distill_cli.training.pauses import Pauses
from distill_cli.training.run_log import RunLog
from distill_cli.training.state import HeldOut, State
from distill_cli.training.update import Update
from distill_cli.types import Batch, Progress

LOOK_EVERY = 50  # Steps between looks at what becomes of the loss: each waits for the device.


@dataclass(kw_only=True)
class Trainer:
    """Trains one network.

    Attributes:
        network: The student, on its device.
        adapters: Modules that objectives learn beside it.
        optimisation: Optimiser, schedule, precision, accumulation and averaging of its weights.
        update: One step of it, which minimises a loss over `epochs` passes of `loader`'s batches.
        probe: Features of training images, for objectives that judge an epoch.
        evaluate: Held-out figures of a network.
        keep: Keeps a network as the best one, and others beside it by their figures.
        run: The run folder; `key` identifies its recipe in checkpoints.
        sink: Shows progress.
        graphs: Records steps on a CUDA device; None to take them one operation at a time.
        pauses: When its state is kept within an epoch, and when it stops before its end.
        truth_N: int64 true classes of training rows, −1 where unknown, for pseudo-labels.jsonl alone.
    """

    network: Network
    adapters: nn.ModuleDict
    optimisation: Optimisation
    update: Update
    loader: Loader
    epochs: int
    probe: Probe
    evaluate: Callable[[Network], HeldOut]
    keep: Callable[[Network | None, HeldOut], None]
    run: Path
    key: str
    sink: Sink
    graphs: StepGraphs | None = None
    pauses: Pauses = field(default_factory=Pauses)
    truth_N: Tensor | None = None

    def fit(self, *, resume: bool) -> State:
        """Trains to the end, from the last checkpoint if `resume`.

        Raises:
            DivergedError: The loss is NaN or infinite; the last checkpoint and the best stay.
            StoppedError: A signal came, or the time is up; what is kept goes on from here.
        """
        deque(self.fitting(resume=resume), maxlen=0)
        return self.state

    def fitting(self, *, resume: bool) -> Iterator[None]:
        """The same, pausing after each step: several runs on one device take theirs in turn."""
        self.start(resume=resume)
        while self.state.epoch < self.epochs:
            self.pauses.check(self.state.where(self.epochs), self.run)
            yield from self.epoch_steps()
            self._end_epoch()

    def start(self, *, resume: bool) -> None:
        """Takes the state of the last checkpoint if `resume`, else a new one."""
        self.log, ranks = RunLog(self.run), self.optimisation.runtime.ranks
        nets: dict[str, checkpoint.Stateful] = {"network": self.network, "adapters": self.adapters}
        self.parts, self.state = {**nets, **self.optimisation.parts}, State()
        ranks.same(checkpoint.tensors_of(self.parts))
        self.optimisation.begin()
        if resume:
            self.state = checkpoint.load(self.run, self.parts, self.key, ranks=ranks)
            self.optimisation.materialise()
        self.state.pseudo_labels.truth_N = self.truth_N
        self.log.cut_back(self.state)
        steps = device_steps(self.loader, self.update, self.epochs, self.state, self.graphs)
        self._steps = self._steps_on_host if steps is None else steps.epoch

    def epoch_steps(self) -> Iterator[None]:
        """The rest of the epoch under way, step by step; its seconds are in the state."""
        self.network.train()
        started = time.perf_counter()
        for images in self._steps(self.state.epoch, self.state.step):
            self.state.step += 1
            self.sink.step(step_event(self.state, self.epochs, self.loader.steps, images))
            if self.state.step % LOOK_EVERY == 0:
                self.update.look(self.state, self.sink.message, self.epochs, self.loader.steps)
            if self.pauses.due():
                # The loss tells of the weights before the step alone.
                self.state.require_finite_weights(self.network.state_dict())
                self.state.epoch_seconds += time.perf_counter() - started
                self._save()
                self.pauses.check(self.state.where(self.epochs), self.run)
                started = time.perf_counter()
            yield
        self.update.look(self.state, self.sink.message, self.epochs, self.loader.steps)
        self.state.epoch_seconds += time.perf_counter() - started

    def _steps_on_host(self, epoch: int, first: int) -> Iterator[int]:
        return map(self.train_step, self.loader.epoch(epoch, first=first))

    def train_step(self, batch: Batch) -> int:
        """The step of a batch that the host has made; the images that all ranks saw in it."""
        steps, seed = self.epochs * self.loader.steps, self.loader.seed
        self.optimisation.schedule.step_update(batch.step)
        progress = Progress(epoch=self.state.epoch, step=batch.step, total_steps=steps, seed=seed)
        self.update(batch, progress, self.state)
        self.optimisation.average(self.network, batch.step)
        return (batch.of_all or batch).samples

    def _end_epoch(self) -> None:
        started = time.perf_counter()
        state, network = self.state, self.optimisation.averaged(self.network)
        verdict = self.update.judged(self.probe, state.epoch + 1, self.epochs)
        self.optimisation.end_epoch(undo=verdict.roll_back)
        # Evaluate after a roll-back: these are the weights that go on.
        held_out = self.evaluate(network)
        state.require_finite(held_out.figures.values())
        best = state.is_best(held_out)
        self.keep(network if best else None, held_out)
        rate = self.loader.steps * self.loader.batch_size / max(state.epoch_seconds, 1e-9)
        figures = {**held_out.figures, **verdict.figures, "images_per_second": rate}
        row = self.log.epoch(state, figures, self.optimisation.rate, self.network.class_names)
        self.sink.epoch(EpochEvent(epoch=state.epoch, epochs=self.epochs, row=row, best=best))
        state.next_epoch(rate, state.epoch_seconds + time.perf_counter() - started)
        self._save()

    def _save(self) -> None:
        self.state.log_lengths = self.log.lengths()
        checkpoint.save(self.run, self.state, self.parts, self.key, self.optimisation.runtime.ranks)
        self.pauses.saved()
