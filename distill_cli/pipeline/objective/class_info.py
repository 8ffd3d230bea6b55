"""Facts about the classes for objectives, known before training: groups, centroids of a trained run."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from distill_cli.counters import few_of
from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.models import Network, network_fingerprint
from distill_cli.models.taps import shape_of, signals_of
from distill_cli.objectives.base import AdapterContext
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import UsesClassCentroids
from distill_cli.pipeline.inputs.artifacts import ON_DISK, Artifacts
from distill_cli.pipeline.inputs.class_groups import rule_of
from distill_cli.pipeline.inputs.noise_matrix import read_noise
from distill_cli.pipeline.inputs.teachers import check_classes, check_split
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.runtime import Runtime
from distill_cli.types import PENULTIMATE, Need

# The most images of a class that its centroid is the mean of.
CENTROID_IMAGES = 256


def adapter_context(
    recipe: TrainRecipe,
    composed: Composition,
    dataset: Dataset,
    runtime: Runtime,
    runs: Artifacts = ON_DISK,
) -> AdapterContext:
    """Names of the classes, and all else that these objectives need to know of them.

    In a dry run centroids are 0: no network is asked.

    Raises:
        UsageError: A file of groups or of noise cannot be read.
        ArtifactError: A group, a matrix or a run has other classes than the data.
    """
    rule_KK = centroid_KD = noise_KK = None
    known: list[object] = []
    spec = recipe.groups if isinstance(recipe, LabelledRecipe) else None
    if spec is not None:
        rule_KK = rule_of(spec, dataset.class_names)
        known.append(rule_KK.tolist())
    for part in composed.parts:
        if isinstance(part.objective, UsesClassCentroids) and part.objective.model is not None:
            folder = part.objective.model
            network = runs.network(folder)
            centroid_KD = class_centroids(network, folder, dataset, runtime, runs)
            known.append(network_fingerprint(network))
    if isinstance(recipe, LabelledRecipe) and recipe.noise_matrix is not None:
        noise_KK = known_noise(Path(recipe.noise_matrix), dataset)
        known.append(("noise", noise_KK.tolist()))
    group_K = dataset.group_K if Need.HIERARCHY in composed.needs else None
    if group_K is not None:
        known.append(("hierarchy", group_K.tolist()))
    return AdapterContext(
        class_names=dataset.class_names,
        rule_KK=rule_KK,
        centroid_KD=centroid_KD,
        group_K=group_K,
        noise_KK=noise_KK,
        fingerprint=blake2b(repr(known).encode(), digest_size=16).hexdigest() if known else "",
    )


def known_noise(path: Path, dataset: Dataset) -> Tensor:
    """The matrix M of a file, by which every label that is learnt from can come about.

    Raises:
        UsageError: The file cannot be read.
        ArtifactError: It does not fit these classes, or a label has no class that it comes from.
    """
    noise_KK = read_noise(path, dataset.class_names)
    label_N = dataset.train.label_N[dataset.fit_rows]
    for label in (noise_KK.amax(dim=0) == 0).nonzero().flatten().tolist():
        if bool((label_N == label).any()):
            name = dataset.class_names[label]
            raise ArtifactError(
                f"{path}: no class is ever labelled {name} by this matrix, and some training images are"
            )
    return noise_KK


@torch.no_grad()
def class_centroids(
    network: Network, name: str, dataset: Dataset, runtime: Runtime, runs: Artifacts = ON_DISK
) -> Tensor:
    """Where a trained network puts each class: the mean of what enters its classifier, (K, D).

    It is taken over training images as they are, `CENTROID_IMAGES` of a class at most, chosen by a
    hash of their keys.

    Args:
        network: The network, in eval mode.
        name: Folder of the network.
        dataset: The data that has the classes.
        runtime: Device that it computes on.
        runs: Reader of its folder.

    Raises:
        UsageError: A class has no labelled training image.
        ArtifactError: It has other classes, or was trained on rows held out here.
    """
    network = network.to(runtime.device)
    check_classes(name, network.class_names, dataset.class_names, hint=None)
    check_split(name, dataset, subject="run", runs=runs)
    label_N = dataset.train.label_N[dataset.fit_rows]
    mean_KD = []
    for label in range(len(dataset.class_names)):
        rows = dataset.fit_rows[label_N == label]
        rows = rows[few_of(dataset.train.key_N[rows], CENTROID_IMAGES)]
        if not len(rows):
            raise UsageError(
                f"class {dataset.class_names[label]} has no labelled training image to relate it by"
            )
        if runs.dry:
            width = shape_of(network, PENULTIMATE).channels
            mean_KD.append(torch.zeros(width, dtype=torch.float64))
            continue
        features = [
            signals_of(network, images_BCHW.to(runtime.device) / 255, (PENULTIMATE,), stop=True)
            for images_BCHW in dataset.train.take(rows).iter_plain()
        ]
        whole_ND = torch.cat([signals.features[PENULTIMATE].flatten(1) for signals in features])
        mean_KD.append(whole_ND.double().mean(dim=0).cpu())
    return torch.stack(mean_KD)
