"""Networks by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg, is_model, list_models
from torch import nn

from distill_cli.errors import ArtifactError, UsageError, nearest
from distill_cli.models.network import InputSpec, Network
from distill_cli.models.small import NETWORKS

TORCHVISION, TIMM = "torchvision/", "timm/"
_MLP = re.compile(r"^mlp_(\d+)x(\d+)$")
DEFAULT_SIDE, INCEPTION_SIDE = 224, 299


def names() -> list[str]:
    """Every name there is: ours, timm's, torchvision's."""
    return [*NETWORKS, "mlp_800x2", *list_models(), *(TORCHVISION + n for n in _torchvision())]


def suggested(channels: int, height: int, width: int) -> str:
    """A small student suited to images of this size and colour."""
    side = max(height, width)
    if channels == 1 and side <= 40:
        return "mlp_64x1" if side <= 16 else "mlp_256x2"
    return "cifar_resnet20" if side <= 64 else "resnet18"


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Architecture and arguments behind a name: `mlp_800x2` is distill_mlp of 2 × 800 units.

    Raises:
        UsageError: There is no such network.
    """
    plain = name.removeprefix(TIMM)
    match = _MLP.match(plain)
    if match:
        width, depth = int(match[1]), int(match[2])
        if width < 1 or depth < 1:
            raise UsageError(f"model: '{name}' needs at least one layer of one unit")
        return "distill_mlp", {"width": width, "depth": depth}
    if name.startswith(TORCHVISION):
        if name.removeprefix(TORCHVISION) in _torchvision():
            return name, {}
    elif is_model(plain.split(".")[0]):
        return plain, {}
    elif plain in _torchvision():
        return TORCHVISION + plain, {}
    raise UsageError(f"model: there is no network '{name}'. {nearest(name, names())}")


def create(
    name: str,
    *,
    class_names: tuple[str, ...],
    view: InputSpec,
    args: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    pretrained: bool = False,
) -> Network:
    """A network for images like `view`.

    From scratch it takes the view's channels, size and normalisation; where it cannot be built
    for that size, it keeps its own and views are resized. A pretrained one keeps its own three
    channels, size and normalisation, and gets a fresh head. Weights come from torch's global
    generator.

    Args:
        name: See `names`; also timm/NAME and a tag, as resnet18.a1_in1k.
        class_names: In label order.
        view: The images, with the training rows' mean and sd.
        args: Further arguments of the network.
        dropout: Its dropout rate; None for its own default.
        pretrained: Load timm's weights.

    Raises:
        UsageError: An unknown name or argument.
        ArtifactError: Pretrained weights cannot be had.
    """
    architecture, implied = resolve(name)
    wanted = {**implied, **(args or {})}
    if architecture.startswith(TORCHVISION):
        if pretrained:
            raise UsageError(f"--pretrained knows timm's weights only, not those of {architecture}")
        if dropout is not None:
            wanted["dropout"] = dropout
        return _from_torchvision(architecture, class_names, view, wanted)
    if dropout is not None:
        wanted["drop_rate"] = dropout
    if pretrained:
        net = _pretrained(architecture, num_classes=len(class_names), **wanted)
        taken = _own_input(net)
        return _wrap(net, architecture.split(".")[0], wanted, class_names, taken)
    return _from_timm(architecture.split(".")[0], class_names, view, wanted)


def _from_timm(
    architecture: str, class_names: tuple[str, ...], view: InputSpec, wanted: dict[str, Any]
) -> Network:
    cfg = get_pretrained_cfg(architecture)
    args = {**wanted, "in_chans": view.channels}
    sized = dict(args)
    if cfg is not None and cfg.fixed_input_size:
        sized.setdefault("img_size", [view.height, view.width])

    def build(given: dict[str, Any]) -> nn.Module:
        net = timm.create_model(architecture, num_classes=len(class_names), **given)
        assert isinstance(net, nn.Module)
        return net

    side = cfg.input_size[-1] if cfg is not None else DEFAULT_SIDE
    net, used, taken = _fitting(architecture, build, sized, args, view, side)
    return _wrap(net, architecture, used, class_names, taken)


