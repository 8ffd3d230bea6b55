"""`distill export --format onnx`: made, compared on real images, and only then written. Shapes: N images, K classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.inventory import left_in_words
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.evaluate import check_answers, latency_ms, logits_of, measured
from distill_cli.files import write_bytes
from distill_cli.metrics import agreement, label_agreement
from distill_cli.models import Network, load_model, model_bytes
from distill_cli.models.quantisers import ActivationQuantiser
from distill_cli.pipeline.evaluate import as_held_out, data_of
from distill_cli.pipeline.export.int8 import int8_of
from distill_cli.pipeline.export.onnx_file import OnnxNetwork, onnx_of, with_facts
from distill_cli.pipeline.inputs.artifacts import once
from distill_cli.pipeline.inputs.teachers import check_classes
from distill_cli.pipeline.kept import kept_recipe

# How far logits may be from the network's where both compute in fp32, of the largest of them.
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """An ONNX file, beside the network that it was made of.

    Attributes:
        bytes: Size of the file.
        model_bytes: Size of the network's weights file.
        images: Held-out images that both answered.
        agreement: Share of them with the same class; of sigmoid targets, of pairs of image and label.
        top1: Accuracy of the file's answers; None where the run held no label out, as the next.
        original_top1: Accuracy of the network's answers.
        largest_difference: Of two logits of one image and class.
        latency_ms: Median time of one image in ONNX Runtime on this CPU.
        fp32_latency_ms: The same of the file in fp32.
        original_latency_ms: The same of the network in torch.
        calibrated_on: Training images that set the ranges of INT8; None in fp32.
    """

    bytes: int
    model_bytes: int
    images: int
    agreement: float
    top1: float | None
    original_top1: float | None
    largest_difference: float
    latency_ms: float
    fp32_latency_ms: float
    original_latency_ms: float
    calibrated_on: int | None


def export_onnx(
    folder: Path,
    out: Path,
    *,
    data: str | None,
    calibrate: int | None,
    require: float,
    message: Callable[[str], None],
) -> OnnxExport:
    """Writes a run's network as an ONNX file, once it has answered real images as the network does.

    Args:
        folder: A run or model folder.
        out: The file.
        data: Its data, or other data of the same classes; None for its own.
        calibrate: For INT8, how many training images set the ranges; None for fp32.
        require: The least share of held-out images with the class that the network says.
        message: Is told what of the data is left out, and of weights without a checksum.

    Raises:
        UsageError: Nobody says which data there are.
        ArtifactError: The file would answer otherwise than the network, or torch cannot make it.
    """
    network = load_model(folder, tell=once(message))
    dataset, labelled = _data(folder, data, network, message)
    plain = onnx_of(folder, network)
    content = with_facts(_copy(plain), network, {})
    original = logits_of(network, dataset.val.iter_plain(), torch.device("cpu"))
    check_answers(folder, original)
    fp32 = OnnxNetwork(content, network.fitted)
    if calibrate is None:
        made, used = fp32, None
    else:
        rows = _calibration_rows(dataset, calibrate)
        used, batches = len(rows), dataset.train.take(rows).iter_plain()
        int8 = {"int8": {"images": used}}
        content = with_facts(int8_of(plain, batches, network.fitted), network, int8)
        made = OnnxNetwork(content, network.fitted)
    logits_NK = logits_of(made, dataset.val.iter_plain(), torch.device("cpu"))
    same, difference = _compared(network, original, logits_NK)
    _check_agreement(folder, same, len(original), require, int8=calibrate is not None)
    if calibrate is None:
        _check_rounding(folder, network, difference, float(original.abs().max()))
    size, cpu = network.input_size, torch.device("cpu")
    time = latency_ms(fp32, size, cpu)
    write_bytes(out, content)
    return OnnxExport(
        bytes=len(content),
        model_bytes=model_bytes(folder),
        images=len(original),
        agreement=same,
        top1=_top1(network, dataset, logits_NK) if labelled else None,
        original_top1=_top1(network, dataset, original) if labelled else None,
        largest_difference=difference,
        latency_ms=time if made is fp32 else latency_ms(made, size, cpu),
        fp32_latency_ms=time,
        original_latency_ms=latency_ms(network, size, cpu),
        calibrated_on=used,
    )


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _data(
    folder: Path, data: str | None, network: Network, message: Callable[[str], None]
) -> tuple[Dataset, bool]:
    """The data under the run's split and labels, and whether it held any labels out."""
    kept = kept_recipe(folder)
    dataset = data_of(folder, data, kept, network.view)
    for line in left_in_words(dataset.left):
        message(line)
    check_classes(str(folder), network.class_names, dataset.class_names, hint=None)
    try:
        return as_held_out(folder, dataset, kept), True
    except UsageError:
        # It held no label out: the split's images are answered, and their labels stay hidden.
        return dataset, False


def _calibration_rows(dataset: Dataset, count: int) -> Tensor:
    """Rows of `train`, drawn from those to train on, the same for the same data."""
    rows = dataset.fit_rows
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]
    return rows[drawn.sort().values]


def _compared(network: Network, original_NK: Tensor, logits_NK: Tensor) -> tuple[float, float]:
    """The share of answers that are the network's, and the largest difference of two logits."""
    if network.targets == "softmax":
        same, _ = agreement(logits_NK, F.log_softmax(original_NK.double(), dim=-1))
    else:
        same, _ = label_agreement(logits_NK, original_NK)
    return same, float((logits_NK - original_NK).abs().max())


def _top1(network: Network, dataset: Dataset, logits_NK: Tensor) -> float:
    return measured(network, logits_NK, dataset.val, dataset.group_K).top1


def _check_agreement(folder: Path, same: float, images: int, require: float, *, int8: bool) -> None:
    """Refuses a file whose answers are not the network's."""
    if not same >= require:
        raise ArtifactError(
            f"{'in INT8' if int8 else 'as ONNX'} the network of {folder} gives {100 * same:.1f} % of "
            f"{counted(images, 'held-out image')} the class that it gave them, less than "
            f"--require-agreement {require:g}; nothing is written",
            hint="Try --calibrate with more images, or leave --int8 out" if int8 else None,
        )


def _check_rounding(folder: Path, network: Network, difference: float, largest: float) -> None:
    """Refuses logits in fp32 that differ by more than rounding."""
    # A level of an activation may be the next one by the rounding of a sum.
    if any(isinstance(module, ActivationQuantiser) for module in network.modules()):
        return
    if not difference <= ROUNDING * (1 + largest):
        raise ArtifactError(
            f"as ONNX the network of {folder} has logits that are {difference:.3g} off; nothing is written",
            hint="Another version of torch or onnxruntime may do it right",
        )
