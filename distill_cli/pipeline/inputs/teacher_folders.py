"""The folders that a recipe learns from: found by name, and asked what they were trained on. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from distill_cli.cache.folder import expand, is_cache
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import real_path
from distill_cli.pipeline.entries import check_not_gone
from distill_cli.pipeline.folders import finished_seeds, has_model, holds_run
from distill_cli.pipeline.inputs.data_rules import is_earlier, kept_rules
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.pipeline.inputs.framing import as_shown
from distill_cli.pipeline.inputs.located import locate
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.base import VAL_FRACTION, Recipe, TrainRecipe
from distill_cli.recipe.peer_options import is_peer
from distill_cli.recipe.schema import CacheRecipe

TIMM = "timm/"
# The student as its own teacher, and its moving average; a folder of such a name is ./self.
OWN = ("self", "ema")
R = TypeVar("R", bound=Recipe)


def moves(name: str) -> bool:
    """Whether a teacher learns while it teaches: the student, its average, or a network beside it."""
    return name in OWN or is_peer(name)


def check_teachers(names: Sequence[str] | None) -> None:
    """Refuses a student without teachers, and says how to get one."""
    if not names:
        raise UsageError(
            "a student needs teachers: --teachers RUN[,RUN…]",
            hint="Train one with `distill teacher train --data digits`",
        )


def expand_teachers(
    names: Sequence[str],
    *,
    coming: Callable[[str], bool] = lambda name: False,
    own: bool = False,
) -> list[str]:
    """Teachers by folder; one of several caches, or of the runs of several seeds, becomes these.

    Args:
        names: Folders, or timm/NAME; `self` and `ema`, which are the student, stay as they are.
        coming: Whether a folder is a run that an earlier stage would make.
        own: Whether there is a student that may be meant by these.

    Raises:
        UsageError: A teacher is not there, or is no run, model or cache folder.
        ArtifactError: The runs of several seeds are not all finished.
    """
    expanded: list[str] = []
    for name in names:
        path = Path(name)
        if is_peer(name) and not own:
            raise UsageError(
                f"teacher {name} is trained along with a student: nothing else can ask it",
                hint=f"`distill student --teachers {name}` does; its model is then peers/NAME/model",
            )
        if name in OWN and not own:
            raise UsageError(
                f"teacher {name} is a student while it learns: nothing else can ask it",
                hint=f"`distill student --teachers {name}` does; a folder of that name is ./{name}",
            )
        if moves(name) or coming(name) or (name.startswith(TIMM) and not path.exists()):
            expanded.append(name)
        elif not path.exists():
            raise UsageError(
                f"teacher '{name}' does not exist",
                hint="Give a run, model or cache folder, or timm/NAME",
            )
        elif caches := expand(path):
            expanded.extend(str(cache) for cache in caches)
        elif has_model(path):
            check_not_gone(path)
            expanded.append(name)
        elif (table := finished_seeds(path)) is not None:
            if table.diverged:
                finished = ",".join(map(str, table.folders(path)))
                raise ArtifactError(
                    f"teacher '{name}': {table.divergence}",
                    hint=f"Name the runs that are to teach: {finished}" if finished else None,
                )
            expanded.extend(str(run) for run in table.folders(path))
        elif holds_run(path):
            check_not_gone(path)
            raise UsageError(
                f"teacher '{name}' is a run without a model yet", hint="Finish it with --resume"
            )
        else:
            refuse_file(path, "teacher")
            raise UsageError(f"teacher '{name}' is no run, model or cache folder")
    return expanded


# The way out where a teacher is named twice.
WEIGHED = "Name it once; --teacher-weights of `distill student` weighs teachers"


def check_distinct(names: Sequence[str], kind: str = "teachers", hint: str = WEIGHED) -> None:
    """Refuses a teacher that is named twice, as by a link, by a run and by the model in it.

    Args:
        names: Folders that are there, or timm/NAME; as `expand_teachers` returns them.
        kind: The noun for them.
        hint: The way out.

    Raises:
        UsageError: Two of them are one.
    """
    known: dict[Path | str, str] = {}
    for name in names:
        network = network_at(name)
        if network in known:
            raise UsageError(
                f"{kind} '{known[network]}' and '{name}' are one and the same", hint=hint
            )
        known[network] = name


def network_at(name: str) -> Path | str:
    """The folder of a teacher's network or labels, by which it is known whatever it is called."""
    path, model = Path(name), Path(name) / "model"
    return real_path(model if model.is_dir() else path) if path.exists() else name


