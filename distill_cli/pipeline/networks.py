"""From a recipe to the network that learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.models import InputSpec, Network, create, load_model, suggested
from distill_cli.recipe.base import TrainRecipe
from distill_cli.types import Targets


def student_network(recipe: TrainRecipe, dataset: Dataset, targets: Targets) -> Network:
    """A new network for the dataset, from a seed, timm's weights or another run's.

    Raises:
        UsageError: An unknown name or argument, or --pretrained together with --init.
        ArtifactError: The weights to start from do not fit.
    """
    if recipe.pretrained and recipe.init:
        raise UsageError("--pretrained and --init contradict each other")
    name = recipe.model
    start = load_model(Path(recipe.init)) if recipe.init else None
    args = dict(recipe.model_args)
    if start is not None and name is None:
        name, args = start.architecture, {**start.model_args, **args}
    if name is None:
        name = suggested(dataset.channels, dataset.height, dataset.width)
    torch.manual_seed(recipe.seed)
    network = create(
        name,
        class_names=dataset.class_names,
        view=InputSpec(
            channels=dataset.channels,
            height=dataset.height,
            width=dataset.width,
            mean=dataset.mean,
            std=dataset.std,
        ),
        args=args,
        dropout=recipe.dropout,
        pretrained=recipe.pretrained,
    )
    network.targets = targets
    if start is not None:
        adopt(network, start, str(recipe.init))
        # The weights were trained on images normalised in this way, whatever the new data's are.
        return Network(
            network.net,
            architecture=network.architecture,
            model_args=network.model_args,
            library=network.library,
            class_names=network.class_names,
            taken=replace(network.taken, mean=start.taken.mean, std=start.taken.std),
            targets=targets,
        )
    return network


def adopt(network: Network, start: Network, name: str) -> None:
    """Copies the weights of another run; a head for other classes stays fresh.

    Raises:
        ArtifactError: A tensor is missing or has another shape.
    """
    own, given = network.net.state_dict(), start.net.state_dict()
    if network.class_names != start.class_names:
        classifier = str(getattr(network.net, "pretrained_cfg", {}).get("classifier", ""))
        head = tuple(f"{part}." for part in [classifier] if part)
        given = {key: value for key, value in given.items() if not (head and key.startswith(head))}
        given |= {key: value for key, value in own.items() if key not in given and head}
    for key, value in own.items():
        if key not in given or given[key].shape != value.shape:
            raise ArtifactError(
                f"--init {name} ({start.architecture}) does not fit {network.architecture}: "
                f"tensor {key} differs",
                hint="Leave --model out to take the run's own architecture",
            )
    network.net.load_state_dict({key: given[key] for key in own})
