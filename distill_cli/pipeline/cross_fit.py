"""Trains a run's recipe anew without each fold of its images, for a cache that is cross-fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, StoppedError
from distill_cli.files import one_writer
from distill_cli.pipeline.folders import check_cache_folders, clear_cache, has_checkpoint, next_free
from distill_cli.pipeline.inputs.artifacts import DRY
from distill_cli.pipeline.inputs.data import OpenedOnce
from distill_cli.pipeline.inputs.fold_runs import fold_recipes
from distill_cli.pipeline.inputs.label_rules import beside_then
from distill_cli.pipeline.inputs.shared_folder import check_shared
from distill_cli.pipeline.inputs.teacher_folders import expand_teachers
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.pipeline.labels.estimate import Estimate, estimate
from distill_cli.pipeline.labels.prepare import prepare_dump, runtime_of
from distill_cli.pipeline.run.dry_run import rehearse
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.requirements import unmet_by_folds
from distill_cli.pipeline.run.resume import check_begun
from distill_cli.pipeline.run.stages import run, tidied
from distill_cli.pipeline.run.train import Whole, leave
from distill_cli.readers.json_values import read_json
from distill_cli.recipe.base import LabelledRecipe
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.report.run_folder import RESULT
from distill_cli.training.events import Silent, Sink
from distill_cli.types import STAGES

Shown = Callable[[str], AbstractContextManager[Sink]]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The networks of a cross-fitted cache, all of them trained.

    Attributes:
        recipe: The dump's recipe, with its folder.
        unmet: Requirements of the teacher's recipe that a run did not meet, in words.
    """

    recipe: CacheRecipe
    unmet: tuple[str, ...]


def train_folds(
    recipe: CacheRecipe,
    *,
    shown: Shown,
    overwrite: bool = False,
    leave: Callable[[str, int], object] = leave,
) -> Trained:
    """Trains the runs without a fold that are not finished; each is an ordinary run in the cache's `stages`.

    All of the dump is checked first, but for what only its networks can show.

    Args:
        recipe: The dump's, cross-fitted.
        shown: The sink of a run, by what is under way.
        overwrite: Replace the cache and the runs that are there, instead of going on.
        leave: Ends the process with a line and an exit code where a step outlasts the grace.

    Raises:
        DistillError: With the exit code of what went wrong.
    """
    ranks, asked = runtime_of(recipe).ranks, recipe
    opening = OpenedOnce()

    def checked() -> tuple[CacheRecipe, list[LabelledRecipe]]:
        out = Path(asked.out) if asked.out else next_free("cache")
        named = asked.model_copy(update={"out": str(out)})
        check_cache_folders(out, [out], trains=True)
        recipes = fold_recipes(named, out)
        prepare_dump(named, sink=Silent(), overwrite=overwrite, runs=DRY)
        if overwrite and out.exists():
            # The first run is refused, if it must be, while the earlier cache is still there.
            prepare(recipes[0], sink=Silent(), overwrite=True, opening=opening)
        return named, recipes

    def kept() -> None:
        if recipes[0].unlabelled is not None:
            _check_beside(recipe, opening(recipes[0], Silent()))
        for one in recipes:
            if has_checkpoint(Path(str(one.out))):
                check_begun(prepare(one, sink=Silent(), resume=True, opening=opening))

    recipe, recipes = ranks.together(checked)
    out = Path(str(recipe.out))
    again = f"The same command with --out {out} goes on from here"
    whole = Whole(leave=leave, out=out, again=again)
    with tidied(out), one_writer(out / STAGES, root=out):
        check_shared(ranks, out / STAGES, "in which the networks are trained that label")
        if overwrite:
            ranks.led(lambda: _clear(out))
        # On every rank: a teacher may lie in parts on them.
        ranks.together(kept)
        done = ranks.led(lambda: [(Path(str(one.out)) / RESULT).is_file() for one in recipes])
        for number, one in enumerate(recipes, start=1):
            label = f"fold {number} of {len(recipes)}"
            with shown(label) as sink:
                if done[number - 1]:
                    sink.message(f"{label}: done before")
                    continue
                sink.message(label)
                try:
                    run(one, sink=sink, resume=True, whole=whole, opening=opening)
                except StoppedError as error:
                    number_of = error.signal_number
                    raise StoppedError(
                        f"{label}: {error.message}", signal_number=number_of, hint=again
                    ) from None
        return Trained(recipe=recipe, unmet=ranks.led(lambda: _unmet(recipes)))


def _check_beside(recipe: CacheRecipe, dataset: Dataset) -> None:
    """Refuses to train the networks beside other images than the run had: its lists are of those alone.

    Raises:
        ArtifactError: They are others.
    """
    name = expand_teachers(recipe.teachers or [])[0]
    then = beside_then(kept_recipe(Path(name)))
    if then and dataset.identity.beside != then:
        raise ArtifactError(
            f"{name} was trained beside other images than {dataset.unlabelled} has",
            hint="Give --unlabelled those that it had, wherever they are now",
        )


def _clear(out: Path) -> None:
    """Removes an earlier cache and its runs, but for the lock of those, which is held."""
    with one_writer(out):
        clear_cache(out, trains=True)


def _unmet(recipes: Sequence[LabelledRecipe]) -> tuple[str, ...]:
    """The gates of the recipe that a run does not meet."""
    figures = [read_json(Path(str(one.out)) / RESULT) for one in recipes]
    return unmet_by_folds(recipes[0].require, figures)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a cross-fitted cache.

    Attributes:
        labels: The cost of the labels.
        runs: Number of trainings that are still to come.
        seconds: Time of one of them, as long as the others; 0 where none is.
    """

    labels: Estimate
    runs: int
    seconds: float


def rehearse_cross_fit(recipe: CacheRecipe, *, sink: Sink, overwrite: bool) -> Cost:
    """Opens and checks what a cross-fitted dump would, and measures; nothing is written.

    Args:
        recipe: The dump's.
        sink: Shows messages.
        overwrite: As for the dump.

    Raises:
        DistillError: As the dump would, where that can be known beforehand.
    """
    out = Path(recipe.out) if recipe.out else next_free("cache")
    check_cache_folders(out, [out], trains=True)
    recipes = fold_recipes(recipe, out)
    prepared = prepare_dump(recipe, sink=sink, overwrite=overwrite, runs=DRY)
    left = [one for one in recipes if overwrite or not (Path(str(one.out)) / RESULT).is_file()]
    seconds = 0.0
    if left:
        how = {"resume": not overwrite, "overwrite": overwrite}
        seconds = sum(one.seconds for one in rehearse(left[0], sink=Silent(), **how))
    labels = estimate(prepared, overwrite=overwrite)
    return Cost(labels=labels, runs=len(left), seconds=seconds)
