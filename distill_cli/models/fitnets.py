"""The thin deep networks of FitNets, registered in timm.

Romero et al., ICLR 2015 (arXiv 1412.6550), table 7: 3×3 convolutions with maxout of two pieces,
three max poolings, the last one global, a fully connected maxout layer of 500 units,
softmax. Weights without biases at 10 classes, as the authors' script counts:

    =========  ======  ===========  =========  =================
    name       layers  table 5      here       with fc_pieces=5
    =========  ======  ===========  =========  =================
    fitnet_1       11  ~250 K         249,576            345,576
    fitnet_2       11  ~862 K         861,928          1,053,928
    fitnet_3       13  ~1.6 M       1,503,304          1,695,304
    fitnet_4       19  ~2.5 M       2,544,712          2,736,712
    =========  ======  ===========  =========  =================

The appendix gives the fully connected layer five pieces, like the teacher's, and so does the
authors' file for fitnet_4; the counts of table 5 are those of two, but for FitNet 3, of which
neither is right (its 1.6 M lies halfway). The default keeps to the counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from distill_cli.models.registry import Classifier, Networks, cfg, register

# Channels of the convolutions; a 2×2 max pooling lies between the stages.
STAGES: dict[str, tuple[tuple[int, ...], ...]] = {
    "fitnet_1": ((16, 16, 16), (32, 32, 32), (48, 48, 64)),
    "fitnet_2": ((16, 32, 32), (48, 64, 80), (96, 96, 128)),
    "fitnet_3": ((32, 48, 64, 64), (80,) * 4, (128,) * 3),
    "fitnet_4": ((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6),
}


class Maxout(nn.Module):
    """The largest of the pieces of each unit; the pieces lie one after the other, in blocks."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) of (B, pieces · C, …)."""
        out: Tensor = x.unflatten(1, (self.pieces, -1)).max(dim=1).values
        return out

    def extra_repr(self) -> str:
        """The number of pieces."""
        return f"pieces={self.pieces}"


def _activation(pieces: int) -> nn.Module:
    return Maxout(pieces) if pieces > 1 else nn.ReLU()


def second_moment(pieces: int) -> float:
    """E[max(z₁, …, z_pieces)²] of standard normals; E[max(z, 0)²] for one piece."""
    if pieces == 1:
        return 0.5
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) * torch.special.ndtr(z) ** (pieces - 1)
    return float((z**2 * density).sum() / density.sum())


def _initialise(layer: nn.Conv2d | nn.Linear, pieces: int) -> None:
    """Normal weights of variance 1 / (fan_in · second_moment): activations keep their size.

    He's for ReLU, half of it for two pieces: with He's, maxout doubles the square of the
    activations in each layer. The paper's U(−0.005, 0.005) makes them vanish instead, and is
    left to RMSProp and norm constraints.
    """
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=(fan_in * second_moment(pieces)) ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ConvMaxout(nn.Module):
    """A 3×3 convolution, batch norm of every piece where wanted, maxout or ReLU."""

    def __init__(self, before: int, after: int, pieces: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after * pieces, 3, padding=1, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(after * pieces) if batch_norm else nn.Identity()
        self.activation = _activation(pieces)
        _initialise(self.conv, pieces)

    def forward(self, x: Tensor) -> Tensor:
        """Activated maps."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class DenseMaxout(nn.Module):
    """A fully connected layer with maxout or ReLU."""

    def __init__(self, before: int, after: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after * pieces)
        self.activation = _activation(pieces)
        _initialise(self.linear, pieces)

    def forward(self, x: Tensor) -> Tensor:
        """Activated units."""
        out: Tensor = self.activation(self.linear(x))
        return out


class FitNet(Classifier):
    """Convolutions and poolings in `layers`, then `hidden` and `fc`.

    The paper counts a pooling to the convolution before it. Its guided layers, each the last of
    the second stage, are thus `layers.7` of fitnet_1 and fitnet_2, `layers.9` of fitnet_3 and
    `layers.12` of fitnet_4.

    Args:
        stages: Channels of the convolutions.
        batch_norm: Batch norm after each convolution, before its maxout; the paper has none.
        pieces: Linear pieces of a convolution's maxout; 1 for ReLU.
        fc_pieces: Linear pieces of the fully connected layer; None for as many as `pieces`.
        width: Factor on the channels, which are rounded, and at least 4.
        hidden: Units of the fully connected layer.
        in_chans: Channels of the images.
        num_classes: Number of outputs.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        stages: tuple[tuple[int, ...], ...],
        batch_norm: bool = False,
        pieces: int = 2,
        fc_pieces: int | None = None,
        width: float = 1.0,
        hidden: int = 500,
        in_chans: int = 3,
        num_classes: int = 10,
        drop_rate: float = 0.0,
    ) -> None:
        fc_pieces = pieces if fc_pieces is None else fc_pieces
        if min(pieces, fc_pieces, hidden) < 1 or not width > 0:
            raise ValueError("pieces and hidden are at least 1, and width is positive")
        scaled = [[max(4, round(width * channels)) for channels in stage] for stage in stages]
        super().__init__(num_classes, scaled[-1][-1], drop_rate, head_hidden_size=hidden)
        self.layers = nn.Sequential()
        before = in_chans
        for number, stage in enumerate(scaled):
            if number:
                self.layers.append(nn.MaxPool2d(2))
            for after in stage:
                self.layers.append(ConvMaxout(before, after, pieces, batch_norm))
                before = after
        self.hidden = DenseMaxout(before, hidden, fc_pieces)
        self.fc = nn.Linear(hidden, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H/4, W/4)."""
        out: Tensor = self.layers(x)
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The fully connected layer on each map's maximum, or logits."""
        x = F.dropout(self.hidden(x.amax(dim=(2, 3))), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)


NETWORKS: Networks = {name: (FitNet, {"stages": stages}) for name, stages in STAGES.items()}

default_cfgs = generate_default_cfgs({name: cfg(first_conv="layers.0.conv") for name in NETWORKS})
register(__name__, NETWORKS)
