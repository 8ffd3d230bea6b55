"""From a recipe to the network that learns."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill_cli.counters import few_of
from distill_cli.data.dataset import Dataset
from distill_cli.data.split_images import Images
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.models import InputSpec, Network, create_network, suggested, weights_at_hand
from distill_cli.models.activation_steps import count_features
from distill_cli.models.frozen import freeze
from distill_cli.models.gated import gated, is_gated
from distill_cli.models.heads import classifier_names
from distill_cli.models.quantised import quantised, weight_quantisers
from distill_cli.models.quantisers import Bits
from distill_cli.models.taps import noise
from distill_cli.objectives.base import HeadName
from distill_cli.pipeline.inputs.artifacts import ON_DISK, Artifacts
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.default_batch import MOST, STEPS
from distill_cli.recipe.earlier import steps_by_entry_then
from distill_cli.recipe.network_options import quantizer_of
from distill_cli.recipe.recorded import made_by
from distill_cli.runtime import Runtime
from distill_cli.training.events import Sink
from distill_cli.types import Targets

# Images by which the first steps of quantised activations are set.
PROBED = 64
# Images below which the default batch is not the usual one either.
FEW = MOST * STEPS


def starting(recipe: TrainRecipe, runs: Artifacts = ON_DISK) -> Network | None:
    """The network whose weights it starts from; None for fresh ones, or timm's.

    Raises:
        UsageError: --pretrained together with --init.
        ArtifactError: There is no such run.
    """
    if recipe.pretrained and recipe.init:
        raise UsageError("--pretrained and --init contradict each other")
    return runs.network(recipe.init) if recipe.init else None


class Architecture(NamedTuple):
    """A network by its name and arguments, as the recipe keys of these names have them."""

    model: str
    model_args: dict[str, Any]


def architecture_of(recipe: TrainRecipe, dataset: Dataset, start: Network | None) -> Architecture:
    """The network that the recipe names, else that of the run it starts from, else a small one."""
    if recipe.model is not None:
        return Architecture(recipe.model, recipe.model_args)
    if start is not None:
        return Architecture(start.architecture, {**start.model_args, **recipe.model_args})
    name = suggested(dataset.channels, dataset.height, dataset.width)
    return Architecture(name, recipe.model_args)


def advised(recipe: TrainRecipe, architecture: Architecture, rows: int) -> str | None:
    """A word for who trains a network on few images from nothing, though its weights are at hand.

    Args:
        recipe: The run's.
        architecture: The network.
        rows: Number of images to train on.
    """
    if recipe.pretrained or recipe.init or rows >= FEW or not weights_at_hand(architecture.model):
        return None
    return (
        f"{counted(rows, 'image')} to train on, and timm's weights of {architecture.model} are on this "
        "machine: --pretrained starts from them"
    )


def shown_by(dataset: Dataset) -> InputSpec:
    """The images that a dataset shows to a network, with the statistics of its training images."""
    return InputSpec(
        channels=dataset.channels,
        height=dataset.height,
        width=dataset.width,
        mean=dataset.mean,
        std=dataset.std,
    )


def student_network(
    recipe: TrainRecipe,
    architecture: Architecture,
    dataset: Dataset,
    targets: Targets,
    *,
    start: Network | None,
    head: HeadName | None,
    weights: bool = True,
) -> Network:
    """A new network for the dataset, from a seed, timm's weights or another run's.

    Args:
        recipe: Seed, dropout and the weights to start from.
        architecture: The network to build.
        dataset: Whose classes and images it takes.
        targets: Whether its outputs are logits of one softmax or of independent sigmoids.
        start: The network of `--init`, whose weights are copied.
        head: The classifier that it must have; a fresh one where the weights to start from have
            none of this kind. None for its own.
        weights: Load timm's, where they are asked for.

    Raises:
        UsageError: An unknown name or argument, or a network that cannot have this classifier.
        ArtifactError: The weights to start from do not fit.
    """
    torch.manual_seed(recipe.seed)
    network = create_network(
        architecture.model,
        class_names=dataset.class_names,
        view=shown_by(dataset),
        args=architecture.model_args,
        dropout=recipe.dropout,
        pretrained=recipe.pretrained,
        weights=weights,
    )
    network.targets = targets
    if head == "gated" and not is_gated(network) and start is not None and is_gated(start):
        network = gated(network)
    if start is not None:
        adopt(network, start, str(recipe.init))
        # The weights were trained on images normalised in this way, whatever the new data's are.
        network.normalise_by(start.input_spec)
    if head == "gated" and not is_gated(network):
        network = gated(network)
    network.view = dataset.plain_view
    return network


def freeze_parts(recipe: TrainRecipe, network: Network) -> str:
    """Freezes the parts of a network that the recipe names; says how much does not learn.

    Raises:
        UsageError: There is no such part, or nothing is left to learn.
    """
    names = recipe.freeze or []
    frozen = freeze(network, names)
    fresh = (
        ""
        if recipe.pretrained or recipe.init
        else ", which are random: give --pretrained or --init"
    )
    return f"frozen: {', '.join(names)}, {frozen.params:,} of {frozen.of:,} parameters{fresh}"


def with_few_bits(
    recipe: TrainRecipe,
    network: Network,
    dataset: Dataset,
    runtime: Runtime,
    sink: Sink,
    *,
    dry: bool,
) -> Network:
    """The network on as few levels as the recipe says; itself where it says nothing.

    Args:
        recipe: The run's.
        network: A plain network on the CPU.
        dataset: Whose images set the first steps of activations.
        runtime: Refused where it keeps weights in parts.
        sink: Is told how much is quantised.
        dry: Read no image.

    Raises:
        UsageError: The recipe contradicts itself, or the network cannot be quantised.
    """
    asked = quantizer_of(recipe)
    by_entry = steps_by_entry_then(made_by(recipe.recorded))
    if asked is None:
        if not by_entry:
            count_features(network)
        return network
    if runtime.shard != "none":
        raise UsageError(
            f"--shard {runtime.shard} and --weight-bits do not go together: a quantiser looks at whole "
            "weights"
        )
    if recipe.act_bits is not None and is_gated(network):
        raise UsageError(
            "--act-bits and objective 'dropmax' do not go together: either puts the network into one of its "
            "own",
            hint="Leave --act-bits out",
        )
    name, weight_bits = asked
    bits = Bits(
        quantizer=name,
        weights=weight_bits,
        activations=recipe.act_bits,
        last=recipe.last_layer_bits,
        everything=recipe.quantize_all,
    )
    whole = network.num_params
    images_BCHW = noise(network) if dry else _some_images(dataset)
    made = quantised(network, bits, images_BCHW, by_entry=by_entry)
    few = sum(layer.learning.numel() for layer in weight_quantisers(made.net))
    told = [f"{name}: {few:,} of {whole:,} parameters on few levels"] if few else []
    if recipe.act_bits is not None:
        told.append(f"activations of {counted(recipe.act_bits, 'bit')}")
    sink.message(", ".join(told))
    layers = [layer.layer.weight for layer in weight_quantisers(made.net)]
    if nothing := sum(not bool(weight.any()) for weight in layers):
        sink.message(
            f"{nothing} of {counted(len(layers), 'layer')} on few levels begin as zeros, and learn nothing: "
            f"the levels of {name} are too far apart for these weights. Choose --quantizer lsq, or more bits"
        )
    return made


def _some_images(dataset: Dataset) -> Tensor:
    """Some images to train on, in [0, 1]: the same on every rank and after every restart."""
    rows = dataset.fit_rows[few_of(dataset.train.key_N[dataset.fit_rows], PROBED)]
    images: Images = dataset.train.take(rows)
    return next(iter(images.iter_plain())).float() / 255


def adopt(network: Network, start: Network, name: str) -> None:
    """Copies the weights of another run; a head for other classes stays fresh.

    Raises:
        ArtifactError: It takes other channels, or a tensor is missing or has another shape.
    """
    taken, shown = start.input_spec.channels, network.input_spec.channels
    if taken != shown:
        raise ArtifactError(
            f"--init {name} takes images of {counted(taken, 'channel')}, and these are read with {shown}",
            hint=f"Give --channels {taken}",
        )
    fresh, given = network.net.state_dict(), start.net.state_dict()
    if network.class_names != start.class_names:
        head = tuple(f"{name}." for name in classifier_names(network.net))
        given = {key: value for key, value in given.items() if not key.startswith(head)}
        given |= {key: value for key, value in fresh.items() if key.startswith(head)}
    for key, value in fresh.items():
        if key not in given or given[key].shape != value.shape:
            gates = is_gated(start) and not is_gated(network)
            raise ArtifactError(
                f"--init {name} ({start.architecture}) does not fit {network.architecture}: "
                + ("it was trained with dropmax" if gates else f"tensor {key} differs"),
                hint="Leave --model out to take the run's own architecture",
            )
    network.net.load_state_dict({key: given[key] for key in fresh})
