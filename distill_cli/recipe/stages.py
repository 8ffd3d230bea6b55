"""Students after each other: a recipe with `stages`, `generations` or `hints` as plain recipes.

Every stage is an ordinary run in a folder of its own, so that each can be looked at, compared and
resumed like any other; the last one is the run that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_cli.errors import UsageError, nearest
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.earlier import peers_of_first_then
from distill_cli.recipe.peer_options import is_peer
from distill_cli.recipe.rounds import rounds_of
from distill_cli.recipe.schema import (
    RECIPES,
    HintRecipe,
    SelfTrainRecipe,
    StudentRecipe,
    TeacherRecipe,
)
from distill_cli.recipe.stage import NOT_OF_A_STAGE, SELF, Stage, given_of, made_of
from distill_cli.types import STAGES

# Inside the run's folder, beside the folder of earlier stages: the recipe of all.
RECIPE = "stages.yaml"
REFERENCE = "stage:"
# Which teachers there are, and how they are joined: of the first generation only.
OF_TEACHERS = (
    "teachers",
    "teacher_data",
    "mode",
    "teacher_weights",
    "random_per",
    "ensemble_of",
    "class_map",
    "teacher_precision",
    "self",
    "peer",
    "mutual",
)
# Romero et al. 2015, equation 2: CE + λ·CE(q_τ, p_τ), τ = 3, λ from 4 to 1. Ours has T² before it.
TAU = 3.0
LABEL_KEYS = ("temperature", "label_smoothing")


def is_several(recipe: TrainRecipe) -> bool:
    """Whether a recipe means more than one run."""
    if isinstance(recipe, SelfTrainRecipe):
        return True
    if isinstance(recipe, TeacherRecipe):
        return recipe.objective == SELF
    return isinstance(recipe, StudentRecipe) and bool(
        recipe.stages or recipe.hints or (recipe.generations or 1) > 1
    )


def stages_of(recipe: TrainRecipe, out: Path) -> list[Stage]:
    """The runs that a recipe means, in order; the last one's folder is `out`.

    Raises:
        UsageError: A stage is malformed, refers to a later one, or several ways are combined.
    """
    if isinstance(recipe, TeacherRecipe):
        return _copy_first(recipe, out)
    if isinstance(recipe, SelfTrainRecipe):
        return rounds_of(recipe, out)
    assert isinstance(recipe, StudentRecipe), "asked before"
    asked = [key for key in ("stages", "generations", "hints") if getattr(recipe, key)]
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} cannot be combined")
    for key in ("hint_epochs", "hint_layer", "guided_layer"):
        if getattr(recipe, key) is not None and asked and not recipe.hints:
            raise UsageError(f"{key} is of --hints")
    if recipe.hints:
        return _hints(recipe, out)
    if recipe.stages:
        return _listed(recipe, out)
    return _generations(recipe, out)


def check_generations(recipe: TrainRecipe, version: str) -> None:
    """Refuses networks that are trained along with generations, which would be there in the first alone.

    Args:
        recipe: The recipe of several runs.
        version: The distill whose defaults it has: one that had them so goes on.

    Raises:
        UsageError: With the network.
    """
    if not isinstance(recipe, StudentRecipe) or (recipe.generations or 1) < 2:
        return
    along = next(filter(is_peer, recipe.teachers or []), None)
    if along is not None and not peers_of_first_then(version):
        raise UsageError(
            f"--generations: each learns from the one before it alone, and {along} would be trained along "
            "with the first and with no other",
            hint="Train with it first, and give that run as --teachers; or list `stages` in a recipe",
        )


def fitnets(temperature: float = TAU, smoothing: float | None = None) -> list[dict[str, Any]]:
    """The objectives of FitNets' second stage.

    Args:
        temperature: τ.
        smoothing: ε of the hard label; None for none.
    """
    hard: dict[str, Any] = {"name": "ce"}
    if smoothing is not None:
        hard = {"name": "label-smoothing", "epsilon": smoothing}
    soft = {
        "name": "kd",
        "temperature": temperature,
        "weight": 4 / temperature**2,
        "weight_end": 1 / temperature**2,
        "schedule": "linear",
    }
    return [hard, soft]


def _copy_first(recipe: TeacherRecipe, out: Path) -> list[Stage]:
    """Teacher-free distillation: a copy is trained on hard labels, and teaches a fresh network."""
    given = given_of(recipe)
    views = recipe.seed if recipe.view_seed is None else recipe.view_seed
    # The copy has other weights: the network that is asked for starts as it would without it.
    copy = {**given, "out": str(out / STAGES / "copy"), "seed": recipe.seed + 1}
    copy |= {"objective": "ce", "view_seed": views}
    # Hard labels learn nothing from images without one; the student does.
    copy.pop("unlabelled", None)
    taught = {**given, "out": str(out), "teachers": [copy["out"]], "view_seed": views}
    taught["require"] = recipe.require
    return [
        Stage(name="copy", recipe=made_of(TeacherRecipe, copy)),
        Stage(name="student", recipe=made_of(StudentRecipe, taught)),
    ]


def _hints(recipe: StudentRecipe, out: Path) -> list[Stage]:
    """FitNets: the hints, then distillation with a weight that falls."""
    if len(recipe.teachers or []) > 1:
        raise UsageError(
            f"hints come from one teacher, these are {len(recipe.teachers or [])}",
            hint="Name one of them, or begin with `distill hint-init` and go on with --init",
        )
    if recipe.teacher_data is not None:
        raise UsageError(
            "--hints has its first stage learn from the teacher's layers on the student's images, and "
            "--teacher-data shows the teacher others",
            hint="Leave one of them out, or name an objective of layers",
        )
    own = [name for name in recipe.teachers or [] if name in ("self", "ema") or is_peer(name)]
    if own or recipe.teacher_augment is not None:
        said = f"teacher {own[0]}" if own else "--teacher-augment"
        raise UsageError(
            f"{said}: --hints has its first stage learn from the layers of a network that is trained, on the "
            "student's images",
            hint="Leave one of them out, or begin with `distill hint-init` and go on with --init",
        )
    given = given_of(recipe)
    first = {
        **given,
        "out": str(out / STAGES / "hints"),
        "epochs": recipe.hint_epochs or max(1, recipe.epochs // 3),
    }
    second = {
        key: value for key, value in given.items() if key not in ("hint_layer", "guided_layer")
    }
    second |= {
        "out": str(out),
        "init": first["out"],
        "pretrained": False,
        "require": recipe.require,
    }
    weighed = [recipe.alpha, recipe.alpha_end, recipe.schedule]
    if recipe.objective == "kd" and weighed == [None, None, None]:
        second = {key: value for key, value in second.items() if key not in LABEL_KEYS}
        second["objective"] = fitnets(recipe.temperature or TAU, recipe.label_smoothing)
    return [
        Stage(name="hints", recipe=made_of(HintRecipe, first)),
        Stage(name="student", recipe=made_of(StudentRecipe, second)),
    ]


def _generations(recipe: StudentRecipe, out: Path) -> list[Stage]:
    """Born-again networks (Furlanello et al. 2018, arXiv 1805.04770): each of fresh weights."""
    count = recipe.generations or 1
    given = given_of(recipe)
    stages: list[Stage] = []
    for number in range(1, count + 1):
        last = number == count
        values = {**given, "seed": recipe.seed + number - 1}
        values["out"] = str(out if last else out / STAGES / f"generation-{number}")
        if number > 1:
            values = {key: value for key, value in values.items() if key not in OF_TEACHERS}
            if values.get("teacher_augment") == ["cache"]:
                # Those of the first generation's cache; a later one's teacher sees what its student sees.
                del values["teacher_augment"]
            values["teachers"] = [str(stages[-1].out)]
        if last:
            values["require"] = recipe.require
        like = str(stages[-1].out) if stages else None
        made = made_of(StudentRecipe, values)
        stages.append(Stage(name=f"generation-{number}", recipe=made, like=like))
    return stages


def _listed(recipe: StudentRecipe, out: Path) -> list[Stage]:
    """The stages that a recipe lists: each is the recipe itself with some keys changed."""
    given = given_of(recipe)
    stages: list[Stage] = []
    for number, listed in enumerate(recipe.stages, start=1):
        entry = {str(key).replace("-", "_"): value for key, value in listed.items()}
        name = str(entry.pop("name", ""))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise UsageError(f"stage {number} needs a name of letters, digits and hyphens")
        if name in [stage.name for stage in stages]:
            raise UsageError(f"two stages are called '{name}'")
        command = str(entry.pop("command", StudentRecipe.COMMAND))
        kind = RECIPES.get(command)
        if kind is None or not issubclass(kind, TrainRecipe):
            trained = [verb for verb, cls in RECIPES.items() if issubclass(cls, TrainRecipe)]
            raise UsageError(f"stage {name}: command '{command}'? {nearest(command, trained)}")
        for key in entry:
            if key in NOT_OF_A_STAGE or key not in kind.model_fields:
                valid = [name for name in kind.model_fields if name not in NOT_OF_A_STAGE]
                raise UsageError(f"stage {name} has no key '{key}'. {nearest(key, valid)}")
        last = number == len(recipe.stages)
        values = {**given, **entry, "out": str(out if last else out / STAGES / name)}
        if last:
            values["require"] = recipe.require
        stages.append(Stage(name=name, recipe=_resolved(made_of(kind, values), name, stages)))
    return stages


def _resolved(recipe: TrainRecipe, name: str, earlier: Sequence[Stage]) -> TrainRecipe:
    """With `stage:NAME` as the folder of that stage."""
    folders = {stage.name: str(stage.out) for stage in earlier}

    def folder(name: str) -> str:
        if not name.startswith(REFERENCE):
            return name
        wanted = name.removeprefix(REFERENCE)
        if wanted not in folders:
            raise UsageError(
                f"stage {name}: there is no earlier stage '{wanted}'. {nearest(wanted, folders)}"
            )
        return folders[wanted]

    update: dict[str, Any] = {}
    if recipe.init is not None:
        update["init"] = folder(recipe.init)
    teachers: list[str] | None = getattr(recipe, "teachers", None)
    if teachers is not None:
        update["teachers"] = [folder(teacher) for teacher in teachers]
    listed = getattr(recipe, "objective", "")
    if not isinstance(listed, str):
        # The run that relates classes for an objective may be an earlier stage too.
        update["objective"] = [
            {**entry, "model": folder(str(entry["model"]))} if entry.get("model") else entry
            for entry in listed
        ]
    return recipe.model_copy(update=update)
