"""What objectives are told of the classes before training: groups, centroids of a trained run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.errors import UsageError
from distill_cli.models import load_model
from distill_cli.models.taps import signals_of
from distill_cli.objectives.abilities import Related
from distill_cli.objectives.base import Setting
from distill_cli.objectives.compose import Composition
from distill_cli.pipeline.groups import rule_of
from distill_cli.pipeline.teaching import check_classes, check_split
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.runtime import Runtime
from distill_cli.types import PENULTIMATE, Need

# Images of each class that its centroid is the mean of, at most.
OF_A_CLASS = 256


def setting_of(
    recipe: TrainRecipe, composed: Composition, dataset: Dataset, here: Runtime
) -> Setting:
    """The classes, and what these objectives need to know of them.

    Raises:
        UsageError: What is needed is not named, or what is named is not needed.
        ArtifactError: It does not fit the data.
    """
    return Setting(
        class_names=dataset.class_names,
        rule_KK=_rule(recipe, composed, dataset),
        centroid_KD=_centroids(composed, dataset, here),
    )


def _rule(recipe: TrainRecipe, composed: Composition, dataset: Dataset) -> Tensor | None:
    spec = recipe.groups if isinstance(recipe, LabelledRecipe) else None
    needed = Need.GROUPS in composed.needs
    if spec is None and needed:
        raise UsageError(
            "this objective needs to know which classes are alike",
            hint="--groups words, or --groups FILE",
        )
    if spec is not None and not needed:
        raise UsageError(
            "--groups: none of these objectives looks at groups of classes",
            hint="Add --objective grouped-smoothing",
        )
    return None if spec is None else rule_of(spec, dataset.class_names)


def _centroids(composed: Composition, dataset: Dataset, here: Runtime) -> Tensor | None:
    """Mean features of each class, (K, D), of the run that an objective names, on the CPU."""
    for part in composed.parts:
        if isinstance(part.objective, Related) and part.objective.model is not None:
            return class_centroids(Path(part.objective.model), dataset, here)
    return None


@torch.no_grad()
def class_centroids(folder: Path, dataset: Dataset, here: Runtime) -> Tensor:
    """Where a trained network puts each class: the mean of what enters its classifier, (K, D).

    Over training images as they are, evenly spaced, `OF_A_CLASS` of each class at most.

    Raises:
        ArtifactError: It is no model, has other classes, or was trained on rows held out here.
    """
    network = load_model(folder).to(here.device).eval()
    check_classes(str(folder), network.class_names, dataset.class_names)
    check_split(str(folder), dataset.identity)
    label_N = dataset.train.label_N[dataset.fit_rows]
    mean_KD = []
    for label in range(len(dataset.class_names)):
        rows = dataset.fit_rows[label_N == label]
        rows = rows[:: max(1, -(-len(rows) // OF_A_CLASS))]
        if not len(rows):
            raise UsageError(
                f"class {dataset.class_names[label]} has no labelled training image to relate it by"
            )
        features = [
            signals_of(network, images_BCHW.to(here.device) / 255, (PENULTIMATE,), stop=True)
            for images_BCHW in dataset.train.take(rows).still()
        ]
        whole_ND = torch.cat([each.features[PENULTIMATE].flatten(1) for each in features])
        mean_KD.append(whole_ND.double().mean(dim=0).cpu())
    return torch.stack(mean_KD)
