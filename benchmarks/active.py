"""`python -m benchmarks.active`: which images of MNIST to label next, by `distill query`, round by round.

The first labels are drawn at random; each round labels as many more that `query` chose, and trains anew.
Nothing is held out and nothing is tuned: epochs and rates are the same in every row, the last epoch counts,
and test errors of every round are shown, for that is what the curves are of. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.audit import part_of_mnist
from benchmarks.study import RESULTS, arguments, mean_and_sd, result_of, trained
from distill_cli.data.dataset import open_dataset
from distill_cli.pipeline.query import By, Query, query
from distill_cli.recipe.schema import TeacherRecipe

METHODS: dict[str, By] = {
    "random": "random",
    "margin": "margin",
    "disagreement": "disagreement",
}
# Networks that disagree; the figures of every method are those of one network.
COMMITTEE = 3
Curves = Mapping[str, Sequence[Sequence[int]]]


class Study:
    """Runs on MNIST of which few labels are known."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.data = str(part_of_mnist(args.work, args.pool))
        train = open_dataset(self.data).train
        self.label = dict(zip(train.sample_ids, map(int, train.label_N.tolist()), strict=True))

    def run(self, out: Path, seed: int, labels: Path | None, *, member: int = 0) -> Path:
        """A network that knows the first labels and those of a list."""
        values: dict[str, Any] = {
            **{"data": self.data, "model": "mlp_256x2", "augment": "none", "batch_size": 16},
            **{"lr": 0.01, "epochs": self.args.epochs, "threads": self.args.threads},
            **{"labels_per_class": self.args.first // 10, "label_seed": seed},
            **{"seed": seed + 100 * member, "relabel": None if labels is None else str(labels)},
        }
        trained(TeacherRecipe, out, **values)
        return out

    def errors(self, method: str, seed: int) -> list[int]:
        """Test errors after each round, the first labels' among them."""
        folder = self.work / f"{method}-{seed}"
        known: dict[str, int] = {}
        labels: Path | None = None
        errors = []
        for number in range(self.args.rounds + 1):
            # What the first labels teach does not depend on what is asked then.
            place = folder / f"round-{number}" if number else self.work / f"first-{seed}"
            members = COMMITTEE if method == "disagreement" and number < self.args.rounds else 1
            runs = [self.run(place / str(m), seed, labels, member=m) for m in range(members)]
            errors.append(int(result_of(runs[0])["test_errors"]))
            if number == self.args.rounds:
                break
            asked = self.asked(method, runs, seed)
            known |= {sample: self.label[sample] for sample, _, _ in asked.asked}
            labels = folder / f"labels-{number + 1}.csv"
            labels.parent.mkdir(parents=True, exist_ok=True)
            with labels.open("w", newline="") as file:
                csv.writer(file).writerows([("sample_id", "label"), *known.items()])
        return errors

    def asked(self, method: str, runs: Sequence[Path], seed: int) -> Query:
        quiet: dict[str, Any] = {"device": "cpu", "message": lambda text: None}
        chosen: dict[str, Any] = {"by": METHODS[method], "budget": self.args.budget, "seed": seed}
        return query([str(run) for run in runs], data=None, unlabelled=None, **chosen, **quiet)


def main() -> None:
    sizes = {"pool": 12_000, "first": 40, "budget": 40}
    args = arguments(__doc__, "active", seeds=3, rounds=5, epochs=40, **sizes)
    study = Study(args)
    curves = {}
    for method in METHODS:
        curves[method] = [study.errors(method, seed) for seed in range(args.seeds)]
        print(method, curves[method], flush=True)
    draw(args, curves)
    (RESULTS / "active.md").write_text(report(args, curves))


def labels_of(args: argparse.Namespace) -> list[int]:
    return [args.first + number * args.budget for number in range(args.rounds + 1)]


def draw(args: argparse.Namespace, curves: Curves) -> None:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for method, runs in curves.items():
        by_round = list(zip(*runs, strict=True))
        mean = [statistics.mean(errors) / 100 for errors in by_round]
        spread = [statistics.stdev(errors) / 100 for errors in by_round]
        axes.errorbar(labels_of(args), mean, spread, capsize=3, marker="o", label=method)
    axes.set(xlabel="labels", ylabel="test errors, %", xticks=labels_of(args))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(RESULTS / "active.svg", metadata={"Date": None})


def report(args: argparse.Namespace, curves: Curves) -> str:
    """The page."""
    columns = [f"{count} labels" for count in labels_of(args)]
    lines = [
        f"| {method} | "
        + " | ".join(
            mean_and_sd(errors, scale=0.01, unit=" %") for errors in zip(*runs, strict=True)
        )
        + " |"
        for method, runs in curves.items()
    ]
    last = {method: [errors[-1] for errors in runs] for method, runs in curves.items()}
    against = [
        f"{method} {mean_and_sd([b - a for a, b in zip(last[method], last['random'], strict=True)], digits=0)}"
        for method in curves
        if method != "random"
    ]
    return "\n".join(
        [
            "# Active learning",
            "",
            f"`mlp_256x2` on {args.pool:,} training images of MNIST, from {args.first} labels drawn at random, as many of each class "
            f"(`--labels-per-class {args.first // 10}`), the same for each method; in each of {args.rounds} rounds "
            f"`distill query` chooses {args.budget} of the other images of train, the data say their labels "
            "(`--relabel`), and a network is trained anew on all labels so far and on nothing else: "
            f"{args.epochs} epochs of batches of 16, SGD at 0.01, no augmentation. Nothing is held out "
            "and the last epoch counts. Nothing was tuned, but for one thing: a first attempt, on all of train at 0.05, "
            "had a training that diverged and one of 90 % errors, so the rate was lowered for all. "
            f"Disagreement is that of {COMMITTEE} networks of other seeds, whose first is the one "
            f"evaluated. Errors on 10,000 test images, mean ± sd over {args.seeds} seeds of "
            "networks and first labels. Made by `python -m benchmarks.active`.",
            "",
            f"| asked by | {' | '.join(columns)} |",
            "|---" * (len(columns) + 1) + "|",
            *lines,
            "",
            f"Fewer test errors than random with {labels_of(args)[-1]} labels, seed by seed: {'; '.join(against)}.",
            "",
            "![curves](active.svg)",
            "",
        ]
    )


if __name__ == "__main__":
    main()
