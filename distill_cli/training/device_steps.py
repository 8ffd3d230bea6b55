"""Steps whose every input lies on the device, so that they can be recorded once and replayed.

Shapes: T steps of an epoch, R settings of a step: a rate a group, and the average's share.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import repeat

import torch
from torch import Tensor

from distill_cli.data.ahead import copied_ahead
from distill_cli.data.epoch_table import EpochTable
from distill_cli.data.loader import Loader
from distill_cli.teachers.labels_ahead import LabelsAhead, Wanted
from distill_cli.teachers.mixture import variant_of
from distill_cli.training.graphs import StepGraphs, room_on
from distill_cli.training.optimisation import Optimisation
from distill_cli.training.state import State
from distill_cli.training.update import Update
from distill_cli.types import Progress


class Settings:
    """Rates and the average's share of an epoch's steps, in a table on the device.

    Args:
        optimisation: The optimiser's groups take their rates from memory here, for ever.
        steps: T.
        device: Device of the weights.
    """

    def __init__(self, optimisation: Optimisation, steps: int, device: torch.device) -> None:
        self.optimisation, self.steps = optimisation, steps
        self._ready: tuple[int, Tensor] | None = None
        groups = optimisation.optimizer.param_groups
        # Fused kernels of a GPU read fp32; the CPU's take the number that a schedule sets.
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self.table_TR = torch.zeros((steps, len(groups) + 1), dtype=kind, device=device)
        self.now_R = torch.zeros(len(groups) + 1, dtype=kind, device=device)

    @property
    def share(self) -> Tensor:
        """The average's share of the weights after the step that is due, a scalar."""
        return self.now_R[-1]

    def load(self, epoch: int) -> None:
        """Writes the table of an epoch."""
        if self._ready is None or self._ready[0] != epoch:
            self.prepare(epoch)
        assert self._ready is not None, "prepared"
        self.table_TR.copy_(self._ready[1])
        self._bind()

    def prepare(self, epoch: int) -> None:
        """Asks the schedule for an epoch, while the device is busy with the one before."""
        first = epoch * self.steps
        rows = [self.optimisation.settings(first + step) for step in range(self.steps)]
        self._ready = epoch, torch.tensor(rows, dtype=self.table_TR.dtype)
        self._bind()

    def _bind(self) -> None:
        """Has the groups read their rates here: a schedule, or a checkpoint, puts numbers there."""
        for group, rate in zip(self.optimisation.optimizer.param_groups, self.now_R, strict=False):
            group["lr"] = rate

    def take(self, at_1: Tensor) -> None:
        """Sets what the step of this number sets; an int64 (1) on the device."""
        self.now_R.copy_(self.table_TR.index_select(0, at_1)[0])


class DeviceSteps:
    """Takes the steps of a run from tables on the device, eagerly or as CUDA graphs.

    Args:
        loader: The run's batches.
        update: One step.
        epochs: Epochs of the whole training.
        state: Takes note of each step.
        graphs: Records steps and replays them; None to take each eagerly.
        room: Bytes of the device's memory that caches may take; by default what is free decides.
    """

    def __init__(
        self,
        loader: Loader,
        update: Update,
        epochs: int,
        state: State,
        graphs: StepGraphs | None = None,
        room: float | None = None,
    ) -> None:
        self.loader, self.update, self.state, self.graphs = loader, update, state, graphs
        self.table, device = EpochTable(loader), loader.views.device
        room = room_on(device) if room is None else room
        samples = self.table.batch_size // loader.share.ranks
        self.labels = LabelsAhead(update.teacher, samples, device, room)
        self.table.on_host = bool(self.labels.streams)
        self.total_steps = epochs * loader.steps
        self.settings = Settings(update.optimisation, loader.steps, loader.views.device)
        self._pictures: list[Tensor | None] | None = None
        state.tally.in_place = True

    def epoch(self, epoch: int, first: int) -> Iterator[int]:
        """Takes the steps of an epoch from `first` on; yields the images of each."""
        self.table.load(epoch, first)
        self.settings.load(epoch)
        made: list[Iterator[Tensor | None]] = [
            repeat(None) if parts is None else copied_ahead(parts, self.loader.views.device)
            for parts in (self.table.pictures(first) if self.table.by_host else [])
        ]
        with closing(self._labels(epoch, first)) as labels:
            for number in range(first, self.loader.steps):
                self._hold([next(parts) for parts in made])
                next(labels)
                self._take(epoch * self.loader.steps + number)
                yield self.loader.batch_size
        self.settings.prepare(epoch + 1)

    def _labels(self, epoch: int, first: int) -> Generator[None]:
        """Has the labels of each step on the device that do not lie there anyway."""
        if not self.labels.streams:
            yield from repeat(None)
        columns = enumerate(self.table.host_T4B[first:], start=epoch * self.loader.steps + first)
        of = self.loader.share.of
        yield from self.labels.batches(
            Wanted(step, epoch, of(index_B), of(view_B), of(copy_B))
            for step, (index_B, view_B, copy_B, _) in columns
        )

    def _hold(self, pictures: list[Tensor | None]) -> None:
        """Copies what the host made of a step's images to where every step looks for it.

        It lies on the device already. The copy follows the step before on the same stream, which has
        read its own by then.
        """
        if self._pictures is None and pictures:
            self._pictures = [None if one is None else torch.empty_like(one) for one in pictures]
        for kept, one in zip(self._pictures or [], pictures, strict=True):
            if kept is not None and one is not None:
                kept.copy_(one)

    def _take(self, step: int) -> None:
        if self.graphs is None:
            self.body(step)
        else:
            self.graphs.take(self.body, step, variant_of(self.update.teacher, step))

    def body(self, step: int) -> None:
        """The step that is due; `step` is its number on the host, which must not change what is done.

        But for the teacher that is drawn for a batch: each has a recording of its own.
        """
        table, settings = self.table, self.settings
        settings.take(table.counter_2[:1])
        batch = table.batch(step, self._pictures)
        progress = Progress(
            epoch=table.epoch,
            step=table.counter_2[1],
            total_steps=self.total_steps,
            seed=self.loader.seed,
        )
        self.update(batch, progress, self.state)
        self.update.optimisation.average_by(self.update.network, settings.share)
        table.advance()


def device_steps(
    loader: Loader, update: Update, epochs: int, state: State, graphs: StepGraphs | None
) -> DeviceSteps | None:
    """The steps of a run on a CUDA device; None elsewhere, where the host makes the batches."""
    if loader.views.device.type != "cuda":
        return None
    steps = DeviceSteps(loader, update, epochs, state, graphs)
    if graphs is not None and (size := steps.labels.streamed_bytes):
        graphs.tell(f"labels of {size / 1e9:.1f} GB are read from disk, ahead of the steps")
    return steps
