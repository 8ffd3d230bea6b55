"""The model zoo: networks by name, ours, timm's and torchvision's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_models
from torch import nn

from distill_cli.errors import UsageError, nearest
from distill_cli.models.build import (
    RESERVED,
    TORCHVISION,
    build,
    build_pretrained,
    explain,
    torchvision_names,
)
from distill_cli.models.build import weights_at_hand as kept_weights
from distill_cli.models.fitnets import NETWORKS as FITNETS
from distill_cli.models.gated import BASE, gated
from distill_cli.models.gated import NAME as GATED
from distill_cli.models.network import InputSpec, Library, Network
from distill_cli.models.quantised import ACTIVATIONS, with_activations
from distill_cli.models.quantised import NAME as QUANTISED
from distill_cli.models.small import NETWORKS

TIMM = "timm/"
_MLP = re.compile(r"^mlp_(\d+)x(\d+)$")
DEFAULT_SIDE, INCEPTION_SIDE = 224, 299
# Arguments to build a network with, and the input spec it then has; candidates are tried in order.
Candidate = tuple[dict[str, Any], InputSpec]


def names() -> list[str]:
    """Every name there is: ours, timm's, torchvision's."""
    others = (TORCHVISION + name for name in torchvision_names())
    ours = [*NETWORKS, *FITNETS, "mlp_800x2"]
    # These are left out: objectives and options ask for them, not users.
    timms = (name for name in list_models() if name not in (GATED, QUANTISED))
    return list(dict.fromkeys([*ours, *timms, *others]))


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Architecture and arguments behind a name: `mlp_800x2` is distill_mlp of 2 × 800 units.

    Raises:
        UsageError: There is no such network, or no such tag of it.
    """
    plain = name.removeprefix(TIMM)
    match = _MLP.match(plain)
    if match:
        width, depth = int(match[1]), int(match[2])
        if width < 1 or depth < 1:
            raise UsageError(f"model: '{name}' needs at least one layer of one unit")
        return "distill_mlp", {"width": width, "depth": depth}
    if name.startswith(TORCHVISION):
        if name.removeprefix(TORCHVISION) in torchvision_names():
            return name, {}
    elif is_model(plain.split(".")[0]):
        _check_tag(plain)
        return plain, {}
    elif plain in torchvision_names():
        return TORCHVISION + plain, {}
    raise UsageError(f"model: there is no network '{name}'. {nearest(name, names())}")


def weights_at_hand(name: str) -> bool:
    """Whether `--pretrained` would find timm's weights of a network on this machine."""
    return kept_weights(name.removeprefix(TIMM))


def _check_tag(name: str) -> None:
    known = get_arch_pretrained_cfgs(name)
    if "." in name and name not in known:
        raise UsageError(f"model: timm has no weights tagged '{name}'. {nearest(name, known)}")


def create_network(
    name: str,
    *,
    class_names: tuple[str, ...],
    view: InputSpec,
    args: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    pretrained: bool = False,
    weights: bool = True,
) -> Network:
    """A network for images like `view`.

    From scratch it takes the view's channels, size and normalisation; a network that cannot be
    built for this size keeps its default, and views are resized. A pretrained network keeps its
    three channels, size and normalisation, and gets a fresh head. Fresh weights come from torch's
    global generator.

    Args:
        name: A name of `names`; also timm/NAME and a tag, as resnet18.a1_in1k.
        class_names: Names of the classes in label order.
        view: Spec of the images, with the training rows' mean and sd.
        args: Further arguments of the network.
        dropout: Dropout rate; None for the network's default.
        pretrained: Start from timm's weights.
        weights: Load the pretrained weights; otherwise fresh ones take their place.

    Raises:
        UsageError: The name is unknown, or the network cannot use an argument.
        ArtifactError: Pretrained weights cannot be downloaded.
    """
    architecture, implied = resolve(name)
    wanted = {**implied, **_checked(architecture, args or {})}
    if architecture in (GATED, QUANTISED):
        own = {key: wanted.pop(key) for key in (BASE, *ACTIVATIONS) if key in wanted}
        base = own.pop(BASE, None)
        if not isinstance(base, str) or resolve(base)[0] == architecture:
            way = "objective 'dropmax'" if architecture == GATED else "--act-bits"
            raise UsageError(
                f"model: {architecture} needs the name of another network as its argument '{BASE}'",
                hint=f"Or name that network itself: {way} puts this around it",
            )
        made = partial(create_network, base, class_names=class_names, view=view, args=wanted)
        plain = made(dropout=dropout, pretrained=pretrained, weights=weights)
        return gated(plain) if architecture == GATED else with_activations(plain, own)
    if architecture.startswith(TORCHVISION):
        if pretrained:
            raise UsageError(f"--pretrained knows timm's weights only, not those of {architecture}")
        if dropout is not None:
            wanted["dropout"] = dropout
        return _from_torchvision(architecture, class_names, view, wanted)
    if dropout is not None:
        wanted["drop_rate"] = dropout
    if pretrained:
        # Grey views are repeated to three channels, so that the first layer stays as trained.
        wanted.pop("in_chans", None)
        net = build_pretrained(
            architecture, num_classes=len(class_names), weights=weights, **wanted
        )
        input_spec = _own_input(net, wanted)
        return _as_network(net, architecture.split(".")[0], wanted, class_names, input_spec)
    return _from_timm(architecture.split(".")[0], class_names, view, wanted)


