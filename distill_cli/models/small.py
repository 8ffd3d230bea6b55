"""Our own small networks, registered in timm: MLPs and the CIFAR residual networks.

The residual networks have the parameter counts of the distillation literature (tested).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from distill_cli.models.registry import Classifier, Networks, cfg, register

Size = int | tuple[int, int] | list[int]


class Mlp(Classifier):
    """Linear–ReLU layers with dropout after each, as Hinton et al. 2014 have for MNIST.

    Args:
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        img_size: Size of the images in pixels, one side or (height, width).
        in_chans: Channels of the images.
        num_classes: Number of outputs.
        drop_rate: Dropout after each hidden layer.
        input_dropout: Dropout on the pixels.
    """

    def __init__(
        self,
        width: int = 800,
        depth: int = 2,
        img_size: Size = 28,
        in_chans: int = 1,
        num_classes: int = 10,
        drop_rate: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        if width < 1 or depth < 1:
            raise ValueError("width and depth are at least 1")
        super().__init__(num_classes, width, drop_rate)
        height, breadth = (img_size, img_size) if isinstance(img_size, int) else img_size
        sizes = [in_chans * height * breadth, *[width] * depth]
        self.input_dropout = input_dropout
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        # Modules, so that a hook can see a hidden layer after its activation.
        self.activations = nn.ModuleList(nn.ReLU() for _ in self.layers)
        self.fc = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last hidden layer, (B, width); its dropout belongs to the head."""
        x = F.dropout(x.flatten(1), self.input_dropout, self.training)
        for index, (layer, activation) in enumerate(
            zip(self.layers, self.activations, strict=True)
        ):
            if index:
                x = F.dropout(x, self.drop_rate, self.training)
            x = activation(layer(x))
        return x


def _conv(before: int, after: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


class _Basic(nn.Module):
    """Two 3×3 convolutions; a 1×1 projection with batch norm where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after, stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after), nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                _conv(before, after, stride, kernel=1), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + shortcut)


class _PreActivation(nn.Module):
    """Batch norm and ReLU before each convolution; the projection sees the activated input."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), _conv(before, after, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), _conv(after, after)
        self.shortcut = None
        if stride != 1 or before != after:
            self.shortcut = _conv(before, after, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut
        return out


def _stages(
    block: Callable[[int, int, int], nn.Module], widths: tuple[int, ...], blocks: int
) -> nn.ModuleList:
    """Three stages; the second and third halve the resolution in their first block."""
    stages = nn.ModuleList()
    for number, (before, after) in enumerate(pairwise(widths)):
        stride = 1 if number == 0 else 2
        first = block(before, after, stride)
        stages.append(nn.Sequential(first, *[block(after, after, 1) for _ in range(blocks - 1)]))
    return stages


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CifarResNet(Classifier):
    """He et al. 2016 (arXiv 1512.03385), section 4.2, with projection shortcuts.

    The paper's own CIFAR networks pad their shortcuts with zeros; like the benchmarks of the
    distillation literature (CRD, Tian et al. 2020) these project them, 1×1 convolution and batch
    norm, where the shape changes.

    Args:
        depth: Number of layers, 6n + 2.
        widths: Channels of the stem and the three stages; ×4 networks have a wider stem too.
        in_chans: Channels of the images.
        num_classes: Number of outputs.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        in_chans: int = 3,
        num_classes: int = 10,
        drop_rate: float = 0.0,
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth is 6n + 2, not {depth}")
        super().__init__(num_classes, widths[-1], drop_rate)
        self.conv1, self.bn1 = _conv(in_chans, widths[0]), nn.BatchNorm2d(widths[0])
        self.stages = _stages(_Basic, widths, (depth - 2) // 6)
        self.fc = nn.Linear(widths[-1], num_classes)
        _initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H/4, W/4)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return x


class CifarWideResNet(Classifier):
    """Zagoruyko & Komodakis 2016 (arXiv 1605.07146): pre-activation, 6n + 4 layers.

    Args:
        depth: Number of layers, 6n + 4.
        widen: Factor on 16, 32 and 64 channels.
        in_chans: Channels of the images.
        num_classes: Number of outputs.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        in_chans: int = 3,
        num_classes: int = 10,
        drop_rate: float = 0.0,
    ) -> None:
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise ValueError(f"depth is 6n + 4 and widen at least 1, not {depth} and {widen}")
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        super().__init__(num_classes, widths[-1], drop_rate)
        self.conv1 = _conv(in_chans, widths[0])
        self.stages = _stages(_PreActivation, widths, (depth - 4) // 6)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], num_classes)
        _initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H/4, W/4)."""
        x = self.conv1(x)
        for stage in self.stages:
            x = stage(x)
        return F.relu(self.norm(x))


WIDE_4 = (32, 64, 128, 256)
NETWORKS: Networks = {
    "distill_mlp": (Mlp, {}),
    **{f"cifar_resnet{d}": (CifarResNet, {"depth": d}) for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f"cifar_resnet{d}x4": (CifarResNet, {"depth": d, "widths": WIDE_4}) for d in (8, 32)},
    **{
        f"cifar_wrn_{d}_{k}": (CifarWideResNet, {"depth": d, "widen": k})
        for d in (16, 28, 40)
        for k in (1, 2)
    },
}


def _cfg(name: str) -> dict[str, Any]:
    if name != "distill_mlp":
        return cfg(first_conv="conv1")
    return cfg(
        input_size=(1, 28, 28),
        fixed_input_size=True,
        mean=(0.5,),
        std=(0.5,),
        first_conv="layers.0",
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in NETWORKS})
register(__name__, NETWORKS)


def suggested(channels: int, height: int, width: int) -> str:
    """A small student suited to images of this size and colour."""
    side = max(height, width)
    if channels == 1 and side <= 40:
        return "mlp_64x1" if side <= 16 else "mlp_256x2"
    return "cifar_resnet20" if side <= 64 else "resnet18"
