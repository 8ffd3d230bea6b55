"""Quantisers of weights and activations: few levels forward, a straight-through gradient backward.

A quantiser of weights gives codes, which are small integers, and a scale; a weight is code · scale in fp32,
in training as in what is saved, so that no weight lies between its levels. Activations are quantised alike.

Shapes: a weight of any shape whose first axis is its outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

QuantiserName = Literal["wrpn", "ternary", "lsq", "binary"]
# Zhou's and Li's threshold of ternary weights, of the mean magnitude (arXiv 1605.04711, equation 6).
TERNARY_THRESHOLD = 0.7
# A step size of 0 would divide by it.
SMALLEST_STEP = 1e-8
# The mean magnitude that a weight of zeros, as some libraries begin a head with, is taken to have: from a step
# of 0 none could ever leave 0.
USUAL_SIZE = 0.01


@dataclass(frozen=True, kw_only=True)
class Bits:
    """The bits of a network's weights and of what goes into its layers.

    Attributes:
        quantizer: The name of the quantiser.
        weights: Bits of a weight; None for fp32.
        activations: Bits of an activation; None for what the arithmetic has.
        last: Bits of the classifier's weights, by LSQ; None for fp32, or with `everything` for `weights`.
        everything: The first layer and the classifier too.
    """

    quantizer: QuantiserName
    weights: int | None = None
    activations: int | None = None
    last: int | None = None
    everything: bool = False


class _StraightThrough(torch.autograd.Function):
    """A value forward, and the gradient of something else backward."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(source: Tensor, value: Tensor) -> Tensor:
    """`value` to the bit, with the gradient of `source` (Bengio et al. 2013, arXiv 1308.3432).

    `source + (value − source).detach()`, as it is often written, is another number by its rounding.
    """
    return cast("Tensor", _StraightThrough.apply(source, value.detach()))


class _LearntStep(torch.autograd.Function):
    """ŵ = round(clip(w/s, low, high))·s (Esser et al. 2020, arXiv 1902.08153, equations 1 to 3 and 5)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, low: Tensor, high: Tensor, share: Tensor
    ) -> Tensor:
        ratio = x / step
        ctx.save_for_backward(ratio, low, high, share)
        return torch.minimum(torch.maximum(ratio, low), high).round() * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad,) = grads
        ratio, low, high, share = ctx.saved_tensors
        below, above = ratio <= low, ratio >= high
        inside = ~(below | above)
        slope = torch.where(below, low, torch.where(above, high, ratio.round() - ratio))
        return grad * inside, (grad * slope).sum() * share, None, None, None


def levels_of(name: QuantiserName, bits: int) -> tuple[int, int]:
    """The least and the largest code of a weight.

    WRPN's are symmetric (Mishra et al. 2018, arXiv 1709.01134); LSQ has all 2^b integers.
    """
    if name == "binary":
        return -1, 1
    high = 2 ** (bits - 1) - 1
    return (-high, high) if name in ("wrpn", "ternary") else (-high - 1, high)


class WeightQuantiser(nn.Module, ABC):
    """A parametrisation of a weight: the weight that is used, of the one that learns.

    Attributes:
        name: Its name on the command line.
        bits: Bits of a code.
    """

    name: QuantiserName

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    @abstractmethod
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of a weight, integers in fp32, and the scale, which broadcasts over them."""

    def learning(self, weight: Tensor) -> Tensor:
        """The values whose gradient the weight gets, in the place of its levels'."""
        return weight

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its levels."""
        with torch.no_grad():
            codes, scale = self.codes(weight)
            value = codes * scale
        return straight_through(self.learning(weight), value)


class WrpnWeight(WeightQuantiser):
    """round(n·clip(w, −1, 1))/n with n = 2^(b−1) − 1; no gradient outside of [−1, 1]."""

    name = "wrpn"
    scale: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.most = levels_of("wrpn", bits)[1]
        # A number from the host in every step would keep it from being recorded.
        self.register_buffer("scale", torch.tensor(1.0 / self.most), persistent=False)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """n·w, rounded, and 1/n."""
        return (weight.clamp(-1, 1) * self.most).round(), self.scale

    def learning(self, weight: Tensor) -> Tensor:
        """The weight within its clip, beyond which it gets no gradient."""
        return weight.clamp(-1, 1)


class TernaryWeight(WeightQuantiser):
    """α·sign(w) where |w| > Δ = 0.7·mean|w|, else 0; α is the mean of |w| above Δ (TWN, arXiv 1605.04711)."""

    name = "ternary"

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """−1, 0 or 1, and α."""
        size = weight.abs()
        above = size > TERNARY_THRESHOLD * size.mean()
        scale = (size * above).sum() / above.sum().clamp(min=1)
        return weight.sign() * above, scale


class BinaryWeight(WeightQuantiser):
    """sign(w)·mean|w| of each filter, the sign of 0 being +1 (XNOR-Net, arXiv 1603.05279, equation 6).

    No gradient where |w| > 1, as of hard tanh (Courbariaux et al. 2016, arXiv 1602.02830).
    """

    name = "binary"

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """−1 or 1, and the scale of each filter."""
        axes = tuple(range(1, weight.ndim))
        return torch.where(weight < 0, -1.0, 1.0).to(weight), weight.abs().mean(axes, keepdim=True)

    def learning(self, weight: Tensor) -> Tensor:
        """The weight within its clip, beyond which it gets no gradient."""
        return weight.clamp(-1, 1)


# The quantisers that nothing but their bits makes.
BY_BITS: dict[str, Callable[[int], WeightQuantiser]] = {
    "wrpn": WrpnWeight,
    "ternary": TernaryWeight,
    "binary": BinaryWeight,
}


class LsqWeight(WeightQuantiser):
    """Levels at a step size that is learnt (LSQ, Esser et al. 2020, arXiv 1902.08153).

    The step starts at 2·mean|w|/√high, and its gradient is scaled by 1/√(N·high).

    Args:
        bits: Bits of a code.
        weight: The weight, for the first step.
    """

    name = "lsq"
    low: Tensor
    high: Tensor
    share: Tensor

    def __init__(self, bits: int, weight: Tensor) -> None:
        super().__init__(bits)
        low, high = levels_of("lsq", bits)
        size = weight.detach().abs().mean()
        size = torch.where(size > 0, size, torch.full_like(size, USUAL_SIZE))
        self.step = nn.Parameter(2 * size / high**0.5)
        share = 1.0 / (weight.numel() * high) ** 0.5
        for key, value in (("low", low), ("high", high), ("share", share)):
            self.register_buffer(key, weight.new_tensor(float(value)), persistent=False)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """w/s within its levels, rounded, and s."""
        step = positive(self.step)
        return torch.minimum(torch.maximum(weight / step, self.low), self.high).round(), step

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its levels, with the gradients of equations 3 and 5."""
        value = _LearntStep.apply(weight, positive(self.step), self.low, self.high, self.share)
        return cast("Tensor", value)


