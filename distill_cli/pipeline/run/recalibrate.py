"""Statistics of batch norm that fit the weights as they were kept: of a quantised network.

While weights cross from level to level, running averages lag behind them, and an average of weights (`--ema`)
is another network than the one whose statistics were averaged (Izmailov et al. 2018, arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.counters import Purpose, draw
from distill_cli.data.dataset import Dataset
from distill_cli.models import Network, save_model
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.validation import labels_held_out
from distill_cli.training.events import Sink
from distill_cli.training.state import HeldOut

# Images to train on, as they lie on disk, that the statistics are of.
ROWS = 8192


def recalibrated(prepared: PreparedRun, network: Network, sink: Sink) -> Mapping[str, float]:
    """Gives a quantised network anew the statistics of its batch norm, unless held-out images speak against it.

    The statistics are a function of weights and images: a run that is stopped here comes to the same.

    Args:
        prepared: The run.
        network: Its best epoch's network, in eval mode; changed where the statistics are better.
        sink: Is told what they did.

    Returns:
        The held-out figures of what is kept; none where nothing was changed.
    """
    norms = _norms(prepared, network) if prepared.network.bits is not None else []
    batches = _batches(prepared.dataset) if norms else []
    if not batches:
        return {}
    before, kept = labels_held_out(prepared, network), [_state(norm) for norm in norms]
    with _averaging(norms):
        for images in batches:
            network(images.to(prepared.runtime.device).float() / 255)
    # All ranks did the same; the first one's counts, to the bit.
    prepared.runtime.ranks.same([value for norm in norms for value in norm.state_dict().values()])
    after = labels_held_out(prepared, network)
    told = "batch norm recalibrated on training images"
    if before.rank and after.rank[0] < before.rank[0]:
        for norm, state in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
        sink.message(f"{told}, and left as it was: held-out {_change(before, after)}")
        return {}
    sink.message(f"{told}: held-out {_change(before, after)}" if before.rank else told)
    prepared.runtime.ranks.led(lambda: save_model(network, prepared.run / "model"))
    return after.figures


def _change(before: HeldOut, after: HeldOut) -> str:
    return f"{100 * before.rank[0]:.2f} → {100 * after.rank[0]:.2f} %"


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


def _batches(dataset: Dataset) -> list[torch.Tensor]:
    """Images to train on in equal batches, drawn by their keys: in the order of rows a batch is of one class."""
    key_P = dataset.train.key_N[dataset.fit_rows]
    order = draw(0, Purpose.ROWS, key_P).argsort(stable=True)[:ROWS]
    batches = list(dataset.train.take(dataset.fit_rows[order]).iter_plain())
    # A mean over batches counts each alike; and the variance of one image is none.
    return [one for one in batches if len(one) == len(batches[0]) and len(one) > 1]
