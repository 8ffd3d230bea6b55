"""The reasons for which objectives are refused by the files that a recipe gives them, or leaves out."""

from __future__ import annotations

from distill_cli.errors import UsageError
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import UsesClassCentroids, needs_of
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.types import Need

# Of the objectives that learn from labels, those to which a label may be a group of classes.
OF_GROUPS = frozenset({"coarse"})


def check_given(recipe: TrainRecipe, composed: Composition) -> None:
    """Refuses objectives without the groups or the noise that they need, and files that none of them reads.

    Raises:
        UsageError: With the reason.
    """
    _check_groups(recipe, composed)
    _check_noise(recipe, composed)
    _check_coarse(recipe, composed)


def _check_coarse(recipe: TrainRecipe, composed: Composition) -> None:
    """Refuses objectives that would take the first class of a group for the class of its images."""
    if recipe.coarse_labels is None:
        return
    for part in composed.parts:
        info, relates = part.objective.info, part.objective
        by_centroids = isinstance(relates, UsesClassCentroids) and relates.model is not None
        if (info.rows == "labelled" and info.name not in OF_GROUPS) or by_centroids:
            raise UsageError(
                f"objective '{info.name}' learns the classes of labelled images, and --coarse-labels "
                "leaves them their group alone",
                hint="--objective coarse learns groups, and kd in a list without ce needs no label",
            )


def _check_groups(recipe: TrainRecipe, composed: Composition) -> None:
    spec = recipe.groups if isinstance(recipe, LabelledRecipe) else None
    asking = [
        part.objective.info.name
        for part in composed.parts
        if Need.GROUPS in needs_of(part.objective)
    ]
    if spec is None and asking:
        raise UsageError(
            f"objective '{asking[0]}' needs to know which classes are alike",
            hint="--groups words, or --groups FILE",
        )
    if spec is not None and not asking:
        raise UsageError(
            "--groups: none of these objectives looks at groups of classes",
            hint="Add --objective grouped-smoothing",
        )


def _check_noise(recipe: TrainRecipe, composed: Composition) -> None:
    path = recipe.noise_matrix if isinstance(recipe, LabelledRecipe) else None
    asking = Need.NOISE in composed.needs
    if path is None and asking:
        raise UsageError(
            "objective 'forward' needs to know how often labels are wrong",
            hint="--noise-matrix FILE, which `distill noise estimate RUN` makes",
        )
    if path is not None and not asking:
        raise UsageError(
            "--noise-matrix: none of these objectives corrects labels by it",
            hint="Add --objective forward",
        )
