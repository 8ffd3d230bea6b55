"""The one loop: all that mutates is here. It names no method."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from distill_cli.data.loader import Loader
from distill_cli.errors import StoppedError
from distill_cli.models import Network
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import Probe
from distill_cli.training import checkpoint
from distill_cli.training.events import EpochEvent, Sink, step_event
from distill_cli.training.optimisation import Optimisation
from distill_cli.training.run_log import RunLog, epoch_row
from distill_cli.training.state import HeldOut, State
from distill_cli.types import Batch, Progress, StudentSignals, Teacher

# Steps between looks at what becomes of the loss: each look waits for the device.
LOOK_EVERY = 50


@dataclass(kw_only=True)
class Trainer:
    """Trains one network.

    Attributes:
        network: The student, on its device.
        forward: Its signals of images: logits, and features where they are learnt from.
        adapters: Modules that objectives learn beside it.
        optimisation: Optimiser, schedule, precision, accumulation and averaging of its weights.
        teacher: Frozen, or None.
        composition: The loss that is minimised over `epochs` passes of `loader`'s batches.
        probe: Features of training images, for objectives that judge an epoch.
        evaluate: Held-out figures of a network.
        save_best: Keeps a network as the best one.
        run: The run folder; `key` identifies its recipe in checkpoints.
        sink: Shows progress.
        stop: The signal that asks to stop, or None.
    """

    network: Network
    forward: Callable[[Tensor], StudentSignals]
    adapters: nn.ModuleDict
    optimisation: Optimisation
    teacher: Teacher | None
    composition: Composition
    loader: Loader
    epochs: int
    probe: Probe
    evaluate: Callable[[Network], HeldOut]
    save_best: Callable[[Network], None]
    run: Path
    key: str
    sink: Sink
    stop: Callable[[], int | None] = lambda: None

    def fit(self, *, resume: bool) -> State:
        """Trains to the end, from the last checkpoint if `resume`.

        Raises:
            DivergedError: The loss is NaN or infinite; the last checkpoint and the best stay.
            StoppedError: A signal came; a checkpoint was written.
        """
        self.start(resume=resume)
        while self.state.epoch < self.epochs:
            self.train_epoch()
            self._end_epoch()
        return self.state

    def start(self, *, resume: bool) -> None:
        """Takes the state of the last checkpoint if `resume`, else a new one."""
        self.log = RunLog(self.run)
        nets: dict[str, checkpoint.Stateful] = {"network": self.network, "adapters": self.adapters}
        self.parts = {**nets, **self.optimisation.parts}
        self.state = State()
        self.optimisation.keep()
        if resume:
            self.state = checkpoint.load(self.run, self.parts, self.key)
        self.log.cut_back(self.state.log_lengths)

    def train_epoch(self) -> None:
        """The rest of the epoch under way; its seconds are in the state."""
        self.network.train()
        started = time.perf_counter()
        for batch in self.loader.epoch(self.state.epoch, first=self.state.step):
            self.train_step(batch)
            if self.stop() is not None or self.state.step % LOOK_EVERY == 0:
                self.state.look(self.sink.message)
            if (number := self.stop()) is not None:
                self.state.epoch_seconds += time.perf_counter() - started
                self._save()
                raise StoppedError(
                    f"stopped in epoch {self.state.epoch + 1} of {self.epochs}",
                    signal_number=number,
                    hint=f"Go on with --resume --out {self.run}",
                )
        self.state.look(self.sink.message)
        self.state.epoch_seconds += time.perf_counter() - started

    def train_step(self, batch: Batch) -> None:
        """One step of the optimisers, in as many parts as the batch is accumulated from."""
        optimisation, total = self.optimisation, self.epochs * self.loader.steps
        seed = self.loader.seed
        progress = Progress(epoch=self.state.epoch, step=batch.step, total_steps=total, seed=seed)
        optimisation.schedule.step_update(batch.step)
        for optimizer in optimisation.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for part in batch.split(optimisation.accumulate):
            teacher = None if self.teacher is None else self.teacher.signals(part)
            with optimisation.runtime.autocast():
                student = self.forward(part.images_BCHW)
            loss = self.composition(student, teacher, part, progress, self.adapters)
            optimisation.scaler.scale(loss.total).backward()
            self.state.note(student.logits, part, loss)
        optimisation.clip(self.network.net)
        for optimizer in optimisation.optimizers:
            optimisation.scaler.step(optimizer)
        optimisation.scaler.update()
        optimisation.average(self.network, batch.step)
        self.state.step += 1
        self.sink.step(step_event(self.state, self.epochs, self.loader.steps, batch.samples))

    def _end_epoch(self) -> None:
        started = time.perf_counter()
        state, network = self.state, self.optimisation.averaged(self.network)
        judge = self.composition.after_epoch
        verdict = judge(self.probe, state.epoch + 1, self.epochs, self.adapters)
        self.optimisation.end_epoch(undo=verdict.roll_back)
        # Evaluate after a roll-back: these are the weights that go on.
        held_out = self.evaluate(network)
        state.require_finite(held_out.figures.values())
        if best := state.is_best(held_out):
            self.save_best(network)
        rate = self.loader.steps * self.loader.batch_size / max(state.epoch_seconds, 1e-9)
        figures = {**held_out.figures, **verdict.figures}
        row = epoch_row(state, figures, lr=self.optimisation.rate, images_per_second=rate)
        self.log.epoch(row)
        self.sink.epoch(EpochEvent(epoch=state.epoch, epochs=self.epochs, row=row, best=best))
        state.next_epoch(rate, state.epoch_seconds + time.perf_counter() - started)
        self._save()

    def _save(self) -> None:
        self.state.log_lengths = self.log.lengths()
        checkpoint.save(self.run, self.state, self.parts, self.key)
