"""Runs a network over a split: logits, figures of merit, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from distill_cli.metrics import Metrics, measure

BATCH = 512
LATENCY_RUNS = 100


@torch.no_grad()
def logits_of(
    forward: Callable[[Tensor], Tensor], images_NCHW: Tensor, device: torch.device
) -> Tensor:
    """fp32 logits (N, K) on the CPU of uint8 images, without augmentation.

    Args:
        forward: A network in eval mode, or a teacher's `logits`; takes images in [0, 1].
        images_NCHW: uint8.
        device: Where `forward` computes.
    """
    parts = [
        forward(images_NCHW[start : start + BATCH].to(device).float() / 255).float().cpu()
        for start in range(0, len(images_NCHW), BATCH)
    ]
    return torch.cat(parts)


def evaluate(
    network: nn.Module, images_NCHW: Tensor, target_N: Tensor, device: torch.device
) -> Metrics:
    """The metrics of a network on uint8 images, every sample counted once; its mode is restored."""
    training = network.training
    network.eval()
    metrics = measure(logits_of(network, images_NCHW, device), target_N)
    network.train(training)
    return metrics


@torch.no_grad()
def latency_ms(network: nn.Module, image_CHW: Tensor, device: torch.device) -> float:
    """Median milliseconds of one image through the network, on an otherwise idle device."""
    network.eval()
    image_1CHW = image_CHW[None].to(device).float() / 255
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        network(image_1CHW).cpu()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[LATENCY_RUNS // 10 :])