def _checked(architecture: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, none of them reserved, all of them plain values for config.json."""
    reserved = sorted(RESERVED & set(args))
    if reserved:
        raise UsageError(f"model: argument '{reserved[0]}' of {architecture} may not be set")
    try:
        json.dumps(args, allow_nan=False)
    except (TypeError, ValueError):
        raise UsageError(
            f"model: arguments of {architecture} must be plain values: numbers, texts, lists"
        ) from None
    return dict(args)


def _from_timm(
    architecture: str, class_names: tuple[str, ...], view: InputSpec, wanted: dict[str, Any]
) -> Network:
    args = {**wanted, "in_chans": view.channels}
    cfg = get_pretrained_cfg(architecture)
    default_spec = _square(view, cfg.input_size[-1] if cfg is not None else DEFAULT_SIDE)
    candidates: list[Candidate]
    if "img_size" in args:
        # Chosen by the caller, or by the run it starts from: views are resized to it.
        candidates = [(args, _sized(view, args["img_size"]))]
    elif cfg is not None and cfg.fixed_input_size:
        candidates = [({**args, "img_size": [view.height, view.width]}, view), (args, default_spec)]
    else:
        candidates = [(args, view), (args, default_spec)]
    net, used, input_spec = _first_fitting(architecture, len(class_names), candidates)
    return _as_network(net, architecture, used, class_names, input_spec)


def _from_torchvision(
    architecture: str, class_names: tuple[str, ...], view: InputSpec, wanted: dict[str, Any]
) -> Network:
    colour = view
    if view.channels == 1:
        colour = replace(view, channels=3, mean=view.mean * 3, std=view.std * 3)
    default_spec = _square(
        colour, INCEPTION_SIDE if architecture.endswith("inception_v3") else DEFAULT_SIDE
    )
    candidates = [(wanted, colour), (wanted, default_spec)]
    net, used, input_spec = _first_fitting(architecture, len(class_names), candidates)
    return _as_network(net, architecture, used, class_names, input_spec, library="torchvision")


def _first_fitting(
    architecture: str, num_classes: int, candidates: Sequence[Candidate]
) -> tuple[nn.Module, dict[str, Any], InputSpec]:
    """The first candidate that can be built and run.

    All are built from the same state of the generator, so that the weights do not depend on
    earlier candidates.
    """
    state = torch.get_rng_state()
    reason = ""
    for args, input_spec in candidates:
        torch.set_rng_state(state)
        try:
            net = build(architecture, num_classes, args)
            _check_output(net, num_classes, input_spec)
        except Exception as error:
            # Networks raise any exception on a size or an argument that they cannot use.
            reason = explain(error)
            continue
        return net.train(), args, input_spec
    raise UsageError(f"model: {architecture} cannot be built: {reason}")


def _check_output(net: nn.Module, num_classes: int, input_spec: InputSpec) -> None:
    with torch.no_grad():
        logits_BK = net.eval()(
            torch.zeros(2, input_spec.channels, input_spec.height, input_spec.width)
        )
    if getattr(logits_BK, "shape", None) != (2, num_classes):
        raise ValueError("its output is not one logit for each class")


def _square(view: InputSpec, side: int) -> InputSpec:
    return replace(view, height=side, width=side)


def _sized(view: InputSpec, img_size: Any) -> InputSpec:
    sides = [img_size, img_size] if isinstance(img_size, int) else img_size
    if not (isinstance(sides, list | tuple) and len(sides) == 2):
        raise UsageError(f"model: img_size is one side or [height, width], not {img_size!r}")
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise UsageError(f"model: img_size is in whole pixels, not {img_size!r}")
    return replace(view, height=sides[0], width=sides[1])


def _as_network(
    net: nn.Module,
    architecture: str,
    args: Mapping[str, Any],
    class_names: tuple[str, ...],
    input_spec: InputSpec,
    library: Library = "timm",
) -> Network:
    return Network(
        net,
        architecture=architecture,
        model_args=args,
        library=library,
        class_names=class_names,
        input_spec=input_spec,
    )


def _own_input(net: nn.Module, args: Mapping[str, Any]) -> InputSpec:
    cfg: Any = net.pretrained_cfg
    channels, height, width = cfg["input_size"]
    input_spec = InputSpec(
        channels=channels,
        height=height,
        width=width,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )
    return _sized(input_spec, args["img_size"]) if "img_size" in args else input_spec


def pretrained_teacher(
    name: str, class_names: tuple[str, ...] | None = None, *, weights: bool = True
) -> Network:
    """timm's pretrained network with its pretrained head, as a teacher of the data's classes.

    Tested with weights on disk in the hub's place; the live hub itself is untested.

    Args:
        name: timm's name, with or without timm/ before it and a tag behind it.
        class_names: Names of the data's classes. A head has no names: where it has as many outputs,
            they are taken to be in the data's order (ImageNet's sorted WordNet ids); otherwise, or
            for None, they are called "output 0", "output 1", ….
        weights: Load the weights; otherwise nothing is fetched, and they are fresh.

    Raises:
        UsageError: timm has no such network, or no weights for it.
        ArtifactError: The weights cannot be downloaded.
    """
    architecture, args = resolve(TIMM + name.removeprefix(TIMM))
    if architecture.startswith(TORCHVISION):
        raise UsageError(f"teacher: timm has no network '{name}', and only its weights are known")
    net = build_pretrained(architecture, weights=weights, **args)
    outputs = int(getattr(net, "num_classes", 0))
    if class_names is None or outputs != len(class_names):
        class_names = tuple(f"output {index}" for index in range(outputs))
    return _as_network(net, architecture.split(".")[0], args, class_names, _own_input(net, args))
