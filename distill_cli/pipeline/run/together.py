"""Several runs at once on one GPU: each takes its next step in turn, on a stream of its own.

A small network leaves most of a GPU idle: its kernels are short, and one is launched after the other.
The runs share the images; each has a stream, a memory pool for its recorded steps and a state of the
generator, so that it makes the bits that it makes alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch

from distill_cli.errors import DistillError, DivergedError, StoppedError
from distill_cli.pipeline.inputs.data import OpenData
from distill_cli.pipeline.run.machine import runtime_of
from distill_cli.pipeline.run.train import Run, Whole, opened, stopping
from distill_cli.recipe.seeds import SeedRun
from distill_cli.runtime import fast_kernels
from distill_cli.training.events import EpochEvent, Sink, StepEvent
from distill_cli.training.graphs import cuda_generator
from distill_cli.training.pauses import Pauses
from distill_cli.types import Count


@dataclass(frozen=True, kw_only=True)
class SeedSink:
    """The display of one of several runs: its lines name the seed, and only the first shows its pace."""

    shown: Sink
    seed: int
    leads: bool

    def step(self, event: StepEvent) -> None:
        """The pace of the first: the others go with it."""
        if self.leads:
            self.shown.step(event)

    def epoch(self, event: EpochEvent) -> None:
        """The first's; the others have theirs in their folders."""
        if self.leads:
            self.shown.epoch(event)

    def message(self, text: str) -> None:
        """With the seed."""
        self.shown.message(f"seed {self.seed}: {text}")

    def reading(self, done: int, total: int) -> None:
        """As it is."""
        self.shown.reading(done, total)

    def counting(self, unit: str) -> Count:
        """As it is."""
        return self.shown.counting(unit)


class Lane:
    """What torch has one of where several runs need one each: a stream and a generator.

    Args:
        device: The runs' device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            self.stream.wait_stream(torch.cuda.current_stream(device))
            self.generator = cuda_generator(device).clone_state()
        else:
            self.state = torch.get_rng_state()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Has everything be done on the run's stream and with its generator."""
        if self.device.type == "cuda":
            with torch.cuda.stream(self.stream):
                # No copy: recorded steps count on in the state that they were recorded with.
                cuda_generator(self.device).graphsafe_set_state(self.generator)
                try:
                    yield
                finally:
                    # Another one where a recording failed.
                    self.generator = cuda_generator(self.device).graphsafe_get_state()
            return
        torch.set_rng_state(self.state)
        try:
            yield
        finally:
            self.state = torch.get_rng_state()


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Leaves the generators as they were."""
    before = torch.get_rng_state()
    on_device = cuda_generator(device).graphsafe_get_state() if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if on_device is not None:
            cuda_generator(device).graphsafe_set_state(on_device)


@dataclass(kw_only=True)
class Turn:
    """One of the runs.

    Attributes:
        seed: Its seed.
        sink: Its display.
        lane: Where everything of it is done.
        stack: The folder's lock, and what is kept if the run fails.
        run: The run, once it is open.
        steps: Its steps that are left.
    """

    seed: int
    sink: SeedSink
    lane: Lane
    stack: ExitStack = field(default_factory=ExitStack)
    run: Run | None = None
    steps: Iterator[None] = field(default_factory=lambda: iter(()))

    def end(self, error: DistillError | None = None) -> None:
        """Unlocks the folder; keeps how the run failed."""
        self.stack.__exit__(type(error) if error else None, error, None)


def train_together(
    runs: Sequence[SeedRun], sink: Sink, opening: OpenData, whole: Whole
) -> dict[int, str]:
    """Trains runs of one recipe on one GPU at once, from where each is.

    Args:
        runs: One a seed; none of several stages.
        sink: Shows how they go.
        opening: Opens the data.
        whole: The command.

    Returns:
        By seed, how a run diverged.

    Raises:
        StoppedError: A signal came, or the time was up; every run is kept.
    """
    turns: deque[Turn] = deque()
    stopped: list[StoppedError] = []
    diverged: dict[int, str] = {}
    assert whole.out is not None, "several runs have a folder together"
    runtime = runtime_of(runs[0].recipe)
    with (
        generators_kept(runtime.device),
        stopping(runs[0].recipe, whole, whole.out) as pauses,
        ExitStack() as folders,
        fast_kernels(runtime),
    ):
        for number, seed_run in enumerate(runs):
            shown = SeedSink(shown=sink, seed=seed_run.seed, leads=number == 0)
            turn = Turn(seed=seed_run.seed, sink=shown, lane=Lane(runtime.device))
            folders.push(turn.stack)
            _begin(turn, seed_run, opening, replace(pauses))
            turns.append(turn)
        if runtime.device.type == "cuda":
            # What they share was made on the first one's stream.
            torch.cuda.synchronize(runtime.device)
        while turns:
            turn = turns.popleft()
            try:
                if _goes_on(turn):
                    turns.append(turn)
            except DivergedError as error:
                diverged[turn.seed] = error.message
                turn.sink.message(error.message)
                turn.end(error)
            except StoppedError as error:
                stopped.append(error)
                turn.end(error)
    if stopped:
        raise stopped[0]
    return diverged


def _begin(turn: Turn, seed_run: SeedRun, opening: OpenData, pauses: Pauses) -> None:
    """Opens a run in its lane, before its first step.

    Args:
        turn: The run's.
        seed_run: What it trains, and where.
        opening: Opens the data.
        pauses: Its own: what is due is due for each by itself.
    """
    with turn.lane.taken():
        how = {"resume": True, "overwrite": False}
        begun = opened(seed_run.recipe, sink=turn.sink, opening=opening, **how)
        turn.run = turn.stack.enter_context(begun)
        trainer = turn.run.trainer
        trainer.pauses = pauses
        views = trainer.loader.views
        if not views.by_workers:
            # Now, where the others can wait for it.
            _ = views.images_NCHW
        turn.steps = trainer.fitting(resume=turn.run.resuming)


def _goes_on(turn: Turn) -> bool:
    """Takes a run's next step; after its last one, its figures are kept.

    Returns:
        Whether there may be another.
    """
    assert turn.run is not None, "begun"
    with turn.lane.taken():
        if next(turn.steps, turn) is not turn:
            return True
        turn.run.trainer.pauses.check("after the last epoch", turn.run.out)
        turn.run.finished(turn.sink)
    turn.end()
    return False