def with_data(
    recipe: R,
    teachers: Sequence[str],
    kept: Callable[[str], Mapping[str, Any]] = lambda name: kept_recipe(Path(name)),
    *,
    start: str | None = None,
) -> R:
    """The recipe with its data options filled in: by what its teachers were trained on, or by default.

    Where neither it nor they name data, those of the run whose weights it starts from are meant.

    Args:
        recipe: The recipe of any verb.
        teachers: The folders of its teachers; none where it asks none.
        kept: The recipe of a folder.
        start: The folder whose weights it starts from: it has seen the split that its data had.

    Raises:
        ArtifactError: The teachers do not agree.
    """
    update: dict[str, Any] = {}
    if recipe.val_fraction is None:
        update["val_fraction"] = VAL_FRACTION
    if recipe.data is None and start and not any(kept(name).get("data") for name in teachers):
        teachers = [*teachers, start]
    for key in ("data", "split_seed", "val_fraction", "size", "skip_bad"):
        if getattr(recipe, key) is not None and getattr(recipe, key) is not False:
            continue
        value = _agreed(key, {name: kept(name).get(key) for name in teachers})
        if value is not None:
            update[key] = value
    adopts = isinstance(recipe, TrainRecipe | CacheRecipe) and recipe.unlabelled is None
    if adopts and not getattr(recipe, "transductive", False):
        # The rows of a cache are those of the run; a network may teach on any images.
        caches = [name for name in teachers if is_cache(Path(name))]
        update["unlabelled"] = _agreed("unlabelled", {n: kept(n).get("unlabelled") for n in caches})
    if recipe.max_megapixels is None:
        limits = [kept(name).get("max_megapixels") for name in teachers]
        update["max_megapixels"] = max((n for n in limits if type(n) is int), default=None)
    update = {**_rules(recipe, teachers, kept, start), **update}
    return as_shown(recipe.model_copy(update=update), teachers, kept)


def _agreed(key: str, kept_values: Mapping[str, Any]) -> Any:
    """The value that all teachers have of those that have one; None where none has.

    Raises:
        ArtifactError: They differ, or one is malformed.
    """
    values = {name: value for name, value in kept_values.items() if value is not None}
    for name, value in values.items():
        if not isinstance(value, str | int | float):
            raise ArtifactError(f"{name}/recipe.yaml: {key} should not be {value!r:.40}")
    if len(set(values.values())) > 1:
        listed = ", ".join(f"{name}: {value}" for name, value in values.items())
        raise ArtifactError(
            f"the teachers were made with different {key} ({listed})",
            hint=f"Say which with --{key.replace('_', '-')}",
        )
    return next(iter(values.values()), None)


def _rules(
    recipe: Recipe,
    teachers: Sequence[str],
    kept: Callable[[str], Mapping[str, Any]],
    start: str | None,
) -> dict[str, Any]:
    """The rules by which the data of the teachers were read, as far as the recipe leaves them open.

    Where they differ, the earliest: whether the splits of the others agree is checked of the images.
    Weights that are only started from decide where they saw the same data.
    """
    if is_earlier(recipe):
        return {}
    rules = {name: kept_rules(kept(name)) for name in teachers}
    if start and (recipe.data is None or locate(recipe.data) == kept(start).get("data")):
        rules[start] = kept_rules(kept(start))
    known = sorted((value for value in rules.values() if value), key=lambda v: v["data_rules"])
    update: dict[str, Any] = {}
    for key in ("data_rules", "split_by", "dedupe"):
        values = [value[key] for value in known if key in value]
        if values and getattr(recipe, key) in (None, False):
            update[key] = values[0]
    if "data_rules" in update and update["data_rules"] != known[-1]["data_rules"]:
        update.pop("split_by", None)
    # The views of a cache are as they are; those of other data than a run's are the data's.
    asked = [name for name in teachers if recipe.data is None or is_cache(Path(name))]
    if recipe.channels is None and asked:
        channels = _agreed("channels", {name: rules[name].get("channels") for name in asked})
        update["channels"] = channels
    if recipe.channels is None and start and update.get("channels") is None:
        # No other views fit its weights.
        update["channels"] = kept_rules(kept(start)).get("channels")
    return update


def are_caches(teachers: Sequence[str]) -> list[bool]:
    """Whether each of the teachers is a cache."""
    return [is_cache(Path(name)) for name in teachers]
