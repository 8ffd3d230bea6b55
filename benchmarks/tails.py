"""`python -m benchmarks.tails`: what top-k rows lose beyond T = 8, over the best even tail.

The best tail that is shared out evenly has the exact mass at every temperature. Formats 1 and 2
store the mass at T = 1, 2, 4, 8 and know it at 1/T = 0; format 2 stores its slope there too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.study import RESULTS, trained
from distill_cli.cache.codec import codec
from distill_cli.cache.plan import FORMATS
from distill_cli.data.dataset import open_dataset
from distill_cli.evaluate import logits_of
from distill_cli.files import write_text
from distill_cli.models.artifact import load_model
from distill_cli.recipe.schema import TeacherRecipe

TEMPERATURES = (1.5, 3, 6, 10, 12, 16, 20, 24, 32)
ROWS, CLASSES = 400, 1000


def digits(work: Path) -> Tensor:
    """A trained network's logits of the digits' test images."""
    trained(
        TeacherRecipe, work / "digits", data="digits", model="mlp_64x2", epochs=20, device="cpu"
    )
    network = load_model(work / "digits").eval()
    return logits_of(network, open_dataset("digits").test.iter_plain(), torch.device("cpu"))


def cases(work: Path) -> Iterator[tuple[str, Tensor, str]]:
    """Name, logits and codec."""
    trained_NK = digits(work)
    yield "digits, a trained network, `topk:1`", trained_NK, "topk:1"
    yield "digits, a trained network, `topk:3`", trained_NK, "topk:3"
    generator = torch.Generator().manual_seed(0)
    plain_NK = 2 * torch.randn(ROWS, CLASSES, generator=generator)
    yield "1,000 classes, normal, sd 2, `topk:10`", plain_NK, "topk:10"
    raised_NK = plain_NK.clone()
    raised_NK[:, :5] += 9 * torch.rand(ROWS, 5, generator=generator)
    yield "the same, five classes up to 9 higher", raised_NK, "topk:10"
    sure_NK = plain_NK.clone()
    sure_NK[:, 7] += 60
    yield "the same, one class 60 higher", sure_NK, "topk:10"
    masked_NK = plain_NK.clone()
    masked_NK[:, CLASSES // 2 :] = -1e9
    yield "the same, half of the classes at −1e9", masked_NK, "topk:10"


def excess(logits_NK: Tensor, name: str, version: int, temperature: float) -> tuple[float, float]:
    """KL(full ‖ stored) over that of the best even tail: of the means, and in the worst row."""
    how = codec(name, logits_NK.shape[1], version)
    stored = how.encode(logits_NK)
    full_NK = F.log_softmax(logits_NK.double() / temperature, dim=-1)
    inside_NK = torch.zeros_like(full_NK, dtype=torch.bool)
    inside_NK.scatter_(1, stored["ids"].long(), True)
    others = logits_NK.shape[1] - stored["ids"].shape[1]
    tail_N1 = full_NK.masked_fill(inside_NK, -torch.inf).logsumexp(-1, keepdim=True)
    best_NK = full_NK.where(inside_NK, tail_N1 - torch.tensor(others).log())
    stored_NK = how.log_probs(stored, temperature, torch.float64)
    lost_N, least_N = (
        (full_NK.exp() * (full_NK - other_NK)).sum(-1) for other_NK in (stored_NK, best_NK)
    )
    return float(lost_N.mean() / least_N.mean()), float((lost_N / least_N).max())


def main() -> None:
    """Measures, and writes the page."""
    heads = " | ".join(f"T = {temperature:g}" for temperature in TEMPERATURES)
    lines = [
        "# Tails of top-k rows",
        "",
        "Mean KL(full ‖ stored) over that of the best tail that is shared out evenly, and in brackets "
        "the largest such ratio of a row. Made by `python -m benchmarks.tails`.",
        "",
        f"| logits | format | {heads} |",
        "|---" * (2 + len(TEMPERATURES)) + "|",
    ]
    with tempfile.TemporaryDirectory() as work:
        for name, logits_NK, spelled in cases(Path(work)):
            for version in FORMATS:
                ratios = [excess(logits_NK, spelled, version, t) for t in TEMPERATURES]
                cells = " | ".join(f"{mean:.3f} ({worst:.3g})" for mean, worst in ratios)
                lines.append(f"| {name} | {version} | {cells} |")
    write_text(RESULTS / "tails.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
