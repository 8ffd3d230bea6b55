"""Statistics of batch norm that fit the weights as they were kept: of a quantised network.

While weights cross from level to level, running averages lag behind them, and an average of weights (`--ema`)
is another network than the one whose statistics were averaged (Izmailov et al. 2018, arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.data.dataset import Dataset
from distill_cli.evaluate import logits_by_ranks
from distill_cli.models import Network, save_model
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.training.events import Sink
from distill_cli.types import UNLABELLED

# Images to train on, as they lie on disk, that the statistics are of.
ROWS = 8192


def recalibrated(prepared: PreparedRun, network: Network, sink: Sink) -> float | None:
    """Gives a quantised network anew the statistics of its batch norm, unless held-out images speak against it.

    The statistics are a function of weights and images: a run that is stopped here comes to the same.

    Args:
        prepared: The run.
        network: Its best epoch's network, in eval mode; changed where the statistics are better.
        sink: Is told what they did.

    Returns:
        The held-out accuracy of what is kept; None where nothing was changed.
    """
    norms = _norms(prepared, network) if prepared.network.bits is not None else []
    if not norms:
        return None
    before, kept = _held_out(prepared, network), [_state(norm) for norm in norms]
    with _averaging(norms):
        for images in _images(prepared.dataset):
            network(images.to(prepared.runtime.device).float() / 255)
    # All ranks did the same; the first one's counts, to the bit.
    prepared.runtime.ranks.same([value for norm in norms for value in _state(norm).values()])
    after = _held_out(prepared, network)
    if before is not None and after is not None and after < before:
        for norm, state in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
        return None
    if before is not None and after is not None:
        sink.message(
            f"batch norm recalibrated on training images: held-out {100 * before:.2f} → {100 * after:.2f} %"
        )
    prepared.runtime.ranks.led(lambda: save_model(network, prepared.run / "model"))
    return after


def _norms(prepared: PreparedRun, network: Network) -> list[_BatchNorm]:
    """The network's batch norms with running statistics, without those that the run froze."""
    frozen = {id(module) for module in prepared.network.frozen}
    stays = {name for name, m in prepared.network.net.named_modules() if id(m) in frozen}
    return [
        module
        for name, module in network.net.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and name not in stays
    ]


def _state(norm: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in norm.state_dict().items()}


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Has the statistics be plain means over what is shown while the context lasts."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None stands for a cumulative average in torch.
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _images(dataset: Dataset) -> Iterator[torch.Tensor]:
    return dataset.train.take(dataset.fit_rows[:ROWS]).iter_plain()


def _held_out(prepared: PreparedRun, network: Network) -> float | None:
    """The share of held-out images that the network gets right; None where none has one class."""
    dataset, runtime = prepared.dataset, prepared.runtime
    label_V = dataset.val.label_N
    if network.targets != "softmax" or dataset.group_K is not None:
        return None
    if not bool((label_V != UNLABELLED).any()):
        return None
    logits_VK = logits_by_ranks(network, dataset.val, runtime.device, runtime.ranks)
    return float((logits_VK.argmax(dim=1) == label_V).float().mean())
