"""Run folders made by hand, as the loop and `finish` write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from distill_cli.report.run_folder import RunSummary, read_run

FIGURES: dict[str, Any] = {
    "test_top1": 0.9,
    "test_errors": 36,
    "test_samples": 360,
    "test_nll": 0.31,
    "test_ece": 0.042,
    "temperature": 1.5,
    "test_nll_scaled": 0.3,
    "test_ece_scaled": 0.02,
    "val_map": None,
    "test_map": None,
    "test_coarse_top1": None,
    "test_f1": None,
    "test_macro_f1": None,
    "val_top1": 0.91,
    "best_epoch": 2,
    "params": 1_210,
    "model_bytes": 57_300,
    "weight_bits": None,
    "act_bits": None,
    "packed_bytes": None,
    "latency_ms": 0.5,
    "images_per_second": 1500.0,
    "seconds": 12.0,
    "teacher_agreement": None,
    "teacher_kl": None,
    "val_teacher_kl": None,
}
RECIPE: dict[str, Any] = {
    "command": "teacher train",
    "data": "digits",
    "model": "mlp_16x1",
    "objective": "ce",
    "epochs": 3,
    "lr": 0.1,
    "seed": 0,
    "view_seed": 0,
    "label_smoothing": None,
    "require": [],
    "recorded": {
        "device": "cpu",
        "dataset": {
            "fingerprint": "f00d",
            "samples": 1438,
            "class_names": ["0", "1"],
            "split_seed": 0,
            "val_fraction": 0.1,
        },
        "teachers": [],
        "versions": {"distill-cli": "0.1.0"},
    },
}
STUDENT = {
    "command": "student",
    "objective": "kd",
    "teachers": ["runs/a"],
    "mode": "single",
    "temperature": None,
    "alpha": None,
}
HISTORY = (
    "epoch,lr,train_loss,train_top1,train_ce,val_top1,val_nll,val_ece,images_per_second,seconds\n"
    "1,0.1,2.0,0.3,2.0,0.5,1.5,0.1,900,1.5\n"
    "2,0.05,1.0,0.6,1.0,0.9,0.5,0.1,1500,1.0\n"
    "3,0.0,0.8,0.7,0.8,0.89,0.52,0.1,1500,1.0\n"
)


def make(
    folder: Path,
    recipe: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
    history: str | None = HISTORY,
    *,
    finished: bool = True,
) -> Path:
    """A run folder with these values in place of the usual ones."""
    folder.mkdir(parents=True)
    values = {**RECIPE, "out": str(folder), **(recipe or {})}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    if finished:
        (folder / "result.json").write_text(json.dumps({**FIGURES, **(figures or {})}))
    if history is not None:
        (folder / "summary.csv").write_text(history)
    return folder


def run(folder: Path, recipe: dict[str, Any] | None = None, **figures: Any) -> RunSummary:
    """The same, read."""
    return read_run(make(folder, recipe, figures))


def seeds(root: Path, errors: list[int], recipe: dict[str, Any] | None = None) -> list[RunSummary]:
    """Runs of one recipe, one seed for each number of errors."""
    return [
        run(root / f"seed-{seed}", {**(recipe or {}), "seed": seed}, test_errors=wrong)
        for seed, wrong in enumerate(errors)
    ]
