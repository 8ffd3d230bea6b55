"""One training run, from its recipe to result.json."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError
from distill_cli.files import one_writer, remove_temporaries, write_text
from distill_cli.models import InputSpec
from distill_cli.pipeline.folders import (
    check_output,
    clear_run,
    has_checkpoint,
    has_model,
)
from distill_cli.pipeline.inputs.cache_checks import check_pixels
from distill_cli.pipeline.inputs.data import OpenData, keep_skipped, open_data
from distill_cli.pipeline.run.class_relations import keep_relations
from distill_cli.pipeline.run.machine import runtime_of
from distill_cli.pipeline.run.outcome import outcome_kept
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.requirements import unmet
from distill_cli.pipeline.run.results import finish, finish_hints, say_told
from distill_cli.pipeline.run.resume import check_anew, take_over
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.ranks import answering
from distill_cli.recipe.base import LabelledRecipe, Recipe, TrainRecipe
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.resolved import ResolvedRecipe
from distill_cli.runtime import fast_kernels
from distill_cli.stopping import stop_signals
from distill_cli.training.events import Sink
from distill_cli.training.loop import Trainer
from distill_cli.training.pauses import Pauses, TimeLimit
from distill_cli.types import HintResult, RunResult


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that is finished.

    Attributes:
        run: The run folder.
        recipe: With every value resolved.
        result: The figures of result.json.
        unmet: Requirements that were not met, in words.
    """

    run: Path
    recipe: ResolvedRecipe
    result: RunResult | HintResult
    unmet: tuple[str, ...] = ()


def leave(text: str, code: int) -> object:
    """Ends this process at once; whoever shows runs to a person says the text before."""
    os._exit(code)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The command that a run is of, perhaps as one of several stages.

    Attributes:
        limit: The end of its time; None where it may take any.
        leave: Ends the process with a line and an exit code where a step outlasts the grace.
        out: The folder of the stages; None for a run by itself.
        again: How whoever stops it goes on, in words; None for --resume.
    """

    limit: TimeLimit | None = None
    leave: Callable[[str, int], object] = leave
    out: Path | None = None
    again: str | None = None


def train(
    recipe: TrainRecipe,
    *,
    sink: Sink,
    resume: bool = False,
    overwrite: bool = False,
    whole: Whole | None = None,
    opening: OpenData = open_data,
) -> Finished:
    """Trains what the recipe says, evaluates its best epoch on test once, and keeps the figures.

    Args:
        recipe: A teacher's or a student's.
        sink: Shows progress.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run that is in the folder.
        whole: The command that it is a run of; by default one of its own.
        opening: Opens its data.

    Raises:
        DistillError: With the exit code of what went wrong; the table under “In scripts” in README.md.
    """
    whole = whole or Whole(limit=TimeLimit.of(recipe.max_time))
    how = {"resume": resume, "overwrite": overwrite}
    with opened(recipe, sink=sink, opening=opening, **how) as run:
        with stopping(recipe, whole, run.out) as pauses, fast_kernels(run.prepared.runtime):
            run.trainer.pauses = run.pausing(pauses)
            run.trainer.fit(resume=run.resuming)
        run.trainer.pauses.check("after the last epoch", run.out)
        return run.finished(sink)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run whose folder is this process's, ready to train.

    Attributes:
        prepared: All that it needs.
        trainer: Its loop.
        resuming: Whether it goes on from a checkpoint.
    """

    prepared: PreparedRun
    trainer: Trainer
    resuming: bool

    @property
    def out(self) -> Path:
        """Its folder."""
        return self.prepared.run

    def pausing(self, pauses: Pauses) -> Pauses:
        """The pauses of the command, which several ranks agree on."""
        shared = None if self.prepared.runtime.ranks.alone else self.trainer.update.exchange
        return replace(pauses, exchange=shared)

    def finished(self, sink: Sink) -> Finished:
        """Evaluates what was trained, and keeps the figures."""
        prepared, state = self.prepared, self.trainer.state
        say_told(prepared.layers.adapters, prepared.network.class_names, sink)
        keep_relations(prepared.run, prepared.layers.adapters, prepared.network.class_names)
        if not isinstance(prepared.recipe, LabelledRecipe):
            hints = finish_hints(prepared, state)
            return Finished(run=prepared.run, recipe=prepared.recipe, result=hints)
        result = finish(prepared, state, sink)
        missed = unmet(prepared.recipe.require, result)
        return Finished(run=prepared.run, recipe=prepared.recipe, result=result, unmet=missed)


