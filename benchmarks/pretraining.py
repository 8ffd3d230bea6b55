"""`python -m benchmarks.pretraining`: soft-target pre-training of a small MNIST student, with its controls.

Tang, Wang, Zhang 2015 (arXiv 1505.04630): soft labels first, then hard ones. The shipped recipe mnist/pretrain at
a smaller size: every row but the halves has as many steps. The rate of second stages is chosen on held-out images,
by a run with a seed of its own; test is looked at once. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study import RESULTS, arguments, mean_and_sd, result_of, trained
from distill_cli.pipeline.run.stages import run
from distill_cli.recipe import catalog
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe
from distill_cli.training.events import Silent

TUNED = 100  # the seed that only chooses the rate
RATES = (0.05, 0.01)
NAMES = {
    "hard-only": "hard labels alone",
    "soft-only": "soft labels alone",
    "kd": "both at once (kd, α 0.9)",
    "soft-then-hard": "soft labels, then hard ones",
    "soft-then-kd": "soft labels, then both at once",
    "soft": "soft labels, half of the steps",
}


class Study:
    """The runs of the table."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.data = str(Path(os.environ.get("DISTILL_DATA", "../shared/data")) / "mnist.tar.gz")

    def teacher(self) -> Path:
        """A network that learnt all labels."""
        out: Path = self.work / "teacher"
        values: dict[str, Any] = {
            "model": "mlp_512x2",
            "dropout": 0.3,
            "augment": ["shift:2"],
            "lr": 0.1,
        }
        values |= {
            "batch_size": 128,
            "epochs": self.args.teacher_epochs,
            "threads": self.args.threads,
        }
        trained(TeacherRecipe, out, data=self.data, **values)
        return out

    def figures(self, rate: float, seed: int) -> dict[str, dict[str, Any]]:
        """result.json of every stage, by its name."""
        out = self.work / f"{rate}-{seed}"
        recipe = yaml.safe_load(catalog.find("mnist/pretrain").read_text())
        epochs = self.args.epochs
        for stage in recipe["stages"]:
            if "epochs" in stage:
                stage["epochs"] = epochs // 2
            if "lr" in stage:
                stage["lr"] = rate
        recipe |= {
            "teachers": [str(self.teacher())],
            "model": "mlp_32x1",
            "epochs": epochs,
            "lr": 0.1,
        }
        recipe |= {
            "data": self.data,
            "limit": self.args.images,
            "batch_size": 64,
            "seed": seed,
            "out": str(out),
        }
        names = [stage["name"] for stage in recipe["stages"]]
        if not (out / "result.json").exists():
            values = {
                key: value for key, value in recipe.items() if key not in ("command", "about")
            }
            run(
                StudentRecipe(**values, threads=self.args.threads),
                sink=Silent(),
                resume=out.exists(),
            )
        folders = {name: out / "stages" / name for name in names[:-1]} | {names[-1]: out}
        return {name: result_of(path) for name, path in folders.items()}


def main() -> None:
    args = arguments(__doc__, "pretraining", epochs=20, teacher_epochs=6, images=5000, seeds=3)
    study = Study(args)
    tuned = {rate: study.figures(rate, TUNED)["soft-then-hard"]["val_top1"] for rate in RATES}
    rate = max(tuned, key=lambda each: tuned[each])
    found = [study.figures(rate, seed) for seed in range(args.seeds)]
    lines = [line(NAMES[name], [each[name] for each in found]) for name in NAMES]
    (RESULTS / "pretraining.md").write_text(page(args, study.teacher(), rate, lines))
    print("\n".join(lines))


def line(name: str, found: Sequence[dict[str, Any]]) -> str:
    errors = mean_and_sd([each["test_errors"] for each in found], digits=0)
    nll = mean_and_sd([each["test_nll"] for each in found], digits=4)
    held_out = mean_and_sd([each["val_top1"] for each in found], scale=100, digits=2, unit=" %")
    return f"| {name} | {errors} | {nll} | {held_out} |"


def page(args: argparse.Namespace, teacher: Path, rate: float, lines: Sequence[str]) -> str:
    wrong = result_of(teacher)["test_errors"]
    said = [
        "# Soft-target pre-training",
        "",
        f"The recipe `mnist/pretrain` with a student `mlp_32x1` on {args.images:,} training images of MNIST as they are, "
        f"{args.epochs} epochs in batches of 64 in every row (two halves where there are two stages), SGD at 0.1 and in "
        f"second stages at {rate:g} (the better of {' and '.join(f'{each:g}' for each in RATES)} on held-out images for soft "
        "labels, then hard ones, by a run of another seed). Soft labels have T 4 and come from "
        f"`mlp_512x2`, which learnt all labels shifted and makes {wrong} errors. Errors of 10,000 test "
        f"images, looked at once; mean ± sd over {args.seeds} seeds. Made by `python -m benchmarks.pretraining`.",
        "",
        "| labels | test errors | test NLL | held out |",
        "|---|---|---|---|",
        *lines,
        "",
        "Claimed (Tang et al. 2015, speech recognition): pre-training is slightly better than both at once, and both at "
        "once after it gains nothing more.",
    ]
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    main()
