"""`python -m benchmarks.thin`: do hints still rescue a thin deep network?

The 19 layers of FitNet 4 (Romero et al. 2015), made so thin that they have about 250,000
parameters, learn from a teacher's labels with and without a first stage of hints, without batch
norm as in 2014 and with it; as many steps in every row. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.study import RESULTS, arguments, cifar10, mean_and_sd, result_of, trained
from distill_cli.pipeline.labels.dump import dump
from distill_cli.recipe.schema import CacheRecipe, HintRecipe, StudentRecipe, TeacherRecipe
from distill_cli.recipe.stages import fitnets
from distill_cli.training.events import Silent

WIDTH = 0.29
HINT_SHARE = 3


def main() -> None:
    defaults = {"per_class": 250, "epochs": 15, "teacher_epochs": 20, "seeds": 3}
    args = arguments(__doc__, "thin", **defaults)
    work, data = args.work, str(cifar10(args.work, args.per_class))
    shared = {"data": data, "threads": args.threads, "view_seed": 0}
    views = {"augment": ["crop:4", "flip"]}
    teacher, labels = work / "teacher", work / "labels"
    trained(
        TeacherRecipe,
        teacher,
        data=str(cifar10(work, 4 * args.per_class)),
        threads=args.threads,
        **views,
        model="cifar_resnet20",
        epochs=args.teacher_epochs,
    )
    dump(
        CacheRecipe(**shared, **views, teachers=[str(teacher)], views=args.epochs, out=str(labels)),
        sink=Silent(),
        progress=lambda done, total: None,
    )
    first = args.epochs // HINT_SHARE
    common = {**shared, "batch_size": 64, "opt": "adamw", "lr": 1e-3}
    for seed in range(args.seeds):
        for norm in (False, True):
            thin: dict[str, Any] = {
                "model": "fitnet_4",
                "model_args": {"width": WIDTH, "batch_norm": norm},
                "seed": seed,
            }
            taught = {**common, **thin, "teachers": [str(labels)], "objective": fitnets()}
            trained(StudentRecipe, work / key(norm, False, seed), **taught, epochs=args.epochs)
            hints = work / f"hints-{norm}-{seed}"
            live = {**common, **views, **thin, "teachers": [str(teacher)], "epochs": first}
            trained(HintRecipe, hints, **live)
            taught |= {"init": str(hints), "epochs": args.epochs - first}
            trained(StudentRecipe, work / key(norm, True, seed), **taught)
        (RESULTS / "thin.md").write_text(report(args, work, seed + 1))


def key(norm: bool, hints: bool, seed: int) -> str:
    return f"{'norm' if norm else 'plain'}-{'hints' if hints else 'labels'}-{seed}"


def report(args: argparse.Namespace, work: Path, seeds: int) -> str:
    teacher = result_of(work / "teacher")
    layers = result_of(work / "norm-hints-0")["params"]
    first = args.epochs // HINT_SHARE
    lines = [
        "# Do hints still rescue a thin deep network?",
        "",
        f"`fitnet_4` (17 convolutions with maxout, 19 layers) at {WIDTH} of its width: {layers:,} "
        f"parameters. CIFAR-10, {10 * args.per_class:,} training images (a tenth of them held out "
        "to choose the epoch), 10,000 test images looked at once; crop and flip, AdamW at 0.001, "
        f"batches of 64, {args.epochs} epochs in every row: with hints, {first} of them are stage "
        "1. Stage 2, and the rows without hints, are the paper's: CE + λ·CE against the teacher "
        "at τ = 3, λ from 4 to 1. Teacher: `cifar_resnet20`, trained on four times as many images "
        f"({100 * teacher['test_top1']:.2f} % on test). Mean ± sd over {seeds} seeds. Made by "
        "`python -m benchmarks.thin`.",
        "",
        "| batch norm | hints | test accuracy | agrees with the teacher | held-out, best epoch |",
        "|---|---|---|---|---|",
    ]
    for norm in (False, True):
        for hints in (False, True):
            found = [result_of(work / key(norm, hints, s)) for s in range(seeds)]
            cells = [
                mean_and_sd([each[figure] for each in found], scale=100, unit=" %")
                for figure in ("test_top1", "teacher_agreement", "val_top1")
            ]
            cells[2] += f", {statistics.median(each['best_epoch'] for each in found):.0f}"
            said = ["yes" if each else "no" for each in (norm, hints)]
            lines.append(f"| {' | '.join([*said, *cells])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
