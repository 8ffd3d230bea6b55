"""Networks together with the spec of their input: size, channels, normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_cli.models.quantisers import Bits
from distill_cli.types import PlainView, Targets

Library = Literal["timm", "torchvision"]
# ITU-R 601 luminance, as PIL turns colour to grey.
LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Images as a dataset has them, or as a network takes them.

    Attributes:
        channels: Number of channels, 1 or 3.
        height: Height in pixels.
        width: Width in pixels.
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel, in [0, 1].
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Network(nn.Module):
    """Maps un-normalised images in [0, 1] to logits.

    Images of another channel count or size than `net` takes are converted first: grey repeated,
    colour turned to luminance (ITU-R 601), size by antialiased bilinear interpolation. Mean and
    sd have the weights' precision, so that `.double()` gives a network of fp64 throughout.

    Args:
        net: The plain network, whose state dict is saved.
        architecture: Registered name of the architecture.
        model_args: Arguments that it was built with, except for its number of classes.
        library: Library of the architecture.
        class_names: Names of the classes, in the order of the outputs.
        input_spec: Channels, size and normalisation that `net` takes.
        targets: Kind of the logits: one class of all, or each class by itself.
        temperature: Divisor that calibrates the logits, fitted after training; the forward does not
            apply it.
        view: The image that it is shown of a file, before its own size; None where it was saved by a
            version before 0.4.0, or trained elsewhere.

    Attributes:
        frozen: Modules that stay in eval mode, whatever the mode of the others.
        bits: How it is quantised while it learns; None where it is not.
        layout: What its config says of how it was quantised; None where it was not.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        architecture: str,
        model_args: Mapping[str, Any],
        library: Library,
        class_names: tuple[str, ...],
        input_spec: InputSpec,
        targets: Targets = "softmax",
        temperature: float = 1.0,
        view: PlainView | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.architecture = architecture
        self.model_args = dict(model_args)
        self.library = library
        self.class_names = class_names
        self.input_spec = input_spec
        self.targets = targets
        self.temperature = temperature
        self._shares: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.view = view
        self.frozen: tuple[nn.Module, ...] = ()
        self.bits: Bits | None = None
        self.layout: dict[str, Any] | None = None
        # They are not persistent, so that the state dict stays a plain network's; config.json has them.
        self.register_buffer("mean", _channelwise(input_spec.mean), persistent=False)
        self.register_buffer("std", _channelwise(input_spec.std), persistent=False)

    def train(self, mode: bool = True) -> Network:
        """Sets the mode of all modules but the frozen ones, which stay in eval mode."""
        super().train(mode)
        for module in self.frozen:
            module.training = False
        return self

    def normalise_by(self, spec: InputSpec) -> None:
        """Sets another mean and standard deviation, with as many channels."""
        self.input_spec = replace(self.input_spec, mean=spec.mean, std=spec.std)
        self.mean.copy_(_channelwise(spec.mean))
        self.std.copy_(_channelwise(spec.std))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width that `net` takes."""
        return self.input_spec.channels, self.input_spec.height, self.input_spec.width

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images in [0, 1] of any size, with one or three channels."""
        # Divided in place: fresh memory costs as much as the arithmetic.
        logits_BK: Tensor = self.net((self.fitted(images_BCHW) - self.mean).div_(self.std))
        return logits_BK

    def fitted(self, images_BCHW: Tensor) -> Tensor:
        """The images with the channels and the size that `net` takes."""
        if images_BCHW.shape[1] != self.input_spec.channels:
            if self.input_spec.channels == 1:
                share = self._luminance(images_BCHW)
                images_BCHW = (images_BCHW * share).sum(dim=1, keepdim=True)
            else:
                images_BCHW = images_BCHW.expand(-1, self.input_spec.channels, -1, -1)
        size = (self.input_spec.height, self.input_spec.width)
        if images_BCHW.shape[2:] != size:
            images_BCHW = F.interpolate(images_BCHW, size, mode="bilinear", antialias=True)
        return images_BCHW

    def _luminance(self, like: Tensor) -> Tensor:
        """Shares of the colours, made once where they are used: a copy would wait for the device."""
        key = (like.device, like.dtype)
        if key not in self._shares:
            self._shares[key] = like.new_tensor(LUMINANCE).view(1, -1, 1, 1)
        return self._shares[key]


def _channelwise(values: tuple[float, ...]) -> Tensor:
    """The values of the channels as fp32 (1, C, 1, 1)."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1).float()
