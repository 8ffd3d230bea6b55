"""How often labels are wrong, estimated from a network that learnt them. Shapes: N samples, K classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from distill_cli.data.inventory import left_in_words
from distill_cli.errors import UsageError
from distill_cli.evaluate import check_answers, logits_of
from distill_cli.models import load_model
from distill_cli.pipeline.evaluate import data_of
from distill_cli.pipeline.inputs.artifacts import once
from distill_cli.pipeline.inputs.noise_matrix import write_noise
from distill_cli.pipeline.inputs.teachers import check_classes
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.fields import Device
from distill_cli.runtime import decide


@dataclass(frozen=True, kw_only=True)
class NoiseEstimate:
    """An estimate of the matrix of label noise.

    Attributes:
        class_names: In label order.
        noise_KK: fp64, row i: the probabilities of the labels of images of class i.
        by_maximum: Classes whose row is of the sample that is surest of all, not of the percentile's.
        never: Of these, the classes that the network takes no sample for: nothing vouches for their rows.
        samples: N.
    """

    class_names: tuple[str, ...]
    noise_KK: Tensor
    by_maximum: tuple[str, ...]
    never: tuple[str, ...]
    samples: int


def noise_from(probs_NK: Tensor, percentile: float, class_names: tuple[str, ...]) -> NoiseEstimate:
    """Row i is the answer for the sample whose p_i is at a percentile of all samples' p_i.

    Patrini et al. 2017, arXiv 1609.03683, section 3: where p_i is largest, a sample is surely of class
    i, and its label's distribution is the row. They take the 97th percentile in the maximum's place, for
    single samples may be learnt by heart. Where the network takes no more samples for a class than lie
    above the percentile, the percentile's is of another class: then it is the maximum.

    Args:
        probs_NK: The network's probabilities, N > 0.
        percentile: From above 0 to 100, which is the maximum.
        class_names: K names.
    """
    samples, classes = probs_NK.shape
    place = math.floor((samples - 1) * percentile / 100)
    above = samples - 1 - place
    order_NK = probs_NK.argsort(dim=0, stable=True)
    taken_K = probs_NK.argmax(dim=1).bincount(minlength=classes)
    misses_K = taken_K <= above
    row_K = order_NK[place].where(~misses_K, order_NK[-1])
    noise_KK = probs_NK[row_K].double()
    return NoiseEstimate(
        class_names=class_names,
        noise_KK=noise_KK / noise_KK.sum(dim=1, keepdim=True),
        by_maximum=tuple(
            name
            for name, misses in zip(class_names, misses_K.tolist(), strict=True)
            if misses and above
        ),
        never=tuple(
            name for name, taken in zip(class_names, taken_K.tolist(), strict=True) if not taken
        ),
        samples=samples,
    )


def estimate_noise(
    folder: Path,
    out: Path,
    *,
    data: str | None,
    percentile: float,
    device: Device,
    message: Callable[[str], None],
) -> NoiseEstimate:
    """Estimates the noise of the labels that a run learnt, and writes it as `--noise-matrix` reads it.

    Over all images of the train split as they are, held-out ones among them; no label is read.

    Args:
        folder: A run or model folder.
        out: The CSV that is written.
        data: Other data; None for its own.
        percentile: As `noise_from` takes it.
        device: The device to compute on.
        message: Is told what of the data is left out, and of weights without a checksum.

    Raises:
        UsageError: Each class applies by itself.
        ArtifactError: The classes of model and data differ.
    """
    runtime, tell = decide(device), once(message)
    network = load_model(folder, tell=tell)
    if network.targets != "softmax":
        raise UsageError(
            f"{folder} answers yes or no for each label: wrong labels are of one class each"
        )
    dataset = data_of(folder, data, kept_recipe(folder), network.view)
    for line in left_in_words(dataset.left):
        message(line)
    check_classes(str(folder), network.class_names, dataset.class_names, hint=None)
    network = network.to(runtime.device).eval()
    logits_NK = logits_of(network, dataset.train.iter_plain(), runtime.device)
    check_answers(folder, logits_NK)
    estimate = noise_from(F.softmax(logits_NK, dim=-1), percentile, network.class_names)
    write_noise(out, estimate.noise_KK, network.class_names)
    return replace(estimate, samples=len(logits_NK))
