"""One training run, from its recipe to result.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill_cli.errors import StoppedError
from distill_cli.files import one_writer, remove_temporaries, write_text
from distill_cli.pipeline.folders import check_output, clear_run
from distill_cli.pipeline.inputs.cache_checks import check_pixels
from distill_cli.pipeline.inputs.data import OpenData, open_data
from distill_cli.pipeline.run.class_relations import keep_relations
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.requirements import unmet
from distill_cli.pipeline.run.results import finish, finish_hints, say_told
from distill_cli.pipeline.run.resume import take_over
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.resolved import ResolvedRecipe
from distill_cli.runtime import fast_kernels, stop_signals
from distill_cli.training.events import Sink
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


def train(
    recipe: TrainRecipe,
    *,
    sink: Sink,
    resume: bool = False,
    overwrite: bool = False,
    opening: OpenData = open_data,
) -> Finished:
    """Trains what the recipe says, evaluates its best epoch on test once, and keeps the figures.

    Args:
        recipe: A teacher's or a student's.
        sink: Shows progress.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run that is in the folder.
        opening: Opens its data.

    Raises:
        DistillError: With the exit code of what went wrong; the table under “In scripts” in README.md.
    """
    prepared = prepare(recipe, sink=sink, resume=resume, overwrite=overwrite, opening=opening)
    trainer = trainer_of(prepared, sink)
    check_pixels(prepared.members, trainer.loader.views)
    with one_writer(prepared.run):
        # Again: another process may have finished here while the data were read.
        check_output(prepared.run, resume=resume, overwrite=overwrite)
        if overwrite:
            clear_run(prepared.run)
        remove_temporaries(prepared.run)
        resuming = resume and (prepared.run / "last").exists()
        if resuming:
            take_over(prepared)
        write_text(prepared.run / "recipe.yaml", to_yaml(prepared.kept))
        with stop_signals() as request:
            trainer.stop = lambda: request.signal_number
            with fast_kernels(prepared.runtime):
                state = trainer.fit(resume=resuming)
        if (number := request.signal_number) is not None:
            raise StoppedError(
                "stopped after the last epoch",
                signal_number=number,
                hint=f"Go on with --resume --out {prepared.run}",
            )
        say_told(prepared.layers.adapters, prepared.network.class_names, sink)
        keep_relations(prepared.run, prepared.layers.adapters, prepared.network.class_names)
        if not isinstance(prepared.recipe, LabelledRecipe):
            hints = finish_hints(prepared, state)
            return Finished(run=prepared.run, recipe=prepared.recipe, result=hints)
        result = finish(prepared, state, sink)
        missed = unmet(prepared.recipe.require, result)
    return Finished(run=prepared.run, recipe=prepared.recipe, result=result, unmet=missed)
