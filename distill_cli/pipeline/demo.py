"""The main job in a minute: two teachers, their soft labels, four kinds of student, on digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.files import write_text
from distill_cli.pipeline.labels.dump import dump
from distill_cli.pipeline.run.train import train
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.report.comparison_page import comparison_page
from distill_cli.report.groups import Group
from distill_cli.report.run_folder import read_run
from distill_cli.report.verdict import Verdict, verdict
from distill_cli.training.events import Sink

AUGMENT = ["shift:1"]
STUDENT = "mlp_16x1"
TEACHERS: dict[str, dict[str, Any]] = {
    "teacher-a": {"model": "mlp_512x2", "dropout": 0.3},
    "teacher-b": {"model": "cifar_resnet8"},
}
HARD = "student, hard labels"
LEARNING: dict[str, tuple[str, tuple[str, ...]]] = {
    "student, one teacher": ("single", ("teacher-a",)),
    "student, ensemble": ("ensemble", ("teacher-a", "teacher-b")),
    "student, random teacher": ("random", ("teacher-a", "teacher-b")),
}
ABOUT = (
    "Real handwritten digits, 8×8 pixels: 1,438 to train on (a tenth of them held out to choose "
    "the epoch), 359 to test. Every student is the same small network; only its labels differ. "
    "Each seed starts all of them from the same weights."
)

Shown = Callable[[str], AbstractContextManager[Sink]]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The demo's outcome.

    Attributes:
        groups: Teachers, then each kind of student.
        verdicts: The verdict on each kind of distilled student, against hard labels.
        report: The page.
    """

    groups: list[Group]
    verdicts: dict[str, Verdict]
    report: Path


def demo(out: Path, *, seeds: int, epochs: int, shown: Shown, overwrite: bool) -> Demo:
    """Trains, dumps, distils and compares.

    Args:
        out: The folder for all runs and the report.
        seeds: Students of each kind.
        epochs: Epochs of every network.
        shown: The sink of a run, by its label.
        overwrite: Replace what an earlier demo left.
    """
    runs: dict[str, list[Path]] = {}
    for name, given in TEACHERS.items():
        runs[f"{name}, {given['model']}"] = [out / name]
        taught = validate(
            TeacherRecipe,
            {**given, **_common(epochs), "data": "digits", "out": str(out / name)},
        )
        with shown(name) as sink:
            train(taught, sink=sink, overwrite=overwrite)
    with shown("soft labels") as sink:
        for name in TEACHERS:
            labels = validate(
                CacheRecipe,
                {
                    "teachers": [str(out / name)],
                    "augment": AUGMENT,
                    "views": epochs,
                    "out": str(out / "labels" / name),
                },
            )
            dump(labels, sink=sink, progress=sink.counting("view"), overwrite=overwrite)
    for seed in range(seeds):
        for label, path, recipe in _students(out, seed, epochs):
            runs.setdefault(label, []).append(path)
            with shown(f"{label}, seed {seed}") as sink:
                train(recipe, sink=sink, overwrite=overwrite)
    groups = [
        Group(label=label, runs=tuple(read_run(path) for path in paths))
        for label, paths in runs.items()
    ]
    by_label = {group.label: group.values("test_errors") for group in groups}
    images = round(groups[0].values("test_samples")[0])
    verdicts = {
        label: verdict(by_label[HARD], by_label[label], test_samples=images) for label in LEARNING
    }
    page = comparison_page("distill on digits", ABOUT, groups, sentences(verdicts))
    write_text(out / "report.html", page)
    return Demo(groups=groups, verdicts=verdicts, report=out / "report.html")


def sentences(verdicts: dict[str, Verdict]) -> list[str]:
    """Each verdict, said of what it is about."""
    return [
        f"{label.removeprefix('student, ').capitalize()}: {outcome.sentence}."
        for label, outcome in verdicts.items()
    ]


def _common(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "augment": AUGMENT, "batch_size": 64}


def _students(
    out: Path, seed: int, epochs: int
) -> Iterator[tuple[str, Path, TeacherRecipe | StudentRecipe]]:
    """The student on hard labels, then by each kind of teaching; one seed."""
    shared = {**_common(epochs), "model": STUDENT, "seed": seed, "lr": 0.1}
    path = out / f"hard-{seed}"
    # The views are the cache's, so that students differ in their labels only. 0.1 was the best
    # rate for hard and soft labels alike on the held-out digits, of 0.025, 0.1 and 0.3.
    hard = {**shared, "data": "digits", "view_seed": 0, "out": str(path)}
    yield HARD, path, validate(TeacherRecipe, hard)
    for label, (mode, names) in LEARNING.items():
        path = out / f"{mode}-{seed}"
        taught = {
            **shared,
            "teachers": [str(out / "labels" / name) for name in names],
            "mode": mode,
            "out": str(path),
        }
        yield label, path, validate(StudentRecipe, taught)
