"""Networks with a gated classifier: an architecture that wraps any other.

`distill_dropmax` is in timm's registry, and its argument `base` names the network that is gated,
timm's or torchvision's; all further arguments are those of the base.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import (
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from distill_cli.errors import UsageError
from distill_cli.losses.dropmax import dropmax_inference
from distill_cli.models.build import build
from distill_cli.models.heads import GatedClassifier, classifier_of, gate
from distill_cli.models.network import Network
from distill_cli.models.registry import built_around, cfg, plain_cfg
from distill_cli.models.taps import eval_mode, noise, signals_of
from distill_cli.types import GATED_PARTS

NAME, BASE = "distill_dropmax", "base"


def is_gated(network: Network) -> bool:
    """Whether a network's classifier has gates."""
    return isinstance(classifier_of(network.net), GatedClassifier)


def base_of(network: Network) -> str:
    """The name of a network's architecture; of a gated network, that of its base."""
    return str(network.model_args.get(BASE, network.architecture))


def gated(network: Network) -> Network:
    """The network with gates at its classifier, which stay open before training.

    Args:
        network: A plain network; its modules are taken over, and its weights are kept.

    Raises:
        UsageError: The network does not end in one linear layer of a vector.
    """
    try:
        gate(network.net)
        made = Network(
            network.net,
            architecture=NAME,
            model_args={BASE: network.architecture, **network.model_args},
            library="timm",
            class_names=network.class_names,
            input_spec=network.input_spec,
            targets=network.targets,
        )
        _check_answer(made)
    except ValueError as error:
        raise UsageError(
            f"{network.architecture} cannot have gates at its classifier: {error}",
            hint="Choose another --model: one linear layer of the pooled features comes last",
        ) from None
    return made


@torch.no_grad()
def _check_answer(network: Network) -> None:
    """Refuses a network whose logits are not those of its classifier's parts."""
    with eval_mode(network):
        signals = signals_of(network, noise(network), GATED_PARTS)
    logits, prior, _ = (signals.features[part].flatten(1) for part in GATED_PARTS)
    folded = dropmax_inference(logits, prior)
    if folded.shape != signals.logits_BK.shape or not torch.allclose(folded, signals.logits_BK):
        raise ValueError("its output is not what its last linear layer says of one vector")


def distill_dropmax(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_model_args: Any = None,
    cache_dir: Any = None,
    num_classes: int | None = None,
    **args: Any,
) -> nn.Module:
    """A gated network under timm's interface of a builder.

    Args:
        pretrained: Load the weights of the whole network that `pretrained_cfg` names.
        pretrained_cfg: timm's description of the whole network.
        pretrained_cfg_overlay: Entries that replace those of `pretrained_cfg`.
        pretrained_model_args: Arguments of the saved network, which `args` repeats; ignored.
        cache_dir: Folder of weights from a hub.
        num_classes: Number of outputs; by default as described.
        args: `base`, and the arguments of the base.

    Raises:
        ValueError: The base is unknown, gated itself or cannot be gated, or one of its arguments is
            reserved.
    """
    base = args.pop(BASE, None)
    if not isinstance(base, str) or base.split(".")[0] == NAME:
        raise ValueError(f"{BASE} names the network that is gated, another one than {NAME}")
    described = resolve_pretrained_cfg(NAME, pretrained_cfg, pretrained_cfg_overlay)
    # `build` refuses reserved arguments: these may come from a stranger's config.json.
    num_classes = described.num_classes if num_classes is None else num_classes
    net = build(base, num_classes, args)
    gate(net)
    pretrained_cfg = pretrained_cfg or {**described.to_dict(), **plain_cfg(net)}
    overlay = {"pretrained_cfg_overlay": pretrained_cfg_overlay, "cache_dir": cache_dir}
    return built_around(net, NAME, pretrained, pretrained_cfg, num_classes, args, **overlay)


default_cfgs = generate_default_cfgs({NAME: cfg()})
register_model(distill_dropmax)
