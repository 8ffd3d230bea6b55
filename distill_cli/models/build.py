"""Builds plain networks from an architecture's name and arguments, for new and loaded ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import get_pretrained_cfg, is_model
from torch import nn

from distill_cli.errors import ArtifactError, UsageError, reason
from distill_cli.models.finite import first_not_finite

TORCHVISION = "torchvision/"
# Arguments that make timm or torchvision fetch or open files, or return something that is no
# classifier. A config.json may come from anybody: it must not reach the network or the disk.
RESERVED = frozenset(
    {
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"),
        *("cache_dir", "weights", "weights_backbone", "progress"),
        *("features_only", "num_classes", "exportable", "scriptable", "no_jit"),
    }
)
# Auxiliary heads would make the output a tuple in training. `init_weights`, the truncated normal of
# the papers, is given because torchvision warns where it is left open.
AUXILIARY = {"aux_logits": False, "init_weights": True}
# Names that timm's hub has for weights.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# torchvision's families whose class accepts any keyword, so that a misspelt one would be ignored in
# silence: the class, and the keywords that only its builder takes.
SWALLOWING = {
    "mobilenet_v3": ("MobileNetV3", ("width_mult", "reduced_tail", "dilated")),
    "convnext": ("ConvNeXt", ()),
}


def torchvision_names() -> list[str]:
    """torchvision's classification networks."""
    import torchvision

    return [str(name) for name in torchvision.models.list_models(module=torchvision.models)]


def build(architecture: str, num_classes: int, args: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights, from torch's global generator; nothing is downloaded.

    Args:
        architecture: timm's name without a tag, or torchvision/NAME.
        num_classes: Number of outputs.
        args: Arguments of the architecture.

    Raises:
        ValueError: The name is unknown or an argument reserved.
        Exception: Any exception that the library raises on arguments it cannot use.
    """
    reserved = sorted(RESERVED & set(args))
    if reserved:
        raise ValueError(f"argument '{reserved[0]}' may not be set")
    if args.get("aux_logits"):
        raise ValueError("auxiliary heads would change the output in training")
    if architecture.startswith(TORCHVISION):
        net = _torchvision(architecture.removeprefix(TORCHVISION), num_classes, args)
    elif is_model(architecture):
        net = timm.create_model(architecture, num_classes=num_classes, **args)
    else:
        raise ValueError(f"unknown architecture '{architecture}'")
    assert isinstance(net, nn.Module)
    return net


def _torchvision(name: str, num_classes: int, args: Mapping[str, Any]) -> Any:
    import torchvision

    # Segmentation and detection networks would download a backbone.
    if name not in torchvision_names():
        raise ValueError(f"unknown architecture '{TORCHVISION}{name}'")
    if name in ("googlenet", "inception_v3"):
        args = {**AUXILIARY, **args}
    for family, (cls, more) in SWALLOWING.items():
        known = {*signature(getattr(torchvision.models, cls)).parameters, *more}
        if name.startswith(family) and not known.issuperset(args):
            raise ValueError(f"it has no argument '{min(set(args) - known)}'")
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **args)


def build_pretrained(architecture: str, *, weights: bool = True, **args: Any) -> nn.Module:
    """timm's network with its published weights, downloaded on first use.

    Tested with weights on disk in the hub's place; the live hub itself is untested.

    Args:
        architecture: timm's name, with a tag or without.
        weights: Load the weights; otherwise nothing is fetched, and they are fresh.
        args: Arguments of the architecture; without `num_classes` it keeps its pretrained head.

    Raises:
        UsageError: timm publishes no weights for it, or an argument is unknown.
        ArtifactError: The weights cannot be downloaded, or one is NaN or infinite.
    """
    cfg = get_pretrained_cfg(architecture)
    if cfg is None or not cfg.has_weights:
        raise UsageError(
            f"model: timm has no pretrained weights of '{architecture}'",
            hint="Leave --pretrained out, or take one of timm.list_pretrained()",
        )
    try:
        net = timm.create_model(architecture, pretrained=weights, **args)
    except TypeError as error:
        raise UsageError(f"model: {architecture}: {explain(error)}") from None
    except Exception as error:
        # The hub's client and its transport raise errors of many unrelated types.
        raise ArtifactError(
            f"timm's weights of {architecture} must be downloaded and could not be: "
            f"{explain(error)}",
            hint="Check the connection, or fetch them once where there is one",
        ) from None
    assert isinstance(net, nn.Module)
    if first_not_finite(net.state_dict(), {}) is not None:
        fresh = timm.create_model(architecture, pretrained=False, **args)
        if (fault := first_not_finite(net.state_dict(), fresh.state_dict())) is not None:
            raise ArtifactError(
                f"timm's weights of {architecture}: {fault}",
                hint="Take another network, or fetch them again",
            )
    return net


def weights_at_hand(architecture: str) -> bool:
    """Whether timm's weights of a network lie on this machine; nothing is fetched, nor asked for.

    Args:
        architecture: timm's name, with a tag or without; of other networks there are none.
    """
    cfg = get_pretrained_cfg(architecture) if is_model(architecture.split(".")[0]) else None
    if cfg is None or not cfg.has_weights:
        return False
    if cfg.file:
        return Path(cfg.file).is_file()
    if cfg.hf_hub_id:
        repository, _, revision = cfg.hf_hub_id.partition("@")
        files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else WEIGHT_FILES
        kept = (
            try_to_load_from_cache(repository, file, revision=revision or None) for file in files
        )
        return any(isinstance(path, str) for path in kept)
    name = urlparse(cfg.url or "").path.rpartition("/")[2]
    return bool(name) and (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()


def explain(error: Exception) -> str:
    """The message of a library's exception, in one line without a full stop."""
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if match:
        return f"it has no argument '{match[1]}'"
    return reason(error)
