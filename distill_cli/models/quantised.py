"""Networks of few bits: any network, its weights on few levels by a parametrisation, and what goes in too.

What is saved has the weights as they are used, under the names of the plain network, so that any reader of
that architecture has a network of few levels. A network whose activations are quantised is another function
than its architecture: it has a name of its own, `distill_quantised`, whose argument `base` names the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
from timm.models import generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distill_cli.errors import UsageError
from distill_cli.models.activation_steps import begin_steps, count_features
from distill_cli.models.build import build
from distill_cli.models.config_checks import is_whole
from distill_cli.models.heads import classifier_of
from distill_cli.models.network import Network
from distill_cli.models.quantisers import (
    BY_BITS,
    Bits,
    LsqActivation,
    LsqWeight,
    QuantiserName,
    WeightQuantiser,
    WrpnActivation,
)
from distill_cli.models.registry import built_around, cfg, plain_cfg

NAME, BASE = "distill_quantised", "base"
# The arguments of such a network, beside those of the base.
ACTIVATIONS = ("act_bits", "quantizer", "everything")
# The name of a layer's quantiser among its children.
INPUT = "input_quantiser"
ORIGINAL = ".parametrizations.weight.original"
PARAMETRISED = ".parametrizations.weight."


Layer = nn.Conv2d | nn.Linear


def layers_of(net: nn.Module) -> dict[str, Layer]:
    """The layers of a network that have weights to quantise, by name, in the order of its modules."""
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def bits_of_layers(net: nn.Module, bits: Bits) -> dict[str, int]:
    """Bits of the weights of each layer that is quantised: all but the first and the classifier's."""
    layers = layers_of(net)
    head = {id(module) for module in classifier_of(net).modules()}
    last = {name for name, layer in layers.items() if id(layer) in head}
    ends = {next(iter(layers)), *last}
    given: dict[str, int] = {}
    if bits.weights is not None:
        given = {name: bits.weights for name in layers if bits.everything or name not in ends}
    return given | (dict.fromkeys(last, bits.last) if bits.last is not None else {})


def _weight_quantiser(bits: Bits, count: int, layer: Layer, *, is_last: bool) -> WeightQuantiser:
    if bits.quantizer == "lsq" or is_last:
        return LsqWeight(count, layer.weight)
    return BY_BITS[bits.quantizer](count)


def quantised(
    network: Network, bits: Bits, images_BCHW: Tensor, *, by_entry: bool = False
) -> Network:
    """The network with its weights, and perhaps its activations, on few levels.

    Args:
        network: A plain network; its modules are taken over, and its weights go on learning behind those
            that are used.
        bits: How many.
        images_BCHW: Some images in [0, 1], by which the first steps of activations are set.
        by_entry: Count what goes into a layer by entries of its first axis, and set its step by its last call
            in a forward, as until 0.8.0.

    Raises:
        UsageError: It has no layer between the first and the classifier, or is quantised already.
    """
    net = network.net
    counts = bits_of_layers(net, bits)
    if not bits_of_layers(net, replace(bits, weights=1, last=None)):
        raise UsageError(
            f"{network.architecture} has no layer between its first and its last, which stay as they are",
            hint="Give --quantize-all, or another --model",
        )
    if bits.activations is not None:
        if network.architecture == NAME:
            raise UsageError(
                "the network that it starts from has quantised activations already",
                hint="Start from its full-precision run, or give --weight-bits alone",
            )
        args = (bits.activations, bits.quantizer, bits.everything)
        network = with_activations(network, dict(zip(ACTIVATIONS, args, strict=True)))
        begin_steps(network, images_BCHW, last_call=by_entry)
        if not by_entry:
            count_features(network)
    head = {id(module) for module in classifier_of(net).modules()}
    for name, layer in layers_of(net).items():
        if name in counts:
            is_last = bits.last is not None and id(layer) in head
            quantiser = _weight_quantiser(bits, counts[name], layer, is_last=is_last)
            parametrize.register_parametrization(layer, "weight", quantiser)
    network.bits = bits
    return network


def with_activations(network: Network, args: Mapping[str, Any]) -> Network:
    """The network with quantisers of what goes into its layers, whose levels are not set yet.

    Args:
        network: A plain network; its modules are taken over.
        args: `act_bits`, `quantizer` and `everything`.

    Raises:
        UsageError: One of them has a value that it cannot have.
    """
    try:
        quantise_inputs(network.net, args)
    except ValueError as error:
        raise UsageError(f"model: {NAME}: {error}") from None
    made = Network(
        network.net,
        architecture=NAME,
        model_args={BASE: network.architecture, **args, **network.model_args},
        library="timm",
        class_names=network.class_names,
        input_spec=network.input_spec,
        targets=network.targets,
    )
    made.frozen, made.view = network.frozen, network.view
    return made


