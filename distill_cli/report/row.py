"""The row of a group in a table of runs, and its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill_cli.report.format import NOTHING


@dataclass(frozen=True, kw_only=True)
class Row:
    """One group, each cell as text.

    Attributes:
        runs: Names of its run folders.
        label: Name of the group.
        errors: Test errors, mean ± sd.
        top1: Test accuracy in per cent.
        held_out: Held-out accuracy of the epoch that was kept, in per cent.
        map: Test mean average precision in per cent, where labels stand by themselves.
        f1: Test F1 of all labels together in per cent, where they do.
        nll: Test NLL in nats.
        ece: Test ECE in per cent.
        params: Parameters.
        size: Size of the weights file.
        bits: Bits of weights and of activations.
        packed: Size of the weights file, packed where they are quantised.
        latency: Time of one image.
        seeds: Runs in the group, each of another seed.
        against: Comparison with the reference in words; empty for that one.
        test_samples: Number of test images.
        speed: Training images a second.
        agreement: Test images with the teacher's class, in per cent.
        images: Images that were learnt from.
        divergence: KL from the teachers to the network on held-out images, in nats.
    """

    runs: str
    label: str
    errors: str
    top1: str
    held_out: str
    map: str
    f1: str
    nll: str
    ece: str
    params: str
    size: str
    bits: str
    packed: str
    latency: str
    seeds: int
    against: str
    test_samples: str
    speed: str
    agreement: str
    images: str
    divergence: str


# Headings for terminals, in the order of `Row`; of the page, which has room for more.
COLUMNS = {
    "runs": "run",
    "label": "what",
    "errors": "test errors",
    "top1": "test accuracy",
    "held_out": "held out",
    "map": "mAP",
    "f1": "F1",
    "nll": "NLL",
    "ece": "ECE",
    "params": "parameters",
    "size": "size",
    "bits": "bits",
    "packed": "packed",
    "latency": "one image",
    "seeds": "seeds",
    "images": "trained on",
    "divergence": "held-out KL",
}
PAGE_COLUMNS = {
    "seeds": "seeds",
    "images": "trained on",
    "errors": "test errors",
    "test_samples": "of images",
    "top1": "test accuracy",
    "held_out": "held out",
    "map": "mAP",
    "f1": "F1",
    "nll": "NLL",
    "ece": "ECE",
    "agreement": "as teacher",
    "divergence": "held-out KL",
    "params": "parameters",
    "size": "size",
    "bits": "bits",
    "packed": "packed",
    "latency": "one image",
    "speed": "images/s trained",
}
# Figures of labels that stand by themselves: not shown where no run has them.
LABEL_FIGURES = ("map", "f1")
# How well a student learnt its teacher by the images that it was shown: not shown where these are as many.
TRANSFER_FIGURES = ("images", "divergence")
# Figures of networks of few bits: not shown where there is none.
BIT_FIGURES = ("bits", "packed")
FULL_BITS = "fp32"


def has_few_bits(rows: Sequence[Row]) -> bool:
    """Whether any group has quantised weights or activations."""
    return any(row.bits != FULL_BITS for row in rows)


def hidden(rows: Sequence[Row]) -> set[str]:
    """The columns that say nothing of these groups."""
    without: set[str] = set()
    if all(row.map == NOTHING for row in rows):
        without.update(LABEL_FIGURES)
    if len({row.images for row in rows}) == 1 or all(row.divergence == NOTHING for row in rows):
        without.update(TRANSFER_FIGURES)
    if not has_few_bits(rows):
        without.update(BIT_FIGURES)
    return without


def bits_of(weights: float | None, activations: float | None) -> str:
    """`2`, `2, activations 4`, `fp32`: bits of a network's weights, and of what goes into its layers."""
    shown = FULL_BITS if weights is None else f"{weights:.0f}"
    return shown if activations is None else f"{shown}, activations {activations:.0f}"