def positive(step: Tensor) -> Tensor:
    """A step size that divides: its magnitude, never 0."""
    return step.abs().clamp(min=SMALLEST_STEP)


class ActivationQuantiser(nn.Module):
    """A quantiser of what goes into a layer."""


class WrpnActivation(ActivationQuantiser):
    """round(n·clip(x, 0, 1))/n with n = 2^b − 1; no gradient outside of [0, 1].

    Args:
        bits: b.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, …), on its levels."""
        # The same bits as of n·clip(x, 0, 1), but no clip behind a ReLU: the ONNX exporter would make one of
        # both, and lose the ReLU where a residual block needs it too.
        value = (x * self.most).clamp(0, self.most).round() / self.most
        return straight_through(x.clamp(0, 1), value)


class LsqActivation(ActivationQuantiser):
    """Levels at a step size that is learnt, from 0 on where no input is negative.

    Buffers and step are saved: a network that is loaded has them from its weights.

    Args:
        bits: Bits of a code.

    Attributes:
        features: N of the gradient's scale, the values of one image; None for those of an entry of the first axis.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.features: int | None = None
        self.step = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(float(2**bits - 1)))

    @torch.no_grad()
    def begin(self, x: Tensor, size: Tensor | None = None) -> None:
        """Sets the levels and the first step, 2·mean|x|/√high, by what goes in; `size` is another mean."""
        if bool((x < 0).any()):
            low, high = levels_of("lsq", self.bits)
            self.low.fill_(low)
            self.high.fill_(high)
        size = x.abs().mean() if size is None else size
        if bool(size > 0):
            self.step.copy_(2 * size / self.high.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(B, …), on its levels."""
        # As many values as one image has: the gradient's scale is the same whatever the batch.
        count = x[0].numel() if self.features is None else self.features
        share = (count * self.high).rsqrt()
        value = _LearntStep.apply(x.float(), positive(self.step), self.low, self.high, share)
        return cast("Tensor", value).to(x.dtype)
