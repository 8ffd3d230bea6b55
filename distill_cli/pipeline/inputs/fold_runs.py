"""The runs that `--cross-fit` trains: a run's recipe, each time without a fold of its images. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.cache.folder import is_cache
from distill_cli.cache.manifest import read_plan
from distill_cli.data.label_files import read_probabilities
from distill_cli.errors import UsageError, counted
from distill_cli.files import real_path
from distill_cli.pipeline.entries import CALIBRATED
from distill_cli.pipeline.inputs.teacher_folders import OWN, TIMM, expand_teachers
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.base import LabelledRecipe, Recipe
from distill_cli.recipe.load import OF_A_COMMAND, validate
from distill_cli.recipe.schema import RECIPES, CacheRecipe
from distill_cli.report.rounds import ROUNDS
from distill_cli.types import STAGES

# The keys of a dump that its trainings share, where they are given.
SHARED = ("data", "threads", "workers", "max_megapixels")
# The lists of a recipe that a round of self-training may have made.
OF_ROUNDS = ("relabel", "unlabelled_list")
WAY_ON = "Leave --cross-fit out, or name a run of `distill teacher train`"


def fold_folder(cache: Path, number: int) -> Path:
    """The folder of the run without a fold, which is counted from 1."""
    return cache / STAGES / f"fold-{number}"


def fold_folders(cache: Path, count: int) -> list[Path]:
    """The folders of all of them."""
    return [fold_folder(cache, number) for number in range(1, count + 1)]


def check_cross_fit(recipe: CacheRecipe) -> None:
    """Refuses what cannot be cross-fitted, whatever the data are.

    Raises:
        UsageError: With the reason.
    """
    if recipe.cross_fit is None:
        return
    names = expand_teachers(recipe.teachers or [])
    if len(names) != 1:
        raise UsageError(
            f"--cross-fit trains one run's recipe anew, and these are {counted(len(names), 'teacher')}",
            hint="Dump each into a cache of its own; a student learns from several",
        )
    if recipe.part is not None:
        raise UsageError(
            "--cross-fit and --part: each part would train all of the networks",
            hint="Leave --part out; --ranks has several processes share the trainings and the labels",
        )
    _kept_of(names[0])


def fold_recipes(recipe: CacheRecipe, out: Path) -> list[LabelledRecipe]:
    """The recipes of the runs, each with its folder in the cache.

    Args:
        recipe: The dump's, whose one teacher is a run.
        out: The cache.

    Raises:
        UsageError: The teacher is no run, or none whose recipe can be trained anew.
    """
    name, count = expand_teachers(recipe.teachers or [])[0], recipe.cross_fit
    assert count is not None, "asked before"
    kept = _kept_of(name)
    schema = RECIPES[str(kept["command"])]
    values = {key: value for key, value in kept.items() if key not in OF_A_COMMAND}
    values |= {key: given for key in SHARED if (given := getattr(recipe, key)) is not None}
    if recipe.unlabelled is not None and _is_elsewhere(kept, fold_folders(out, count)):
        values["unlabelled"] = recipe.unlabelled
    values |= {"device": recipe.device, "deterministic": recipe.deterministic}
    values |= {"force": recipe.force} if "force" in schema.model_fields else {}
    made = []
    for number, folder in enumerate(fold_folders(out, count), start=1):
        one = validate(schema, {**values, "fold": f"{number}/{count}", "out": str(folder)})
        assert isinstance(one, LabelledRecipe), "checked before"
        made.append(one)
    return made


def _kept_of(name: str) -> Mapping[str, Any]:
    """The recipe.yaml of a run that can be trained anew.

    Raises:
        UsageError: There is none, or it cannot.
    """
    if is_cache(Path(name)):
        raise UsageError(
            f"--cross-fit trains a run's recipe anew, and {name} is a cache", hint=WAY_ON
        )
    if name.startswith(TIMM) and not Path(name).exists():
        raise UsageError(
            f"--cross-fit trains a run's recipe anew, and {name} is a network without one",
            hint="Fine-tune it first: distill teacher train --pretrained --model "
            f"{name.removeprefix(TIMM)}",
        )
    kept = {} if Path(name).name == CALIBRATED else kept_recipe(Path(name))
    schema: type[Recipe] | None = RECIPES.get(str(kept.get("command")))
    if schema is None or not issubclass(schema, LabelledRecipe) or not kept.get("recorded"):
        raise UsageError(
            f"--cross-fit trains a run's recipe anew, and {name} has no recipe of a training",
            hint=WAY_ON,
        )
    if kept.get("fold") is not None:
        raise UsageError(
            f"{name} is itself a run without a fold ({kept['fold']})",
            hint="Name the run that was cross-fitted",
        )
    if _learnt_rounds(Path(name), kept):
        raise UsageError(
            f"{name} learnt labels that a network made which has seen all of its training images: no fold of "
            "them would be new to it",
            hint=WAY_ON,
        )
    for source in _sources(kept):
        if _has_seen(source, kept):
            raise UsageError(
                f"{name} learnt from {source}, which has seen all of its training images: no fold of them "
                "would be new to it",
                hint=WAY_ON,
            )
    return kept


def _is_elsewhere(kept: Mapping[str, Any], begun: Sequence[Path]) -> bool:
    """Whether `--unlabelled` of a dump says where images are that the trainings learn from beside their data.

    Those of a run that learnt from none are trained without them, and they are labelled all the same; those of
    a run whose images are in their place learn from these. Trainings that an earlier version began with them go
    on with them.
    """
    own = kept.get("unlabelled")
    if own is not None:
        return not Path(str(own)).exists()
    return any(recipe.get("unlabelled") for recipe in map(kept_recipe, begun))


def _learnt_rounds(run: Path, kept: Mapping[str, Any]) -> bool:
    """Whether a run is a round of self-training after the first, or learnt from the list of one."""
    lists = [Path(str(kept[key])) for key in OF_ROUNDS if kept.get(key)]
    # RUN/model is as much as RUN.
    return any((folder / ROUNDS).is_file() for folder in (run, run.parent)) or any(
        path.is_file() and read_probabilities(path) for path in lists
    )


def _sources(kept: Mapping[str, Any]) -> list[str]:
    """The folders that a run learnt from: teachers, weights to start from, related runs."""
    listed, objectives = kept.get("teachers") or [], kept.get("objective") or []
    named = [listed] if isinstance(listed, str) else list(listed)
    models = [entry.get("model") for entry in objectives if isinstance(entry, dict)]
    every = [*named, kept.get("init"), *models]
    return [str(name) for name in every if name and name not in OWN]


def _has_seen(source: str, kept: Mapping[str, Any]) -> bool:
    """Whether a source was made of the images that a run was trained on; not, where nobody knows."""
    path = Path(source)
    if not path.exists():
        return False
    if is_cache(path):
        fingerprint: Any = read_plan(path).dataset.fingerprint
        data: Any = None
    else:
        recipe = kept_recipe(path)
        fingerprint = ((recipe.get("recorded") or {}).get("dataset") or {}).get("fingerprint")
        data = recipe.get("data")
    own = (kept["recorded"].get("dataset") or {}).get("fingerprint")
    same = data is not None and real_path(str(data)) == real_path(str(kept.get("data")))
    return same or (fingerprint is not None and fingerprint == own)
