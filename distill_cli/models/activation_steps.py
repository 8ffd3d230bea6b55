"""The learnt steps of a network's quantised activations: their first values, and what an image is to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from distill_cli.models.network import Network
from distill_cli.models.quantisers import LsqActivation
from distill_cli.models.taps import eval_mode


def begin_steps(network: Network, images_BCHW: Tensor, *, last_call: bool) -> None:
    """Sets the first step of each activation, from the first layer to the last, each behind those before.

    Args:
        network: Any network.
        images_BCHW: Some images in [0, 1].
        last_call: A layer that is called several times takes the step of its last call, not of all.
    """
    calls: dict[LsqActivation, tuple[Tensor, int]] = {}

    def begin(quantiser: LsqActivation, x: Tensor) -> None:
        x = x.float()
        size, count = x.abs().mean(), x.numel()
        if quantiser in calls and not last_call:
            before, earlier = calls[quantiser]
            size, count = (before * earlier + size * count) / (earlier + count), earlier + count
        calls[quantiser] = size, count
        quantiser.begin(x, size)

    _watched(network, images_BCHW, begin)


def count_features(network: Network) -> None:
    """Has the quantisers of activations know how many values go into each for one image.

    The first axis does not tell: attention in windows has the windows of all images there, some layers
    are called several times in a forward, and some see no image at all, but positions.

    Args:
        network: Any network.
    """
    counts: dict[LsqActivation, int] = {}

    def count(quantiser: LsqActivation, x: Tensor) -> None:
        counts[quantiser] = counts.get(quantiser, 0) + x.numel()

    _watched(network, network.mean.new_zeros(1, *network.input_size), count)
    for quantiser, features in counts.items():
        quantiser.features = features


def _watched(
    network: Network, images_BCHW: Tensor, see: Callable[[LsqActivation, Tensor], None]
) -> None:
    """Sends images through, in eval mode, and shows what goes into each quantiser before it does."""

    def hook(quantiser: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(quantiser, LsqActivation)
        see(quantiser, args[0])

    learnt = [module for module in network.modules() if isinstance(module, LsqActivation)]
    handles = [module.register_forward_pre_hook(hook) for module in learnt]
    try:
        if learnt:
            with eval_mode(network):
                network(images_BCHW)
    finally:
        for handle in handles:
            handle.remove()
