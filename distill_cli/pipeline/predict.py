"""`distill predict`: classes and probabilities of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from distill_cli.data.formats import MEGAPIXELS
from distill_cli.data.inventory import Left
from distill_cli.data.picture_files import picture_files, read_for_network, read_picture
from distill_cli.data.pillow_io import BAD_IMAGE, reason_of
from distill_cli.data.split_images import to_batch
from distill_cli.evaluate import check_answers, logits_of
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


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers to some images.

    Attributes:
        predictions: Those of all images that can be read, in the order in which they were given.
        unreadable: Path of each other image, and the reason.
        left: Files and folders that lie beside the images of a folder.
    """

    predictions: tuple[Prediction, ...]
    unreadable: tuple[tuple[str, str], ...]
    left: tuple[Left, ...] = ()


def predict(
    folder: Path,
    images: Sequence[str],
    *,
    temperature: float | None,
    device: Device,
    megapixels: int | None = None,
    message: Callable[[str], None] = lambda text: None,
) -> Answers:
    """Classes and probabilities of image files, or of all images below a folder.

    Args:
        folder: A run or model folder.
        images: Files and folders.
        temperature: T of softmax(z/T), of sigmoid targets σ(z/T): the soft label that a student
            learns from at T. None for the fitted one, which makes the network as sure as it is
            right.
        device: The device to compute on.
        megapixels: Pictures of more cannot be read; None for 200.
        message: Is told of weights without a checksum.

    Raises:
        ArtifactError: The network cannot be used.
        UsageError: No image is given, or a folder holds none.
    """
    runtime = decide(device)
    network: Network = load_model(folder, tell=message).to(runtime.device).eval()
    files, left = picture_files([Path(image) for image in images])
    names: list[str] = []
    unreadable: list[tuple[str, str]] = []

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(files), PREDICTED):
            pictures = []
            for file in files[start : start + PREDICTED]:
                try:
                    pictures.append(_shown(file, network, megapixels or MEGAPIXELS))
                    names.append(str(file))
                except BAD_IMAGE as error:
                    unreadable.append((str(file), reason_of(error)))
            if pictures:
                yield to_batch(pictures).contiguous()

    logits_NK = logits_of(network, batches(), runtime.device)
    if names:
        check_answers(folder, logits_NK)
    predictions = _predictions(network, names, logits_NK, temperature) if names else ()
    return Answers(predictions=predictions, unreadable=tuple(unreadable), left=tuple(left))


def _shown(file: Path, network: Network, megapixels: int) -> Image.Image:
    """A file's picture as the network is shown it."""
    if network.view is None:
        return read_for_network(file, *network.input_size, megapixels)
    return read_picture(file, network.view, megapixels)


def _predictions(
    network: Network, names: Sequence[str], logits_NK: Tensor, temperature: float | None
) -> tuple[Prediction, ...]:
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
    return tuple(predictions)
