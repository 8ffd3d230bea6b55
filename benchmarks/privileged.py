"""`python -m benchmarks.privileged`: a teacher that sees whole images, a student of small ones, few of both.

Lopez-Paz, Bottou, Schölkopf, Vapnik 2016 (arXiv 1511.03643), section 6: MNIST at 28 × 28 for the teacher and
at 7 × 7 for the student, two layers of 20 units, 300 or 500 training images. Beside their student, one that
learns from cross-fitted labels (`cache-soft-labels --cross-fit`). Temperature and imitation weight are chosen
on held-out images, and test is looked at for what is chosen. Runs that are done are kept.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.inputs import small_images
from benchmarks.study import RESULTS, arguments, mean_and_sd, result_of, trained
from distill_cli.pipeline.cross_fit import train_folds
from distill_cli.pipeline.inputs.data import OpenedOnce
from distill_cli.pipeline.labels.dump import dump
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.training.events import Silent

# Sides of the student's images, by the number of training images.
SIDES, FOLDS = {300: (7, 4), 500: (7,)}, 5
TRAINING: dict[str, Any] = {
    "model": "mlp_20x2",
    "augment": ["none"],
    "opt": "rmsprop",
    "lr": 0.002,
    "sched": "constant",
    "warmup_epochs": 0,
    "weight_decay": 0,
    "batch_size": 32,
    "checkpoint_every": "1h",
}
# Imitation weight and temperature: 1 − λ is the hard label's weight.
GRID = [(weight, temperature) for weight in (0.25, 0.5, 1.0) for temperature in (1.0, 4.0)]
WAYS = {
    "hard": "hard labels",
    "plain": "distilled",
    "fitted": f"distilled, labels cross-fitted ({FOLDS} folds)",
}
PUBLISHED = {300: (0.80, 0.47, 0.66), 500: (0.84, 0.59, 0.74)}


@dataclass(kw_only=True)
class Repeat:
    """The runs on one subset of the training images.

    Attributes:
        folder: Where they are kept.
        data: The images.
        common: Options that all of them share.
        opened: The images by the side of a view, read once.
        chosen: By way and side, what was chosen on held-out images.
        found: By way and side, the test accuracy.
    """

    folder: Path
    data: str
    common: dict[str, Any]
    opened: dict[int, OpenedOnce]
    chosen: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    found: dict[tuple[str, int], float] = field(default_factory=dict)

    def teacher(self) -> float:
        """Trains the teacher on whole images; its test accuracy."""
        out = self.folder / "teacher"
        trained(TeacherRecipe, out, data=self.data, opening=self.opened[28], **self.common)
        return figure(out, "test_top1")

    def labels(self, way: str) -> Path:
        """The teacher's labels of whole images, or cross-fitted ones."""
        cache = self.folder / f"labels-{way}"
        if not (cache / "manifest.json").exists():
            teachers, threads = [str(self.folder / "teacher")], self.common["threads"]
            recipe = CacheRecipe(
                command="cache-soft-labels",
                teachers=teachers,
                augment=["none"],
                cross_fit=FOLDS if way == "fitted" else None,
                threads=threads,
                force=True,
                out=str(cache),
            )
            if way == "fitted":
                recipe = train_folds(recipe, shown=lambda title: nullcontext(Silent())).recipe
            dump(recipe, sink=Silent(), progress=lambda done, total: None)
        return cache

    def student(self, way: str, side: int) -> float:
        """The test accuracy of the student that held-out images choose."""
        common = {**self.common, "data": self.data, "size": side, "opening": self.opened[side]}
        if way == "hard":
            out = self.folder / f"{side}-hard"
            trained(TeacherRecipe, out, **common)
            return figure(out, "test_top1")
        cache, runs = self.labels(way), {}
        for weight, temperature in GRID:
            out = self.folder / f"{side}-{way}-{weight:g}-{temperature:g}"
            shown = {"teachers": [str(cache)], "teacher_data": self.data, "force": True}
            mixed = {"alpha": weight, "temperature": temperature}
            trained(StudentRecipe, out, **common, **shown, **mixed)
            runs[weight, temperature] = out
        best = max(runs, key=lambda key: figure(runs[key], "val_top1"))
        self.chosen[way, side] = best
        return figure(runs[best], "test_top1")


def figure(run: Path, key: str) -> float:
    """A figure of a finished run."""
    value: float = result_of(run)[key]
    return value


