"""One training run, from its recipe to result.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill_cli import runtime
from distill_cli.errors import StoppedError
from distill_cli.files import one_writer, remove_temporaries, write_text
from distill_cli.pipeline.folders import (
    check_output,
    clear_run,
)
from distill_cli.pipeline.inputs.cache_checks import check_pixels
from distill_cli.pipeline.run.class_relations import keep_relations
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.requirements import unmet
from distill_cli.pipeline.run.results import finish, finish_hints, say_told
from distill_cli.pipeline.run.resume import take_over
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.load import to_yaml
from distill_cli.training.events import Sink
from distill_cli.types import HintResult, RunResult


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a training verb hands back.

    Attributes:
        run: The run folder.
        recipe: With every value resolved.
        result: Its figures.
        unmet: Requirements that were not met, in words.
    """

    run: Path
    recipe: TrainRecipe
    result: RunResult | HintResult
    unmet: tuple[str, ...] = ()


def train(
    recipe: TrainRecipe, *, sink: Sink, resume: bool = False, overwrite: bool = False
) -> Finished:
    """Trains what the recipe says, evaluates its best epoch on test once, and keeps the figures.

    Args:
        recipe: A teacher's or a student's.
        sink: Shows progress.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run that is in the folder.

    Raises:
        DistillError: With the exit code of what went wrong; see `interface.md`'s table.
    """
    plan = prepare(recipe, sink=sink, resume=resume, overwrite=overwrite)
    trainer = trainer_of(plan, sink)
    check_pixels(plan.members, trainer.loader.views)
    with one_writer(plan.run):
        # Again: another process may have finished here while the data were read.
        check_output(plan.run, resume=resume, overwrite=overwrite)
        if overwrite:
            clear_run(plan.run)
        remove_temporaries(plan.run)
        resuming = resume and (plan.run / "last").exists()
        if resuming:
            take_over(plan)
        write_text(plan.run / "recipe.yaml", to_yaml(plan.recipe))
        with runtime.stop_signals() as request:
            trainer.stop = lambda: request.signal_number
            with runtime.fast_kernels(plan.runtime):
                state = trainer.fit(resume=resuming)
        if (number := request.signal_number) is not None:
            raise StoppedError(
                "stopped after the last epoch",
                signal_number=number,
                hint=f"Go on with --resume --out {plan.run}",
            )
        say_told(plan.layers.adapters, plan.network.class_names, sink)
        keep_relations(plan.run, plan.layers.adapters, plan.network.class_names)
        if not isinstance(plan.recipe, LabelledRecipe):
            hints = finish_hints(plan.recipe, plan.network, plan.layers.adapters, state)
            return Finished(run=plan.run, recipe=plan.recipe, result=hints)
        result = finish(
            plan.recipe, plan.dataset, plan.members, state, here=plan.runtime, sink=sink
        )
        missed = unmet(plan.recipe.require, result)
    return Finished(run=plan.run, recipe=plan.recipe, result=result, unmet=missed)
