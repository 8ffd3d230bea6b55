"""timm's conventions for our own networks, and their registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn


class Classifier(nn.Module):
    """timm's conventions for a network that ends in one linear layer, `fc`.

    Args:
        num_classes: Number of outputs.
        num_features: Channels of the last maps, or units of the last hidden layer.
        drop_rate: Dropout before `fc`.
        head_hidden_size: Inputs of `fc`, where the head has a hidden layer.
    """

    fc: nn.Module

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        drop_rate: float,
        head_hidden_size: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = num_features
        self.head_hidden_size = head_hidden_size or num_features
        self.drop_rate = drop_rate

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh last layer; Identity for 0 classes."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """The forward without the head."""
        raise AssertionError("each network has its own")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features, or logits."""
        if x.ndim == 4:
            x = x.mean(dim=(2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.forward_head(self.forward_features(x))


# The class behind each name, and its arguments.
Networks = dict[str, tuple[type[Classifier], dict[str, Any]]]


def cfg(**entries: Any) -> dict[str, Any]:
    """timm's description of a network for small colour images, with further or other entries."""
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "fixed_input_size": False,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "classifier": "fc",
        "license": "mit",
        **entries,
    }


def register(module: str, networks: Networks) -> None:
    """Enters networks in timm's registry.

    Args:
        module: `__name__` of their module, where timm looks for `default_cfgs`.
        networks: The networks by name.
    """
    for name, (cls, fixed) in networks.items():
        _register(module, name, cls, fixed)


def _register(module: str, name: str, cls: type[Classifier], fixed: dict[str, Any]) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # timm passes a pooling to every network; these have a fixed one.
        built = build_model_with_cfg(
            cls, name, pretrained, kwargs_filter=("global_pool",), **{**fixed, **kwargs}
        )
        assert isinstance(built, nn.Module)
        return built

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = module
    register_model(entrypoint)


def built_around(
    net: nn.Module,
    name: str,
    pretrained: bool,
    pretrained_cfg: Any,
    num_classes: int,
    args: Mapping[str, Any],
    **others: Any,
) -> nn.Module:
    """A network that wraps another, as timm's builder makes it, with the weights that it is to have.

    Args:
        net: The network, whole.
        name: Its registered name.
        pretrained: Load the weights that `pretrained_cfg` names.
        pretrained_cfg: timm's description of the whole network.
        num_classes: Number of outputs.
        args: Arguments of the network inside, of which timm looks at channels and size.
        others: Further arguments of timm's builder.
    """
    sized = {key: args[key] for key in ("in_chans", "img_size") if key in args}
    built = build_model_with_cfg(
        lambda **_: net,
        name,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        num_classes=num_classes,
        **sized,
        **others,
    )
    assert isinstance(built, nn.Module)
    return built


def plain_cfg(net: nn.Module) -> dict[str, Any]:
    """timm's description of the network inside, without the source of its weights."""
    base_cfg: Any = getattr(net, "pretrained_cfg", {})
    kept = (
        *("input_size", "fixed_input_size", "pool_size", "interpolation", "mean", "std"),
        *("first_conv", "classifier", "license"),
    )
    return {key: base_cfg[key] for key in kept if base_cfg.get(key) is not None}