def often(repeats: list[Repeat], way: str, side: int) -> str:
    """What was chosen, and how often, the most frequent first."""
    chosen = [repeat.chosen[way, side] for repeat in repeats]
    counts = sorted(((chosen.count(key), key) for key in set(chosen)), reverse=True)
    return ", ".join(f"{weight:g}/{t:g} ({count})" for count, (weight, t) in counts)


def main() -> None:
    args = arguments(__doc__, "privileged", repeats=10, epochs=30)
    data = args.work / "mnist-1000.tar"
    if not data.exists():
        data = small_images(args.work, "mnist", 1000, 1200)
    opened = {side: OpenedOnce() for side in (28, 7, 4)}
    repeats: dict[int, list[Repeat]] = {images: [] for images in SIDES}
    for number in range(args.repeats):
        for images, sides in SIDES.items():
            chance = {"limit": images, "label_seed": number, "seed": number}
            common = {**TRAINING, **chance, "epochs": args.epochs, "threads": args.threads or 1}
            folder = args.work / f"{images}-{number}"
            repeat = Repeat(folder=folder, data=str(data), common=common, opened=opened)
            repeat.found["teacher", 28] = repeat.teacher()
            for side in sides:
                for way in WAYS:
                    repeat.found[way, side] = repeat.student(way, side)
            repeats[images].append(repeat)
            print(images, number, repeat.found, flush=True)
    write([line for images in SIDES for line in table(images, repeats[images])], args)


def table(images: int, repeats: list[Repeat]) -> list[str]:
    """The rows of a number of training images."""
    lines = []
    for way, side in repeats[0].found:
        values = [repeat.found[way, side] for repeat in repeats]
        accuracy = mean_and_sd(values, scale=100, unit=" %", digits=1)
        hard = [repeat.found.get(("hard", side), 0.0) for repeat in repeats]
        beside = mean_and_sd(
            [one - other for one, other in zip(values, hard, strict=True)], scale=100, digits=1
        )
        chosen = often(repeats, way, side) if way in ("plain", "fitted") else ""
        gained = beside if chosen else ""
        name = WAYS.get(way, "hard labels (the teacher)")
        lines.append(f"| {images} | {side} × {side} | {name} | {accuracy} | {gained} | {chosen} |")
    return lines


def write(lines: list[str], args: argparse.Namespace) -> None:
    """Writes the page."""
    published = "; ".join(
        f"{images} images {teacher:.2f}, {hard:.2f} and {distilled:.2f}"
        for images, (teacher, hard, distilled) in PUBLISHED.items()
    )
    page = [
        "# A teacher that sees more",
        "",
        "Networks of two layers of 20 units (`mlp_20x2`) learn MNIST from 300 or 500 training images: the teacher at "
        "28 × 28, students at 7 × 7 and at 4 × 4, by `--size 7 --teacher-data` the same images, from a cache of the "
        f"teacher's labels. RMSprop at {TRAINING['lr']}, {args.epochs} epochs of batches of {TRAINING['batch_size']}, no "
        "augmentation, for all alike. Epoch, temperature (1 or 4) and imitation weight (λ = 0.25, 0.5 or 1, `--alpha`) are "
        "those of the most held-out images right, of 1,000; test is 10,000 images. Mean ± sd over "
        f"{args.repeats} subsets of 9,000 images. Made by `python -m benchmarks.privileged`.",
        "",
        "| training images | sees | learns from | test accuracy | points beside hard labels | λ/T chosen (times) |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
        f"Published (teacher, student of 7 × 7, distilled): {published}. At 7 × 7 there is no such gap "
        "here: small images teach these networks better than whole ones, and there is nothing to hand on. At 4 × 4 "
        "the teacher is ahead, and distillation gains no more than its spread either. Nor do cross-fitted labels, by "
        "networks of a fifth fewer images; held-out images nearly always choose the smallest weight for them.",
        "",
        "What is not the same as in the paper: our 7 × 7 images are resized with antialiasing, pixels are normalised "
        "by mean and sd, the epoch is the best one on held-out images, and `kd` softens both sides by T, where the "
        "paper softens the teacher's alone. Which of it makes the student of 7 × 7 so much better was not looked "
        "into. Optimiser, rate and epochs were settled by a few trials on one subset, and are not tuned for a method.",
    ]
    (RESULTS / "privileged.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
