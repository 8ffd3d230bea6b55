"""`python -m benchmarks.teachers`: one student of two teachers, by every way of teaching it.

CIFAR-10, equal steps for all rows. Runs that are done are kept in the work folder, so that it goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.study import RESULTS, arguments, cifar10, mean_and_sd, result_of, trained
from distill_cli.pipeline.labels.dump import dump
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.training.events import Silent

NARROW = {"widths": [8, 8, 16, 32]}
TEACHERS = {"a": ("cifar_resnet20", 0), "b": ("cifar_resnet14", 1)}
# Options of each row beside the data and the student; teachers by letter, live in capitals.
ROWS: dict[str, dict[str, Any]] = {
    "hard labels": {},
    "one teacher": {"teachers": "a"},
    "ensemble of probabilities": {"teachers": "ab", "mode": "ensemble"},
    "ensemble of logits": {"teachers": "ab", "mode": "ensemble", "ensemble_of": "logits"},
    "random teacher a batch": {"teachers": "ab", "mode": "random"},
    "random teacher a sample": {"teachers": "ab", "mode": "random", "random_per": "sample"},
    "relabel": {"teachers": "ab", "mode": "relabel"},
    "DKD": {"teachers": "a", "objective": "dkd"},
    "DIST": {"teachers": "a", "objective": "dist"},
    "standardised logits": {"teachers": "a", "objective": "logit-standardisation"},
    "hint + KD (live teacher)": {"teachers": "A", "objective": "kd,hint"},
}


def main() -> None:
    defaults = {"per_class": 1000, "epochs": 10, "teacher_epochs": 20, "seeds": 3}
    args = arguments(__doc__, "teachers", **defaults)
    work, data = args.work, str(cifar10(args.work, args.per_class))
    shared = {"data": data, "threads": args.threads, "augment": ["crop:4", "flip"]}
    for letter, (model, seed) in TEACHERS.items():
        network = {"model": model, "epochs": args.teacher_epochs, "seed": seed}
        trained(TeacherRecipe, work / f"teacher-{letter}", **shared, **network)
        labels = {
            "teachers": [str(work / f"teacher-{letter}")],
            "views": args.epochs,
            "view_seed": 0,
            "out": str(work / f"labels-{letter}"),
        }
        dump(CacheRecipe(**shared, **labels), sink=Silent(), progress=lambda done, total: None)
    student = {"model": "cifar_resnet8", "model_args": NARROW, "epochs": args.epochs}
    for seed in range(args.seeds):
        for name, said in ROWS.items():
            out, own = work / f"{key(name)}-{seed}", {**said}
            letters = own.pop("teachers", "")
            if not letters:
                trained(TeacherRecipe, out, **shared, **student, seed=seed, view_seed=0)
                continue
            own["teachers"] = [
                str(work / (f"teacher-{each.lower()}" if each.isupper() else f"labels-{each}"))
                for each in letters
            ]
            where = {**shared, "view_seed": 0} if letters.isupper() else {**shared, "augment": None}
            trained(StudentRecipe, out, **where, **student, **own, seed=seed)
        (RESULTS / "teachers.md").write_text(report(args, work, seed + 1))


def key(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def report(args: argparse.Namespace, work: Path, seeds: int) -> str:
    accuracies = [100 * result_of(work / f"teacher-{each}")["test_top1"] for each in TEACHERS]
    lines = [
        "# One student, two teachers",
        "",
        f"CIFAR-10, {10 * args.per_class:,} training images (a tenth of them held out to choose "
        f"the epoch), 10,000 test images looked at once; {args.epochs} epochs and as many steps in "
        "every row, crop and flip, the same views in every row. Student: `cifar_resnet8` of a "
        "quarter of the parameters. Teachers: `cifar_resnet20` "
        f"({accuracies[0]:.2f} % on test) and `cifar_resnet14` ({accuracies[1]:.2f} %), their "
        "labels cached except where their layers are looked at; DKD, DIST, standardised logits and "
        "hint learn from the first. Every objective at its own defaults, none chosen on these data: "
        "KD, also beside the hint, and standardised logits weigh cross-entropy by 0.1, DKD and DIST "
        "by 1; the hint's weight of 200 and the batch norm in its regressor are those of public "
        "benchmarks (100 mean squared errors), DIST's two weights of 2 its authors'. Mean ± "
        f"sd over {seeds} seeds; seconds of the student's training, medians, on busy cores, "
        "dumps not counted. Made by `python -m benchmarks.teachers`.",
        "",
        "| student | test accuracy | NLL | ECE | agrees with its teacher | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in ROWS:
        found = [result_of(work / f"{key(name)}-{s}") for s in range(seeds)]
        cells = [
            mean_and_sd([each["test_top1"] for each in found], scale=100, unit=" %"),
            mean_and_sd([each["test_nll"] for each in found], digits=3),
            mean_and_sd([each["test_ece"] for each in found], scale=100, unit=" %", digits=1),
            mean_and_sd([each["teacher_agreement"] for each in found], scale=100, unit=" %"),
            f"{statistics.median(each['seconds'] for each in found):.0f}",
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
