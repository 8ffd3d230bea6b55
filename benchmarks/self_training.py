"""`python -m benchmarks.self_training`: rounds of self-training from 1 % of MNIST's labels.

What the threshold, class balance and soft labels do to the labels that a round makes, and to its errors. No setting
is chosen: all of them are in the table. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study import RESULTS, arguments, mean_and_sd, result_of, trained
from distill_cli.pipeline.run.stages import run
from distill_cli.recipe.schema import SelfTrainRecipe, TeacherRecipe
from distill_cli.training.events import Silent

LABELS = 60  # of each class: 600 of 60,000
SETTINGS: dict[str, dict[str, Any]] = {
    "hard, no threshold": {"threshold": 0.0},
    "hard, p ≥ 0.9": {"threshold": 0.9},
    "hard, p ≥ 0.9, balanced": {"threshold": 0.9, "balance": True},
    "soft, p ≥ 0.9": {"threshold": 0.9, "soft": True},
    "hard, p ≥ 0.99": {"threshold": 0.99},
}


def common(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What all runs of a seed have in common."""
    return {
        "data": str(Path(os.environ.get("DISTILL_DATA", "../shared/data")) / "mnist.tar.gz"),
        **{"labels_per_class": LABELS, "limit": args.images, "seed": 100 * seed},
        **{"model": "mlp_256x2", "dropout": 0.2, "augment": ["shift:2"]},
        **{"batch_size": 32, "lr": 0.05, "threads": args.threads},
    }


def rounds(args: argparse.Namespace, name: str, seed: int) -> list[dict[str, Any]]:
    """The rows of rounds.json of one self-training."""
    out = args.work / f"{list(SETTINGS).index(name)}-{seed}"
    if not (out / "rounds.json").exists() or not (out / "result.json").exists():
        values = {**common(args, seed), **SETTINGS[name], "epochs": args.epochs}
        run(SelfTrainRecipe(out=str(out), **values), sink=Silent(), overwrite=out.exists())
    made: list[dict[str, Any]] = json.loads((out / "rounds.json").read_text())["rounds"]
    return made


def longer(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """result.json of the labels alone, in as many steps as a round that takes every image."""
    out = args.work / f"labels-{seed}"
    epochs = args.epochs * args.images // (9 * LABELS)
    trained(TeacherRecipe, out, **common(args, seed), epochs=epochs)
    return result_of(out)


def cells(name: str, found: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """A line of the table for each round of a setting, but for the first, which all settings share."""
    lines = []
    for number in range(1, len(found[0])):
        rows = [rounds[number] for rounds in found]
        lines.append(
            " | ".join(
                [
                    name if number == 1 else "",
                    str(number + 1),
                    mean_and_sd(
                        [row["above"] / row["unlabelled"] for row in rows],
                        scale=100,
                        digits=1,
                        unit=" %",
                    ),
                    mean_and_sd([row["chosen"] for row in rows], digits=0),
                    mean_and_sd([row["evenness"] for row in rows], digits=4),
                    mean_and_sd([row["accuracy"] for row in rows], scale=100, digits=2, unit=" %"),
                    mean_and_sd([row["val_top1"] for row in rows], scale=100, digits=1, unit=" %"),
                    mean_and_sd([row["test_errors"] for row in rows], digits=0),
                ]
            )
        )
    return [f"| {line} |" for line in lines]


def main() -> None:
    args = arguments(__doc__, "self-training", epochs=20, images=5000, seeds=3)
    lines: list[str] = []
    for name in SETTINGS:
        found = [rounds(args, name, seed) for seed in range(args.seeds)]
        if not lines:
            first = [each[0] for each in found]
            held_out = mean_and_sd(
                [row["val_top1"] for row in first], scale=100, digits=1, unit=" %"
            )
            errors = mean_and_sd([row["test_errors"] for row in first], digits=0)
            lines.append(f"| all | 1 |  |  |  |  | {held_out} | {errors} |")
            alone = [longer(args, seed) for seed in range(args.seeds)]
            held_out = mean_and_sd(
                [each["val_top1"] for each in alone], scale=100, digits=1, unit=" %"
            )
            errors = mean_and_sd([each["test_errors"] for each in alone], digits=0)
            lines.append(f"| labels alone, longer |  |  |  |  |  | {held_out} | {errors} |")
        lines += cells(name, found)
        print("\n".join(lines[-2:]), flush=True)
        (RESULTS / "self_training.md").write_text(page(args, lines))


def page(args: argparse.Namespace, lines: Sequence[str]) -> str:
    said = [
        "# Self-training from 1 % of MNIST's labels",
        "",
        f"`distill self-train --rounds 3` of `mlp_256x2` with dropout 0.2 and views `shift:2`: {10 * LABELS} labels of "
        f"60,000, of which 60 are held out and choose the epoch, and {args.images:,} training images "
        f"(`--limit`). {args.epochs} epochs a round in batches of 32, SGD at 0.05, so that later rounds take more "
        "steps than the first; “labels alone, longer” takes as many as a round of all images. Round 1 learns the labels alone, and is the same in all rows. “Of p”: share of images without "
        "a label whose likeliest class has that probability. “Evenness”: entropy of the chosen images' classes over that of "
        "equal ones. “Right”: of the labels that were made, by the labels that were hidden. Errors of 10,000 test images. "
        f"Mean ± sd over {args.seeds} seeds; labels and images are the same ones. Nothing is chosen by these "
        "figures: all settings that were tried are here. Made by `python -m benchmarks.self_training`.",
        "",
        "| setting | round | of p | chosen | evenness | right | held out | test errors |",
        "|---|---|---|---|---|---|---|---|",
        *lines,
    ]
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    main()
