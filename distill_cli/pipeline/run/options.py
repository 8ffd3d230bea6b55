"""Refusals of a recipe by itself, whatever data and teachers are."""

from __future__ import annotations

from distill_cli.data.augment import check_names
from distill_cli.models import resolve
from distill_cli.pipeline.inputs.file_options import check_files
from distill_cli.pipeline.inputs.label_rules import check_label_options
from distill_cli.pipeline.inputs.other_views import check_other_views
from distill_cli.pipeline.inputs.own_teachers import check_own
from distill_cli.pipeline.inputs.peers import check_peers
from distill_cli.pipeline.objective.build import check_objectives
from distill_cli.pipeline.run.requirements import check_gates
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.network_options import quantizer_of
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.training import optim


def check_options(recipe: TrainRecipe) -> None:
    """Refuses what is wrong with a recipe whatever data and teachers are.

    Raises:
        UsageError: An unknown objective, augmentation, optimiser or network, or a contradiction.
    """
    check_files(recipe.model_dump())
    check_label_options(recipe)
    quantizer_of(recipe)
    check_gates(recipe)
    composed = check_objectives(recipe)
    check_names(recipe.augment)
    if isinstance(recipe, StudentRecipe):
        check_other_views(recipe)
        check_own(recipe, composed)
        check_peers(recipe, composed)
    optim.check_name(recipe.opt)
    if recipe.model is not None:
        resolve(recipe.model)
