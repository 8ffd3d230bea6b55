"""Self-training as plain recipes: a network on labels alone, then students of the labels that it gives.

Noisy Student (Xie et al. 2020, arXiv 1911.04252): the teacher sees images as they are, the student has noise, and
goes on as the next teacher.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill_cli.errors import UsageError
from distill_cli.recipe.schema import SelfTrainRecipe, StudentRecipe, TeacherRecipe
from distill_cli.recipe.stage import SELF, Stage, given_of, made_of
from distill_cli.types import STAGES

# The objective by which images without a label learn all that the round before says of them.
SOFT: dict[str, Any] = {"threshold": 0.0, "hard": False, "temperature": 1.0}
PSEUDO = "pseudo-label"


def rounds_of(recipe: SelfTrainRecipe, out: Path) -> list[Stage]:
    """The runs of all rounds; the last one's folder is `out`.

    Hard labels travel in a list, which the next run reads by `relabel`. Soft ones are the live answers of the
    round before to images as they are, and the list says which images are learnt from.

    Raises:
        UsageError: Options contradict each other.
    """
    _check(recipe)
    given = given_of(recipe)
    stages: list[Stage] = []
    for number in range(1, recipe.rounds + 1):
        last = number == recipe.rounds
        name = f"round-{number}"
        values = {**given, "seed": recipe.seed + number - 1}
        values["out"] = str(out if last else out / STAGES / name)
        if last:
            values["require"] = recipe.require
        if number == 1:
            # Labels alone are learnt, which a list may say of images beside the data too; and figures of
            # the first round are of images that it has not seen.
            beside = ("transductive", *(("unlabelled",) if recipe.relabel is None else ()))
            values = {key: value for key, value in values.items() if key not in beside}
            stages.append(Stage(name=name, recipe=made_of(TeacherRecipe, values)))
            continue
        path = out / STAGES / f"{name}-chosen.csv"
        values["unlabelled_list" if recipe.soft else "relabel"] = str(path)
        if recipe.soft:
            values |= _taught(recipe, str(stages[-1].out))
        made = made_of(StudentRecipe if recipe.soft else TeacherRecipe, values)
        stages.append(Stage(name=name, recipe=made, list_path=path))
    return stages


def _taught(recipe: SelfTrainRecipe, before: str) -> dict[str, Any]:
    """The keys of a student that learns the probabilities of the round before."""
    taught: dict[str, Any] = {"teachers": [before], "teacher_augment": ["none"]}
    if isinstance(recipe.objective, str):
        taught["objective"] = f"{recipe.objective},{PSEUDO}"
        taught["objective_values"] = {**(recipe.objective_values or {}), PSEUDO: SOFT}
    else:
        taught["objective"] = [*recipe.objective, {"name": PSEUDO, **SOFT}]
    return taught


def _check(recipe: SelfTrainRecipe) -> None:
    """Refuses what makes no sense whatever the data are."""
    listed = recipe.objective
    names = (
        listed.split(",") if isinstance(listed, str) else [str(one.get("name")) for one in listed]
    )
    if SELF in names:
        raise UsageError(
            f"{SELF} trains a copy first, and self-train its own rounds",
            hint="Leave it out, or run distill teacher train",
        )
    if recipe.soft and PSEUDO in names:
        raise UsageError(f"--soft adds {PSEUDO}, which --objective names too: leave it out there")
    if recipe.unlabelled_share is not None and not recipe.soft:
        raise UsageError(
            "--unlabelled-share goes with --soft: images that get a label of their own are labelled ones"
        )
    if recipe.targets == "sigmoid" or recipe.coarse_labels is not None:
        flag = "--coarse-labels" if recipe.coarse_labels is not None else "--targets sigmoid"
        raise UsageError(f"{flag}: self-train chooses images by the probability of their one class")