def quantise_inputs(net: nn.Module, args: Mapping[str, Any]) -> None:
    """Gives layers a quantiser of what goes into them: all but the first and the classifier.

    Args:
        net: The plain network.
        args: `act_bits`, `quantizer` and `everything`.

    Raises:
        ValueError: One of them has a value that it cannot have.
    """
    bits: Any = args.get("act_bits")
    quantizer: Any = args.get("quantizer")
    if not is_whole(bits, *range(1, 9)) or quantizer not in get_args(QuantiserName):
        raise ValueError("act_bits are 1 to 8, and quantizer is wrpn, ternary, lsq or binary")
    every = Bits(quantizer=quantizer, weights=bits, everything=bool(args.get("everything")))
    for name in bits_of_layers(net, every):
        layer = net.get_submodule(name)
        kind = LsqActivation if quantizer == "lsq" else WrpnActivation
        setattr(layer, INPUT, kind(bits))
        layer.register_forward_pre_hook(_quantise_input)


def _quantise_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.get_submodule(INPUT)(args[0]), *args[1:])


class FewLevels(NamedTuple):
    """A layer whose weights are on few levels while they learn.

    Attributes:
        name: Name of the layer.
        layer: It; its `weight` is what is used.
        quantiser: The parametrisation of its weight.
        learning: The weight behind it, which moves.
    """

    name: str
    layer: Layer
    quantiser: WeightQuantiser
    learning: Tensor


def weight_quantisers(net: nn.Module) -> Iterator[FewLevels]:
    """The quantised layers of a network that learns, in the order of its modules."""
    for name, layer in layers_of(net).items():
        if parametrize.is_parametrized(layer, "weight"):
            parametrised: Any = layer.parametrizations
            (quantiser,) = parametrised.weight
            yield FewLevels(name, layer, quantiser, parametrised.weight.original)


@torch.no_grad()
def saved_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The state dict of the plain network: weights as they are used, without what only learning needs."""
    # A zero has two signs and one code: it is saved as the code says it.
    used = {f"{few.name}.weight": few.layer.weight + 0.0 for few in weight_quantisers(net)}
    tensors: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        if name.endswith(ORIGINAL):
            plain = f"{name.removesuffix(ORIGINAL)}.weight"
            tensors[plain] = used[plain]
        elif PARAMETRISED not in name:
            tensors[name] = value
    return tensors


def as_saved(network: Network) -> Network:
    """A copy of a network with its weights as they are used, which learn no more."""
    copy = deepcopy(network)
    for few in list(weight_quantisers(copy.net)):
        parametrize.remove_parametrizations(few.layer, "weight", leave_parametrized=True)
    copy.layout, copy.bits = layout_of(network), None
    return copy


@torch.no_grad()
def layout_of(network: Network) -> dict[str, Any] | None:
    """What config.json says of a quantised network: bits, and bits and scale of each layer's weights.

    The scale of a binary layer is of each filter, and is the magnitude of its weights.
    """
    bits = network.bits
    # What goes into its layers may be on few levels since the run that it was started from.
    args = network.model_args if network.architecture == NAME else {}
    if bits is None and (network.layout is not None or not args):
        return network.layout
    layers = {}
    for few in weight_quantisers(network.net):
        _, scale = few.quantiser.codes(few.learning)
        layers[few.name] = {
            "quantizer": few.quantiser.name,
            "bits": few.quantiser.bits,
            "scale": float(scale) if scale.ndim == 0 else None,
        }
    return {
        "quantizer": args.get("quantizer") if bits is None else bits.quantizer,
        "weight_bits": None if bits is None else bits.weights,
        "act_bits": args.get("act_bits"),
        "layers": layers,
    }


def distill_quantised(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_model_args: Any = None,
    cache_dir: Any = None,
    num_classes: int | None = None,
    **args: Any,
) -> nn.Module:
    """A network whose activations are quantised, under timm's interface of a builder.

    Args:
        pretrained: Load the weights of the whole network that `pretrained_cfg` names.
        pretrained_cfg: timm's description of the whole network.
        pretrained_cfg_overlay: Entries that replace those of `pretrained_cfg`.
        pretrained_model_args: Arguments of the saved network, which `args` repeats; ignored.
        cache_dir: Folder of weights from a hub.
        num_classes: Number of outputs; by default as described.
        args: `base`, `act_bits`, `quantizer`, `everything`, and the arguments of the base.

    Raises:
        ValueError: The base is unknown or quantised itself, or an argument has a value that it cannot have.
    """
    ours = {key: args.pop(key, None) for key in ACTIVATIONS}
    base = args.pop(BASE, None)
    if not isinstance(base, str) or base.split(".")[0] == NAME:
        raise ValueError(f"{BASE} names the network that is quantised, another one than {NAME}")
    described = resolve_pretrained_cfg(NAME, pretrained_cfg, pretrained_cfg_overlay)
    num_classes = described.num_classes if num_classes is None else num_classes
    net = build(base, num_classes, args)
    quantise_inputs(net, ours)
    pretrained_cfg = pretrained_cfg or {**described.to_dict(), **plain_cfg(net)}
    overlay = {"pretrained_cfg_overlay": pretrained_cfg_overlay, "cache_dir": cache_dir}
    return built_around(net, NAME, pretrained, pretrained_cfg, num_classes, args, **overlay)


default_cfgs = generate_default_cfgs({NAME: cfg()})
register_model(distill_quantised)
