"""Runs a network over a split: logits, figures of merit, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from distill_cli.metrics import Metrics, measure

LATENCY_RUNS = 100


@torch.no_grad()
def logits_of(
    forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor], device: torch.device
) -> Tensor:
    """fp32 logits (N, K) on the CPU of uint8 images, without augmentation.

    Args:
        forward: A network in eval mode, or a teacher's `logits`; takes images in [0, 1].
        batches: uint8 (B, C, H, W): `Images.still()`.
        device: Where `forward` computes.
    """
    # Copied back at the end: until then the device need not wait for anybody.
    parts = [
        forward(images_BCHW.to(device, non_blocking=True).float() / 255).float()
        for images_BCHW in batches
    ]
    return torch.cat(parts).cpu()


def evaluate(
    network: nn.Module, batches: Iterable[Tensor], target_N: Tensor, device: torch.device
) -> Metrics:
    """The metrics of a network on uint8 images, every sample counted once; its mode is restored."""
    training = network.training
    network.eval()
    metrics = measure(logits_of(network, batches, device), target_N)
    network.train(training)
    return metrics


@torch.no_grad()
def latency_ms(network: nn.Module, size: tuple[int, int, int], device: torch.device) -> float:
    """Median milliseconds of one image through the network, on an otherwise idle device.

    Args:
        network: Takes images in [0, 1].
        size: Channels, height and width of an image.
        device: Where the network is.
    """
    network.eval()
    image_1CHW = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(device)
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        network(image_1CHW).cpu()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[LATENCY_RUNS // 10 :])