@contextmanager
def opened(
    recipe: TrainRecipe, *, sink: Sink, resume: bool, overwrite: bool, opening: OpenData
) -> Iterator[Run]:
    """A run, checked, its folder locked and begun; the arguments are those of `train`."""
    ranks = runtime_of(recipe).ranks

    def first(recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
        return ranks.first_on_machine(lambda: opening(recipe, sink, glance=glance))

    def checked() -> tuple[PreparedRun, Trainer]:
        prepared = prepare(recipe, sink=sink, resume=resume, overwrite=overwrite, opening=first)
        trainer = trainer_of(prepared, sink)
        check_pixels(prepared.members, trainer.loader.others.teacher or trainer.loader.views)
        return prepared, trainer

    prepared, trainer = ranks.together(checked)
    check_same(prepared)
    with ExitStack() as held:

        def begun() -> tuple[bool, InputSpec | None]:
            held.enter_context(one_writer(prepared.run))
            return _begin(prepared, sink, resume=resume, overwrite=overwrite)

        resuming, normalisation = ranks.led(begun)
        if normalisation is not None:
            prepared.network.normalise_by(normalisation)
        # Weights in parts are gathered by torch itself.
        with outcome_kept(prepared.run), answering(alone=False):
            yield Run(prepared=prepared, trainer=trainer, resuming=resuming)


def _begin(
    prepared: PreparedRun, sink: Sink, *, resume: bool, overwrite: bool
) -> tuple[bool, InputSpec | None]:
    """Begins a run in its folder, whose lock is held.

    Returns:
        Whether it goes on from a checkpoint, and how images are normalised where it does.
    """
    # Again: another process may have finished here while the data were read.
    check_output(prepared.run, resume=resume, overwrite=overwrite)
    if overwrite:
        clear_run(prepared.run)
    remove_temporaries(prepared.run)
    resuming, normalisation = resume and has_checkpoint(prepared.run), None
    if resuming:
        normalisation = take_over(prepared, sink)
    elif resume and has_model(prepared.run):
        check_anew(prepared)
        sink.message(f"{prepared.run} has no checkpoint yet: it begins anew")
    write_text(prepared.run / "recipe.yaml", to_yaml(prepared.kept))
    keep_skipped(prepared.run, prepared.dataset)
    return resuming, normalisation


def check_same(prepared: PreparedRun) -> None:
    """Refuses ranks that would train something else than the first one.

    Raises:
        ArtifactError: With the first that would.
    """
    ranks = prepared.runtime.ranks
    keys = ranks.values((prepared.key + prepared.start, socket.gethostname()))
    for number, (key, host) in enumerate(keys):
        if key != keys[0][0]:
            raise ArtifactError(
                f"rank {number} on {host} reads other images, teachers, weights or options than rank 0",
                hint="Give every machine the same files, command and version of distill",
            )


@contextmanager
def stopping(recipe: TrainRecipe, whole: Whole, out: Path) -> Iterator[Pauses]:
    """What may stop a run, or several, before the end: a signal, the time, a step that outlasts the grace.

    Args:
        recipe: The run's.
        whole: The command.
        out: The run's folder, or that of several.
    """
    again = whole.again or f"Go on with --resume --out {whole.out or out}"
    overdue = (
        f"stopped at once: the step under way was not over within --grace {recipe.grace}; what was "
        f"saved before is intact. {again}"
    )
    with stop_signals(recipe.grace.seconds, partial(whole.leave, overdue)) as request:
        yield Pauses(
            signal=lambda: request.signal_number,
            checkpoint_every=recipe.checkpoint_every.seconds,
            limit=whole.limit,
            resumed_at=whole.out,
        )
