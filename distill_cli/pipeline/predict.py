"""`distill predict`: classes and probabilities of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F

from distill_cli.data.decode import images_from_paths
from distill_cli.evaluate import logits_of
from distill_cli.models import Network, load_model
from distill_cli.recipe.fields import Device
from distill_cli.runtime import decide

# Images that are predicted on together.
PREDICTED = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        image: The path of the image.
        classes: By falling probability; each by itself where several may apply.
        temperature: The divisor of the logits.
        fitted_temperature: Fitted after training and stored with the network; None where there is
            none.
        labels: The labels that are likelier than not, where several may apply.
    """

    image: str
    classes: tuple[tuple[str, float], ...]
    temperature: float
    fitted_temperature: float | None
    labels: tuple[str, ...] | None = None


def predict(
    folder: Path, images: Sequence[str], *, temperature: float | None, device: Device
) -> list[Prediction]:
    """Classes and probabilities of image files, or of all images below a folder.

    Args:
        folder: A run or model folder.
        images: Files and folders.
        temperature: T of softmax(z/T), of sigmoid targets σ(z/T): the soft label that a student
            learns from at T. None for the fitted one, which makes the network as sure as it is
            right.
        device: The device to compute on.
    """
    runtime = decide(device)
    network: Network = load_model(folder).to(runtime.device).eval()
    input_spec = network.input_spec
    images_NCHW, names = images_from_paths(
        [Path(image) for image in images],
        channels=input_spec.channels,
        height=input_spec.height,
        width=input_spec.width,
    )
    logits_NK = logits_of(network, images_NCHW.split(PREDICTED), runtime.device)
    divisor = network.temperature if temperature is None else temperature
    softened_NK = logits_NK.double() / divisor
    several = network.targets == "sigmoid"
    probabilities_NK = softened_NK.sigmoid() if several else F.softmax(softened_NK, dim=-1)
    predictions = []
    for name, probability_K in zip(names, probabilities_NK.tolist(), strict=True):
        ranked = sorted(
            zip(network.class_names, probability_K, strict=True), key=lambda pair: -pair[1]
        )
        labels = tuple(name for name, share in ranked if share > 0.5) if several else None
        predictions.append(
            Prediction(
                image=name,
                classes=tuple(ranked),
                temperature=divisor,
                fitted_temperature=None if network.temperature == 1 else network.temperature,
                labels=labels,
            )
        )
    return predictions
