"""The main job in a minute or two: two teachers, their soft labels, five kinds of student, on digits.

Few images have a label, as in life. On 200 labels a small fully connected student misses about twice
as many digits as a convolutional teacher; what that teacher says of images that nobody labelled
closes most of the gap. A fully connected teacher knows hardly more than its student, and its row shows
that distillation does not always help.

The setting was chosen on training digits, of which 359 stood for the test. In three draws of labels,
convolutional teachers missed 6, 22 and 8 of them, fully connected ones 26, 29 and 28; students of the
first draw, three seeds, 41 from hard labels, 32 from the fully connected teacher, 19 from the
convolutional one and 21 from both. Where 1,007 digits had labels, no student of 8 to 128 units was
clearly better for its teachers.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.data.open_splits import open_splits
from distill_cli.data.source import Source
from distill_cli.data.splits import stratified
from distill_cli.files import write_bytes, write_text
from distill_cli.pipeline.labels.dump import dump
from distill_cli.pipeline.run.train import train
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.report.comparison_page import comparison_page
from distill_cli.report.groups import Group
from distill_cli.report.run_folder import read_run
from distill_cli.report.verdict import Verdict, verdict
from distill_cli.training.events import Sink

DATA = "digits.tar"
AUGMENT = ["shift:1"]
STUDENT = "mlp_64x1"
TEACHERS: dict[str, dict[str, Any]] = {
    "teacher-a": {"model": "mlp_512x2", "dropout": 0.3},
    "teacher-b": {"model": "cifar_resnet8"},
}
HARD = "student, hard labels"
LEARNING: dict[str, tuple[str, tuple[str, ...]]] = {
    "student of teacher-a": ("single", ("teacher-a",)),
    "student of teacher-b": ("single", ("teacher-b",)),
    "student of both, ensemble": ("ensemble", ("teacher-a", "teacher-b")),
    "student of both, random": ("random", ("teacher-a", "teacher-b")),
}
LABELLED = 200
# Batches of the labelled images, 160 without those held out, and of all images: 10 and 21 steps an
# epoch. What learns from the labelled ones trains as many more epochs as makes the steps equal.
LABELLED_BATCH, BATCH = 16, 64
STEPS = (10, 21)
# After an epoch or two, which somebody may ask for, a teacher knows nothing.
NEVERTHELESS = {"force": True}
ABOUT = (
    f"Real handwritten digits, 8×8 pixels: 1,438 images to train on, {LABELLED} of them with a label "
    "(a fifth of these is held out to choose the epoch), 359 to test. The teachers and the student on "
    "hard labels learn from the labelled images; then the teachers label all images, softly, and "
    "their students learn from that. Every network is trained for as many steps, every student is the "
    "same small network, and each seed starts all of them from the same weights. Networks, rates and epochs were "
    "chosen on other digits than the test images."
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
        epochs: Passes of the students over all images; all networks train for as many steps.
        shown: The sink of a run, by its label.
        overwrite: Replace what an earlier demo left.
    """
    runs: dict[str, list[Path]] = {}
    write_bytes(out / DATA, digits_tar())
    for name, given in TEACHERS.items():
        runs[f"{name}, {given['model']}"] = [out / name]
        taught = validate(
            TeacherRecipe, {**given, **_labelled(out, epochs), "out": str(out / name)}
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
                    **NEVERTHELESS,
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
        f"{label[0].upper()}{label[1:]}: {outcome.sentence}." for label, outcome in verdicts.items()
    ]


def digits_tar() -> bytes:
    """A tar of the digits in class folders; images without a label lie loose in `train/`.

    Which images have one is drawn as splits are: as a function of their ids.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for split, source in open_splits("digits").items():
            rows = range(len(source))
            labelled = _some_of_each(source) if split == "train" else set(rows)
            for row in rows:
                names = [source.class_names[source.label(row)]] if row in labelled else []
                file = f"{source.sample_id(row).removeprefix('index:')}.png"
                image = io.BytesIO()
                source.image(row).save(image, format="PNG")
                member = tarfile.TarInfo("/".join([split, *names, file]))
                member.size = image.tell()
                image.seek(0)
                tar.addfile(member, image)
    return buffer.getvalue()


def _some_of_each(source: Source) -> set[int]:
    """Equally many rows of each class, `LABELLED` in all."""
    chosen: set[int] = set()
    classes = range(len(source.class_names))
    for label in classes:
        rows = [row for row in range(len(source)) if source.label(row) == label]
        ids = [source.sample_id(row) for row in rows]
        share = LABELLED / len(classes) / len(rows)
        chosen.update(rows[index] for index in stratified(ids, [label] * len(rows), share, seed=0))
    return chosen


def _labelled(out: Path, epochs: int) -> dict[str, Any]:
    """Values of training on the labelled images alone, for as many steps as on all."""
    labelled, every = STEPS
    return {**_common(out, epochs * every // labelled), "batch_size": LABELLED_BATCH}


def _common(out: Path, epochs: int) -> dict[str, Any]:
    return {"data": str(out / DATA), "val_fraction": 0.2, "epochs": epochs, "augment": AUGMENT}


def _students(
    out: Path, seed: int, epochs: int
) -> Iterator[tuple[str, Path, TeacherRecipe | StudentRecipe]]:
    """The student on hard labels, then by each kind of teaching; one seed."""
    shared = {"model": STUDENT, "seed": seed, "lr": 0.1}
    path = out / f"hard-{seed}"
    # The views are the cache's, so that students differ in their labels only. On held-out digits
    # the rate 0.1 was the best of 0.03, 0.1 and 0.3 for hard labels.
    hard = {**_labelled(out, epochs), **shared, "view_seed": 0}
    yield HARD, path, validate(TeacherRecipe, {**hard, "out": str(path)})
    for label, (mode, names) in LEARNING.items():
        path = out / f"{f'student-of-{names[0]}' if mode == 'single' else mode}-{seed}"
        taught = {
            **_common(out, epochs),
            **shared,
            "batch_size": BATCH,
            "teachers": [str(out / "labels" / name) for name in names],
            "mode": mode,
            **NEVERTHELESS,
            "out": str(path),
        }
        yield label, path, validate(StudentRecipe, taught)
