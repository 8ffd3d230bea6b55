"""Runs what a recipe means: one training, or several after each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill_cli import __version__
from distill_cli.errors import ArtifactError, DistillError, UsageError
from distill_cli.files import LOCK, one_writer, real_path, remove, write_text
from distill_cli.pipeline.folders import (
    check_output,
    clear_run,
    has_checkpoint,
    holds_run,
    next_free,
)
from distill_cli.pipeline.inputs.artifacts import ON_DISK, Artifacts
from distill_cli.pipeline.inputs.data import OpenData, open_data
from distill_cli.pipeline.inputs.shared_folder import check_shared
from distill_cli.pipeline.objective.sources import learnt_from
from distill_cli.pipeline.run.machine import runtime_of
from distill_cli.pipeline.run.options import check_options
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.prepared import KINDS, NOT_TRAINING
from distill_cli.pipeline.run.recipe_diff import changes, way_on
from distill_cli.pipeline.run.resume import as_made, begun_by, check_begun
from distill_cli.pipeline.run.rounds import open_to_choice, rounds_for
from distill_cli.pipeline.run.train import Finished, Whole, leave, train
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.load import read_yaml, to_yaml, validate
from distill_cli.recipe.recorded import asked_of, made_by
from distill_cli.recipe.stage import Stage
from distill_cli.recipe.stages import RECIPE, check_generations, is_several, stages_of
from distill_cli.training.events import Silent, Sink
from distill_cli.training.pauses import TimeLimit
from distill_cli.types import STAGES


def run(
    recipe: TrainRecipe,
    *,
    sink: Sink,
    resume: bool = False,
    overwrite: bool = False,
    leave: Callable[[str, int], object] = leave,
    opening: OpenData = open_data,
    whole: Whole | None = None,
) -> Finished:
    """Trains what the recipe says; of several stages, those that are finished are not run again.

    Args:
        recipe: The recipe of any training verb.
        sink: Shows progress.
        resume: Go on where the folder's run, or its stages, stopped.
        overwrite: Replace what is in the folder.
        leave: Ends the process with a line and an exit code where a step outlasts the grace.
        opening: Opens the data.
        whole: The command that it is a run of, as one of several seeds; by default one of its own.

    Raises:
        DistillError: With the exit code of what went wrong.
    """
    whole = whole or Whole(limit=TimeLimit.of(recipe.max_time), leave=leave)
    if not is_several(recipe):
        return train(
            recipe, sink=sink, resume=resume, overwrite=overwrite, whole=whole, opening=opening
        )
    ranks, asked = runtime_of(recipe).ranks, recipe

    def checked() -> tuple[TrainRecipe, list[Stage]]:
        whole_recipe, stages = staged(asked, resume=resume, overwrite=overwrite)
        if overwrite and stages[-1].out.exists():
            # The first stage is refused, if it must be, while the earlier run is still there.
            _check_first(whole_recipe, stages, Silent(), opening)
        return whole_recipe, stages

    recipe, stages = ranks.together(checked)
    out = stages[-1].out
    rounds = rounds_for(recipe, stages, opening)
    if rounds is not None:
        rounds.check(sink)
    whole = replace(whole, out=whole.out or out)

    def kept() -> None:
        check_kept(recipe, out / RECIPE)
        _check_begun(stages, Silent(), opening)

    with tidied(out), one_writer(out / STAGES, root=out):
        check_shared(ranks, out / STAGES, "from which each stage learns of those before it")
        if overwrite:
            ranks.led(lambda: _clear(out))
        # On every rank: a teacher may lie in parts on them.
        ranks.together(kept)
        ranks.led(lambda: write_text(out / RECIPE, to_yaml(recipe)))
        done = ranks.led(lambda: [(stage.out / "result.json").is_file() for stage in stages])
        finished = None
        for number, stage in enumerate(stages, start=1):
            label = f"stage {number} of {len(stages)}, {stage.name}"
            if number < len(stages) and done[number - 1]:
                sink.message(f"{label}: done before")
                continue
            sink.message(label)
            if number > 1 and whole.limit is not None:
                whole.limit.check(f"before {label}", whole.out or out)
            if rounds is not None:
                rounds.label(number, sink)
            # A stage that was stopped goes on; one that was not begun begins.
            finished = train(like(stage), sink=sink, resume=True, whole=whole, opening=opening)
        assert finished is not None, "the last stage is always run"
        if rounds is not None:
            rounds.finish()
    return finished


def check_before(recipe: TrainRecipe, *, sink: Sink, resume: bool, opening: OpenData) -> None:
    """Checks a run before anything is changed: what it goes on from, or what it would replace.

    Args:
        recipe: With its folder.
        sink: Shows progress.
        resume: Go on with what is in the folder; else replace it.
        opening: Opens the data.

    Raises:
        DistillError: It was made from something else, or the run cannot begin.
    """
    stages = [Stage(name="", recipe=recipe)]
    if is_several(recipe):
        _, stages = staged(recipe, resume=resume, overwrite=not resume)
    if resume:
        _check_begun(stages, sink, opening)
    else:
        _check_first(recipe, stages, sink, opening)


def _check_first(
    recipe: TrainRecipe, stages: Sequence[Stage], sink: Sink, opening: OpenData
) -> None:
    """Before an earlier run is replaced: whatever can be known of the first stage, and of data for later ones."""
    prepare(stages[0].recipe, sink=sink, overwrite=True, opening=opening)
    if (rounds := rounds_for(recipe, stages, opening)) is not None:
        rounds.check(Silent())


def _check_begun(stages: Sequence[Stage], sink: Sink, opening: OpenData) -> None:
    """Before anything is changed, and of finished ones too: others may learn from them."""
    for stage in stages:
        if has_checkpoint(stage.out):
            check_begun(prepare(like(stage), sink=sink, resume=True, opening=opening))


def staged(
    recipe: TrainRecipe, *, resume: bool, overwrite: bool
) -> tuple[TrainRecipe, list[Stage]]:
    """A recipe of several stages with its folder, and the stages, each checked by itself.

    Raises:
        UsageError: A folder is in the way, or a stage makes no sense whatever the data are.
    """
    assert isinstance(recipe, LabelledRecipe), "a hint-init is one run"
    out = Path(recipe.out) if recipe.out else next_free(KINDS[type(recipe)])
    recipe = recipe.model_copy(update={"out": str(out)})
    check_output(out, resume=resume, overwrite=overwrite)
    if resume and not (out / RECIPE).is_file() and holds_run(out, but=STAGES):
        raise UsageError(
            f"{out} holds one run, and this recipe means several", hint="Choose another --out"
        )
    stages = stages_of(recipe, out)
    begun = _begun_by(stages, out) if resume else None
    version = begun or made_by(recipe.recorded) or __version__
    check_generations(recipe, version)
    # Stages that are not begun have the defaults of those that are.
    stages = [replace(stage, recipe=as_made(stage.recipe, version)) for stage in stages]
    recorded = {"defaults": version, "asked": asked_of(recipe)}
    recipe = as_made(recipe, version).model_copy(update={"recorded": recorded})
    check_inside(out, [stage.recipe for stage in stages])
    for stage in stages:
        # Now, rather than after the stages before it.
        check_options(stage.recipe)
    return recipe, stages


def _begun_by(stages: Sequence[Stage], out: Path) -> str | None:
    """The version that began them; before 0.2.0 the recipe of all did not say."""
    return begun_by([out / RECIPE]) or begun_by([stage.out / "recipe.yaml" for stage in stages])


@contextmanager
def tidied(out: Path) -> Iterator[None]:
    """Leaves nothing behind where the first of several runs was refused before it began."""
    new, empty = not out.exists(), out.is_dir() and not any(out.iterdir())
    try:
        yield
    except DistillError:
        if (new or empty) and not any(out.rglob("recipe.yaml")):
            # No run was begun, and all that lies in the folder came into it here.
            for entry in [out] if new else list(out.iterdir()):
                with suppress(DistillError):
                    remove(entry)
        raise


def check_inside(out: Path, recipes: Sequence[TrainRecipe]) -> None:
    """Refuses to write over what is learnt from.

    Args:
        out: The folder of them all.
        recipes: Of one run after the other, each with its folder.

    Raises:
        UsageError: A teacher, or weights to start from, lie in the folder.
    """
    made: set[Path] = set()
    for recipe in recipes:
        for name in learnt_from(recipe):
            path = real_path(name)
            if path not in made and path.is_relative_to(real_path(out)):
                raise UsageError(
                    f"--out {out} holds {name}, which is learnt from", hint="Choose another --out"
                )
        made.add(real_path(str(recipe.out)))


def like(stage: Stage, runs: Artifacts = ON_DISK) -> TrainRecipe:
    """The stage's recipe, with the views of the run that it should be like."""
    if stage.like is None:
        return stage.recipe
    kept = runs.recipe(stage.like)
    asked = {key: getattr(stage.recipe, key) for key in ("augment", "view_seed")}
    update = {key: kept[key] for key, value in asked.items() if value is None}
    if stage.recipe.unlabelled is None:
        # Adopted from a cache, perhaps, which taught the run before.
        update["unlabelled"] = kept.get("unlabelled")
    return stage.recipe.model_copy(update=update)


