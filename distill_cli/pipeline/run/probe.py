"""Features of training images without augmentation, for objectives that judge an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill_cli.counters import Purpose, permutation
from distill_cli.data.dataset import Dataset
from distill_cli.data.split_images import Images
from distill_cli.errors import ArtifactError
from distill_cli.models import Network
from distill_cli.models.taps import signals_of
from distill_cli.types import PENULTIMATE, UNLABELLED


def check_judged(judging: Sequence[str], dataset: Dataset) -> None:
    """Refuses to judge how labels are learnt where there are none.

    Raises:
        ArtifactError: No training image has a label.
    """
    if judging and not bool((dataset.train.label_N[dataset.fit_rows] != UNLABELLED).any()):
        raise ArtifactError(
            f"objective '{judging[0]}' judges how the labels are learnt, and no training image of "
            f"{dataset.spec} has one",
            hint="Put labelled images into train/, or use another objective",
        )


@torch.no_grad()
def penultimate_of(
    network: Network,
    images: Images,
    rows: Tensor,
    seed: int,
    *,
    epoch: int,
    samples: int,
    batch: int,
) -> Sequence[Tensor]:
    """Penultimate features of some images without augmentation; see `objectives.hooks.Probe`.

    In full precision whatever the forward of training has: distances between features are small.

    Args:
        network: In any mode, which is restored.
        images: The training split.
        rows: int64 rows of it to choose from.
        seed: The seed that images are chosen by, together with the epoch.
        epoch: From 0.
        samples: The number of images to choose.
        batch: Rows of each tensor; what is left over is not looked at.
    """
    training, device = network.training, network.mean.device
    network.eval()
    chosen = rows[permutation(seed, Purpose.PROBE, len(rows), epoch)[:samples]]
    parts = [
        signals_of(network, part.to(device) / 255, (PENULTIMATE,)).features[PENULTIMATE]
        for part in images.take(chosen).iter_plain()
    ]
    network.train(training)
    feature_ND = torch.cat(parts).flatten(1).cpu()
    size = min(batch, len(feature_ND))
    return list(feature_ND[: len(feature_ND) // size * size].split(size))
