"""A network that is asked while the student trains."""

from __future__ import annotations

from typing import Literal

import torch

from distill_cli.models import Network, fingerprint
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch

Precision = Literal["fp32", "fp64"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp64": torch.float64}


class LiveTeacher:
    """A frozen network in eval mode, with its own normalisation.

    Args:
        network: Moved to `device` and frozen.
        device: Where it computes.
        precision: Its arithmetic; what it says is rounded to fp32, as a cache stores it.
    """

    def __init__(
        self, network: Network, device: torch.device, precision: Precision = "fp32"
    ) -> None:
        self.fingerprint = fingerprint(network)
        self.class_names = network.class_names
        self.architecture = network.architecture
        self.dtype = DTYPES[precision]
        self.network = network.to(device=device, dtype=self.dtype).eval().requires_grad_(False)

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """fp32 logits (B, K) of images in [0, 1]."""
        with torch.no_grad():
            logits_BK: torch.Tensor = self.network(images_BCHW.to(self.dtype))
        return logits_BK.float()

    def signals(self, batch: Batch) -> DenseSignals:
        """Its logits on the batch's views."""
        return DenseSignals(self.logits(batch.images_BCHW))