def _clear(out: Path) -> None:
    """Removes an earlier run and its stages, but for the lock that is held."""
    for entry in (out / STAGES).iterdir():
        if entry.name != LOCK:
            remove(entry)
    clear_run(out, keep=STAGES)


def check_kept(recipe: TrainRecipe, path: Path) -> None:
    """Refuses to go on under another recipe than the one that the folder keeps in this file."""
    if path.is_file():
        # A key that an earlier version did not have was what it is by default.
        kept = {
            **validate(type(recipe), {}).model_dump(mode="json"),
            **read_yaml(path, ArtifactError),
        }
        # Each run of several seeds is compared by itself, and there may be more of them.
        apart = None if recipe.seeds is None else {"seed", "seeds"}
        then, now = _training(kept), _training(recipe.model_dump(mode="json", exclude=apart))
        free = open_to_choice(recipe, path.parent)
        now = {key: value for key, value in now.items() if key not in free}
        if changed := changes({key: then.get(key) for key in now}, now):
            out = path.parent if recipe.seeds is None else path.parent / "seed-N"
            raise ArtifactError(
                f"{path.parent} was started from another recipe: {', '.join(changed)}",
                hint=way_on(out, then, now, kept.get("teachers")),
            )


def _training(values: dict[str, Any]) -> dict[str, Any]:
    # Teachers are compared by content, when their student is prepared.
    return {key: value for key, value in values.items() if key not in NOT_TRAINING}
