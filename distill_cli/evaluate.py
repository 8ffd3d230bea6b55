"""Runs a network over a split: logits, figures of merit, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_cli.data.ahead import copied_ahead
from distill_cli.data.split_images import Images, plain_batches
from distill_cli.errors import ArtifactError, counted
from distill_cli.metrics import Metrics, in_groups, measure, measure_as
from distill_cli.models import Network
from distill_cli.ranks import ALONE, Ranks

LATENCY_RUNS = 100
COLLECTED = 8192


@torch.no_grad()
def logits_of(
    forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor], device: torch.device
) -> Tensor:
    """fp32 logits (N, K) on the CPU of uint8 images, without augmentation.

    Args:
        forward: A network in eval mode, or a teacher's `logits`; it takes images in [0, 1].
        batches: Images as uint8 (B, C, H, W), from `Images.iter_plain()`.
        device: Device of `forward`.
    """
    collected = Collected()
    for images_BCHW in copied_ahead(batches, device):
        collected.add(forward(images_BCHW / 255).float())
    return collected.rows()


def logits_by_ranks(
    forward: Callable[[Tensor], Tensor], images: Images, device: torch.device, ranks: Ranks
) -> Tensor:
    """The same of all images on every rank, each image computed by one of them.

    A rank computes whole batches of those that a single process does: the same sums to the bit.
    """
    if ranks.alone:
        return logits_of(forward, images.iter_plain(), device)
    parts = images.iter_plain(first=ranks.number, every=ranks.count)
    own = [logits_of(forward, [part], device) for part in parts]
    if len(own) < -(-plain_batches(images) // ranks.count):
        # Weights that lie in parts are gathered by all ranks at once, as often on each.
        logits_of(forward, [torch.zeros(1, *images.size, dtype=torch.uint8)], device)
    turns = zip_longest(*ranks.values(own))
    return torch.cat([rows for turn in turns for rows in turn if rows is not None])


class Collected:
    """Rows of many batches, copied into few large tensors on their device.

    The device need not wait until the rows are read; and small tensors that outlive large ones
    would keep the allocator from reusing the memory of the large ones.
    """

    def __init__(self) -> None:
        self._full: list[Tensor] = []
        self._open: Tensor | None = None
        self._used = 0

    def add(self, rows_BK: Tensor) -> None:
        """Appends rows, fp32."""
        if self._open is None or self._used + len(rows_BK) > len(self._open):
            self._close()
            room = max(COLLECTED, len(rows_BK))
            self._open = rows_BK.new_empty(room, *rows_BK.shape[1:])
        self._open[self._used : self._used + len(rows_BK)] = rows_BK
        self._used += len(rows_BK)

    def _close(self) -> None:
        if self._open is not None:
            self._full.append(self._open[: self._used])
        self._open, self._used = None, 0

    def rows(self) -> Tensor:
        """All rows, on the CPU; an empty tensor where there is none."""
        return self.rows_on_device().cpu()

    def rows_on_device(self) -> Tensor:
        """All rows, where they were made; an empty tensor where there is none."""
        self._close()
        return torch.cat(self._full) if self._full else torch.empty(0)


def check_answers(folder: Path, logits_NK: Tensor) -> None:
    """Refuses a network whose weights are numbers, and whose answers are not.

    Raises:
        ArtifactError: A logit is NaN or infinite.
    """
    if bad := int((~logits_NK.isfinite()).any(dim=-1).sum()):
        raise ArtifactError(
            f"{folder} answers NaN or infinity to {bad:,} of {counted(len(logits_NK), 'image')}",
            hint="Its weights are too large for its arithmetic: train it again at a lower rate",
        )


def evaluate(
    network: Network,
    images: Images,
    device: torch.device,
    ranks: Ranks = ALONE,
    group_K: Tensor | None = None,
) -> Metrics:
    """The metrics of a network on images, every sample counted once; its mode is restored.

    Args:
        network: The network.
        images: Images, some of which have a label.
        device: Device of the network.
        ranks: Those that compute some of the images each.
        group_K: The group of each class, where labels name groups: answers are then groups.
    """
    training = network.training
    network.eval()
    logits_NK = logits_by_ranks(network, images, device, ranks)
    metrics = measured(network, logits_NK, images, group_K)
    network.train(training)
    return metrics


def measured(
    network: Network, logits_NK: Tensor, images: Images, group_K: Tensor | None
) -> Metrics:
    """The metrics of a network's logits on images; of groups where labels name groups."""
    if group_K is not None:
        return measure(*in_groups(logits_NK, images.label_N, group_K))
    return measure_as(network.targets, logits_NK, images.label_N, images.label_NK)


@torch.no_grad()
def latency_ms(network: nn.Module, size: tuple[int, int, int], device: torch.device) -> float:
    """Median milliseconds of one image through the network, on an otherwise idle device.

    Args:
        network: Network of images in [0, 1].
        size: Channels, height and width of an image.
        device: Device of the network.
    """
    network.eval()
    image_1CHW = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(device)
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        network(image_1CHW).cpu()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[LATENCY_RUNS // 10 :])
