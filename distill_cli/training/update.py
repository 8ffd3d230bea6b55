"""One step of training: all that lies between a batch and the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from distill_cli.models import Network
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import EpochVerdict, Probe
from distill_cli.training.exchange import Exchange
from distill_cli.training.forward import StudentForward
from distill_cli.training.optimisation import Optimisation
from distill_cli.training.peers import ALONE, Peers
from distill_cli.training.state import State
from distill_cli.types import Batch, Progress, Teacher


@dataclass(frozen=True, kw_only=True)
class Update:
    """Moves the weights by one batch; the same operations whoever counts the steps.

    Attributes:
        network: The student, on its device.
        forward: Its signals of a batch: logits, and features where they are learnt from.
        adapters: Modules that objectives learn beside it.
        optimisation: Optimiser, precision, accumulation; its rates are set before.
        teacher: What labels the batch; None where nobody teaches.
        composition: The loss.
        exchange: What ranks exchange in a step.
        peers: Networks that are trained along.
    """

    network: Network
    forward: StudentForward
    adapters: nn.ModuleDict
    optimisation: Optimisation
    teacher: Teacher | None
    composition: Composition
    exchange: Exchange
    peers: Peers = ALONE

    def judged(self, probe: Probe, finished: int, epochs: int) -> EpochVerdict:
        """The verdict of the objectives on the epoch that has just ended, of `epochs`."""
        return self.composition.after_epoch(probe, finished, epochs, self.adapters)

    def look(self, state: State, tell: Callable[[str], None], epochs: int, steps: int) -> None:
        """Looks at what came of the epoch's steps so far; the arguments are those of `State.look`."""
        self.exchange.look()
        state.look(tell, epochs, steps)

    def __call__(self, batch: Batch, progress: Progress, state: State) -> None:
        """One step of the optimisers, in as many parts as the batch is accumulated from.

        Args:
            batch: The images and their labels.
            progress: Where training stands.
            state: Takes note of the loss.
        """
        optimisation = self.optimisation
        for optimizer in optimisation.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for part in batch.split(optimisation.accumulate):
            with optimisation.runtime.autocast(), self.exchange.forward(self.forward.runs(part)):
                student = self.forward(part)
            self.peers.answer(part, optimisation.runtime, self.exchange)
            # After the student, who may be asked as a teacher of its own.
            teacher = None if self.teacher is None else self.teacher.signals(part)
            student, teacher, part = self.exchange.joined(student, teacher, part)
            loss = self.composition(student, teacher, part, progress, self.adapters)
            total = loss.total
            if self.peers.all:
                total = total + self.peers.loss(student, part, progress, self.exchange)
            optimisation.scaler.scale(total).backward()
            state.note(student.logits, part, loss)
        self.exchange.reduce(optimisation.optimizers)
        optimisation.clip(self.network.net)
        for optimizer in optimisation.optimizers:
            optimisation.scaler.step(optimizer)
        optimisation.scaler.update()