def _from_torchvision(
    architecture: str, class_names: tuple[str, ...], view: InputSpec, wanted: dict[str, Any]
) -> Network:
    import torchvision

    name = architecture.removeprefix(TORCHVISION)
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary heads would make the output a tuple in training; weights are ours.
        wanted = {"aux_logits": False, "init_weights": True, **wanted}

    def build(given: dict[str, Any]) -> nn.Module:
        net = torchvision.models.get_model(
            name, weights=None, num_classes=len(class_names), **given
        )
        assert isinstance(net, nn.Module)
        return net

    colour = view
    if view.channels == 1:
        colour = replace(view, channels=3, mean=view.mean * 3, std=view.std * 3)
    side = INCEPTION_SIDE if name == "inception_v3" else DEFAULT_SIDE
    net, used, taken = _fitting(architecture, build, wanted, wanted, colour, side)
    return _wrap(net, architecture, used, class_names, taken, library="torchvision")


def _fitting(
    architecture: str,
    build: Callable[[dict[str, Any]], nn.Module],
    sized: dict[str, Any],
    plain: dict[str, Any],
    view: InputSpec,
    side: int,
) -> tuple[nn.Module, dict[str, Any], InputSpec]:
    """The network at the view's size if it runs there, else at its own, `side`.

    Both are built from the same state of the generator, so that the weights do not depend on
    which one was tried first.
    """
    own = replace(view, height=side, width=side)
    tried = [(sized, view), (plain, own)] if view != own else [(plain, own)]
    state = torch.get_rng_state()
    reason = ""
    for args, taken in tried:
        torch.set_rng_state(state)
        try:
            net = build(args)
            with torch.no_grad():
                net.eval()(torch.zeros(2, taken.channels, taken.height, taken.width))
        except TypeError as error:
            raise UsageError(f"model: {architecture}: {_bad_argument(error)}") from None
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            continue
        return net.train(), args, taken
    raise UsageError(f"model: {architecture} cannot be built: {reason}")


def _bad_argument(error: TypeError) -> str:
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"it has no argument '{match[1]}'" if match else str(error)


def _wrap(
    net: nn.Module,
    architecture: str,
    args: Mapping[str, Any],
    class_names: tuple[str, ...],
    taken: InputSpec,
    library: Any = "timm",
) -> Network:
    return Network(
        net,
        architecture=architecture,
        model_args=args,
        library=library,
        class_names=class_names,
        taken=taken,
    )


def _own_input(net: nn.Module) -> InputSpec:
    cfg: Any = net.pretrained_cfg
    channels, height, width = cfg["input_size"]
    return InputSpec(
        channels=channels,
        height=height,
        width=width,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def _pretrained(architecture: str, **args: Any) -> nn.Module:
    """timm's network with its weights. Untested against the live hub, for want of one."""
    try:
        net = timm.create_model(architecture, pretrained=True, **args)
    except TypeError as error:
        raise UsageError(f"model: {architecture}: {_bad_argument(error)}") from None
    except Exception as error:
        # The hub's client and its transport raise errors of many unrelated types.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"timm's weights of {architecture} cannot be had: {reason}",
            hint="They are downloaded on first use; check the network or the name",
        ) from None
    assert isinstance(net, nn.Module)
    return net


def pretrained_teacher(name: str, class_names: tuple[str, ...]) -> Network:
    """timm's pretrained network with its own head, as a teacher of the data's classes.

    Its outputs have no names; where there are as many as the data has classes, they are taken
    to be in the data's order (ImageNet's sorted WordNet ids).

    Raises:
        UsageError: timm has no such network.
        ArtifactError: Its weights cannot be had.
    """
    architecture, _ = resolve(TIMM + name)
    net = _pretrained(architecture)
    outputs = int(getattr(net, "num_classes", 0))
    if outputs != len(class_names):
        class_names = tuple(f"output {index}" for index in range(outputs))
    return _wrap(net, architecture.split(".")[0], {}, class_names, _own_input(net))


def _torchvision() -> list[str]:
    import torchvision

    return [str(name) for name in torchvision.models.list_models(module=torchvision.models)]
