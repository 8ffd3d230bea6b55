"""MODEL_CARD.md of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_cli.report.table import count, size
from distill_cli.types import RunResult


def model_card(recipe: Mapping[str, Any], result: RunResult) -> str:
    """What was trained, how, what it reached and how to load it; no path of any machine."""
    data = Path(str(recipe.get("data"))).name
    lines = [
        f"# {recipe.get('model')} on {data}",
        "",
        f"An image classifier of {count(result.params)} parameters "
        f"({size(result.model_bytes)}), trained by `distill {recipe.get('command')}`.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| test errors | {result.test_errors} of {result.test_samples} |",
        f"| test accuracy | {100 * result.test_top1:.2f} % |",
        f"| test NLL | {result.test_nll:.4f} |",
        f"| test ECE, 15 bins | {100 * result.test_ece:.2f} % |",
        f"| held-out accuracy | {100 * result.val_top1:.2f} % |",
        f"| best epoch | {result.best_epoch} of {recipe.get('epochs')} |",
    ]
    if result.teacher_agreement is not None:
        lines.append(f"| agrees with its teacher | {100 * result.teacher_agreement:.1f} % |")
    lines += ["", "## Training", "", *_training(recipe), "", "## Use", "", *_use(recipe)]
    lines += ["", "One seed, one test set: the figures say nothing of other images.", ""]
    return "\n".join(lines)


def _training(recipe: Mapping[str, Any]) -> list[str]:
    keys = [
        *("objective", "mode", "temperature", "alpha", "label_smoothing", "epochs", "batch_size"),
        *("opt", "lr", "sched", "weight_decay", "augment", "dropout", "seed"),
    ]
    lines = [f"- {key}: {recipe[key]}" for key in keys if recipe.get(key) is not None]
    teachers = [Path(str(name)).name for name in recipe.get("teachers") or []]
    return [*lines, f"- teachers: {', '.join(teachers)}"] if teachers else lines


def _use(recipe: Mapping[str, Any]) -> list[str]:
    return [
        "```sh",
        "distill predict RUN image.png",
        "```",
        "",
        "```python",
        "import timm",
        "import distill_cli.models  # only for distill's own architectures",
        'model = timm.create_model("local-dir:RUN/model", pretrained=True)',
        "```",
        "",
        "Images are normalised with `mean` and `std` of model/config.json.",
    ]
