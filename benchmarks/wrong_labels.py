"""`python -m benchmarks.wrong_labels`: MNIST with 40 % of the labels wrong, and what helps.

Labels are drawn wrong by `--label-noise`, held-out ones too: what is chosen, is chosen by them. Test
labels are right, and looked at once. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study import RESULTS, arguments, mean_and_sd, result_of, trained
from distill_cli.pipeline.noise import estimate_noise
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe

RATE = 0.4
NOISES = {"sym": f"sym:{RATE}", "pair": f"pair:{RATE}"}
TUNED = 100  # the seed that only chooses settings
PERCENTILES = (97.0, 100.0)
CLASSES = 10
Entries = list[dict[str, Any]]


def kd(weight: float, temperature: float) -> Entries:
    soft = {"name": "kd", "weight": weight, "temperature": temperature}
    return [{"name": "ce", "weight": round(1 - weight, 2)}, soft]


def selective(margin: float) -> Entries:
    return [*kd(0.9, 4), {"name": "selective", "margin": margin}]


D2L = {"name": "d2l", "samples": 1024}
# The settings that are tried of each method. Those of `COPY` learn from a network of the same kind,
# trained by cross-entropy on the same labels.
METHODS: dict[str, dict[str, Entries]] = {
    "ce": {"": [{"name": "ce"}]},
    "forward, true M": {"": [{"name": "forward"}]},
    "forward, estimated M": {f"percentile {p:g}": [{"name": "forward"}] for p in PERCENTILES},
    "d2l": {
        "turn found": [{**D2L, "initial_epochs": 1, "window": 2}],
        "turn after 3": [{**D2L, "turn_epoch": 3}],
        "turn after 6": [{**D2L, "turn_epoch": 6}],
    },
    "kd from a copy": {f"{w} · kd, T {t}": kd(w, t) for w, t in ((0.9, 4), (0.9, 2), (0.5, 4))},
    "selective, kd from a copy": {f"margin {m}": selective(m) for m in (0.3, 0.6, 0.9)},
}
COPY = ("kd from a copy", "selective, kd from a copy")


def true_matrix(kind: str) -> list[list[float]]:
    """M of the noise: row i, how often images of class i get each label."""
    rows = []
    for label in range(CLASSES):
        wrong = RATE / (CLASSES - 1)
        row = [wrong if kind == "sym" else 0.0] * CLASSES
        row[label] = 1 - RATE
        if kind == "pair":
            row[(label + 1) % CLASSES] = RATE
        rows.append(row)
    return rows


class Study:
    """The runs with one kind of noise."""

    def __init__(self, args: argparse.Namespace, kind: str) -> None:
        self.work, self.kind = args.work / kind, kind
        root = Path(os.environ.get("DISTILL_DATA", "../shared/data")).resolve()
        self.shared: dict[str, Any] = {
            **{"data": str(root / "mnist.tar.gz"), "label_noise": NOISES[kind]},
            **{"limit": args.limit, "val_fraction": args.limit / 5 / 60_000, "model": "mlp_256x2"},
            **{"augment": "none", "batch_size": 64, "lr": 0.05, "epochs": args.epochs},
            **{"threads": args.threads},
        }

    def run(self, name: str, setting: str, seed: int) -> dict[str, Any]:
        key = "".join(c if c.isalnum() or c == "." else "-" for c in f"{name} {setting}".strip())
        out = self.work / f"{key}-{seed}"
        values = {**self.shared, "objective": METHODS[name][setting], "seed": seed}
        if name.startswith("forward"):
            values["noise_matrix"] = str(self.matrix(name, setting, seed))
        if name in COPY:
            trained(StudentRecipe, out, **values, teachers=[str(self.plain(seed))])
        else:
            trained(TeacherRecipe, out, **values)
        return result_of(out)

    def plain(self, seed: int) -> Path:
        """The plain run of the same seed, made already: a copy that teaches, or that M is estimated by."""
        return self.work / f"ce-{seed}"

    def matrix(self, name: str, setting: str, seed: int) -> Path:
        if name == "forward, true M":
            path = self.work / "true.csv"
            rows = [[f"{p:.17g}" for p in row] for row in true_matrix(self.kind)]
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([list(map(str, range(CLASSES))), *rows])
            return path
        percentile = float(setting.split()[1])
        path = self.plain(seed) / f"noise-{percentile:g}.csv"
        if not path.exists():
            how: dict[str, Any] = {"data": None, "percentile": percentile, "device": "cpu"}
            estimate_noise(self.plain(seed), path, message=print, **how)
        return path

    def off(self, setting: str, seed: int) -> float:
        """Mean distance of the estimated rows from those of the noise: half the sum of differences."""
        with self.matrix("forward, estimated M", setting, seed).open(newline="") as file:
            rows = [[float(p) for p in row[-CLASSES:]] for row in list(csv.reader(file))[1:]]
        pairs = zip(rows, true_matrix(self.kind), strict=True)
        return statistics.mean(
            sum(abs(p - q) for p, q in zip(row, true, strict=True)) / 2 for row, true in pairs
        )

    def chosen(self, name: str) -> str:
        """The setting of the highest accuracy on held-out images, whose labels are as wrong."""
        settings = METHODS[name]
        if len(settings) == 1:
            return next(iter(settings))
        right = {setting: self.run(name, setting, TUNED)["val_top1"] for setting in settings}
        return max(right, key=lambda setting: right[setting])


def main() -> None:
    args = arguments(__doc__, "wrong-labels", limit=10_000, epochs=10, seeds=3)
    tables: dict[str, list[str]] = {}
    for kind in NOISES:
        study, lines = Study(args, kind), tables.setdefault(kind, [])
        study.run("ce", "", TUNED)  # the copy of the runs that choose settings
        for name in METHODS:
            setting = study.chosen(name)
            found = [study.run(name, setting, seed) for seed in range(args.seeds)]
            lines.append(line(name, setting, found))
            print(f"{kind}: {lines[-1]}", flush=True)
            if name == "forward, estimated M":
                off = mean_and_sd([study.off(setting, seed) for seed in range(args.seeds)])
                lines[-1] = lines[-1].replace(setting, f"{setting}; rows off by {off}")
            (RESULTS / "wrong_labels.md").write_text(report(args, tables))


def line(name: str, setting: str, found: Sequence[dict[str, Any]]) -> str:
    errors = mean_and_sd([each["test_errors"] for each in found], digits=0)
    percent = mean_and_sd([1 - each["test_top1"] for each in found], scale=100, unit=" %")
    held_out = mean_and_sd([each["val_top1"] for each in found], scale=100, unit=" %", digits=1)
    epochs = ", ".join(str(each["best_epoch"]) for each in found)
    tried = f"{setting} (of {len(METHODS[name])})" if setting else ""
    seconds = f"{statistics.median(each['seconds'] for each in found):.0f}"
    return f"| {' | '.join([name, tried, errors, percent, held_out, epochs, seconds])} |"


def report(args: argparse.Namespace, tables: dict[str, list[str]]) -> str:
    """Both tables."""
    said = [
        "# MNIST with 40 % of the labels wrong",
        "",
        f"`mlp_256x2` on {args.limit:,} images of MNIST, {args.limit // 5:,} more held out with labels as "
        f"wrong, {args.epochs} epochs of batches of 64 in every row, SGD at 0.05, no augmentation; "
        "10,000 test images, rightly labelled, looked at once. The epoch of the best held-out "
        "accuracy is kept, and a setting is chosen by it, from one run with a seed of its own: both "
        "are chosen on wrong labels, so that 60 % is the best held-out accuracy to expect. "
        f"Mean ± sd over {args.seeds} seeds, which share their labels. M is estimated, as `distill noise "
        "estimate` does, from the plain run of the same seed at its kept epoch, over all 60,000 "
        "training images and none of their labels; its rows are off by half the sum of the differences to "
        "the true ones. A copy is that plain run too. Seconds of training are a median, on one core of a "
        "machine that did other things too. Made by `python -m benchmarks.wrong_labels`.",
    ]
    title = {
        "sym": "Symmetric: any other class (`--label-noise sym:0.4`)",
        "pair": "Pairwise: the next class (`--label-noise pair:0.4`)",
    }
    columns = (
        "method",
        "chosen",
        "test errors",
        "in per cent",
        "held out",
        "kept epochs",
        "seconds",
    )
    for kind, lines in tables.items():
        said += [
            "",
            f"## {title[kind]}",
            "",
            f"| {' | '.join(columns)} |",
            "|---" * len(columns) + "|",
        ]
        said += lines
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    main()
