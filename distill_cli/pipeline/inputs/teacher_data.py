"""The images of `--teacher-data`, which live teachers see in place of the student's: matched by sample id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import Tensor

from distill_cli.cache.folder import is_cache
from distill_cli.cache.reader import CacheReader
from distill_cli.data.dataset import Dataset
from distill_cli.data.parallel import NAMED, Matched, Parallel
from distill_cli.data.pillow_io import Size
from distill_cli.data.reading import read_parallel
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.pipeline.inputs.data import worker_count
from distill_cli.pipeline.inputs.data_rules import rules_of
from distill_cli.pipeline.inputs.moved_data import typed_place
from distill_cli.pipeline.inputs.teacher_folders import moves
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.peer_options import is_peer
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.events import Sink
from distill_cli.types import UNREAD, PlainView


@dataclass(frozen=True, kw_only=True)
class TeacherData:
    """The images of a parallel data set, row by row those of the student's.

    Attributes:
        dataset: The student's data with other images: every row of train has one, be it any; held-out and
            test images are those that have a counterpart.
        missing: bool (N,): rows of train that have no counterpart.
        fingerprint: Of all images, by their ids; `UNREAD` in a dry run that did not read them.
    """

    dataset: Dataset
    missing: Tensor
    fingerprint: str

    def check(self, rows: Tensor) -> None:
        """Refuses rows that a teacher is to see, and cannot.

        Args:
            rows: int64 rows of train to train on.

        Raises:
            ArtifactError: With how many they are, and some of them.
        """
        absent = rows[self.missing[rows]].tolist()
        if absent:
            if self.dataset.transductive and absent[0] >= self.dataset.identity.samples:
                raise ArtifactError(
                    "--transductive learns from the test images, and --teacher-data "
                    f"{self.dataset.spec} has no counterparts for them to be learnt from: those are of "
                    "train alone",
                    hint="Leave one of them out",
                )
            names = [self.dataset.train.sample_ids[row] for row in absent[:NAMED]]
            more = ", …" if len(absent) > NAMED else ""
            raise ArtifactError(
                f"{len(absent):,} of {counted(len(rows), 'training image')} "
                f"{'has' if len(absent) == 1 else 'have'} no counterpart in --teacher-data "
                f"{self.dataset.spec}: {', '.join(names)}{more}",
                hint="Images are matched by sample id, which is the path below train/, or below the folder "
                "where there are no splits",
            )

    def to_json(self) -> dict[str, Any]:
        """The record of it, as plain JSON values."""
        return {"fingerprint": self.fingerprint, **self.dataset.plain_view.to_json()}


def check_teacher_data(recipe: TrainRecipe, names: Sequence[str]) -> None:
    """Refuses teachers that cannot be shown other images.

    Args:
        recipe: The recipe of any training verb.
        names: Its teachers.

    Raises:
        UsageError: One is the student itself.
    """
    if not isinstance(recipe, StudentRecipe) or recipe.teacher_data is None:
        return
    for name in names:
        if moves(name):
            whose = "learns by the student's" if is_peer(name) else "is the student itself"
            raise UsageError(
                f"--teacher-data shows images to another network, and teacher {name} {whose}",
                hint="Leave it out, or name runs and model folders alone",
            )


def check_cached_rows(recipe: TrainRecipe, names: Sequence[str], dataset: Dataset) -> None:
    """Refuses caches of other images than the student's files, where their teacher is to see other ones.

    A cache knows its labels by row. Its rows are the student's where both are made of the same files, be it
    in another size or colour; of another sensor's files nothing says so.

    Args:
        recipe: The recipe of any training verb.
        names: Its teachers.
        dataset: The student's data.

    Raises:
        ArtifactError: A cache is of other files, or of another split.
    """
    if not isinstance(recipe, StudentRecipe) or recipe.teacher_data is None:
        return
    for name in names:
        if not is_cache(Path(name)):
            continue
        try:
            reader = CacheReader(Path(name))
            reader.require_dataset(dataset.identity, transductive=dataset.transductive)
        except ArtifactError as error:
            way_on = "Name the run that it was dumped from, or leave --teacher-data out"
            raise ArtifactError(
                f"--teacher-data has a cache label the files of --data in another size or colour: {error.message}",
                hint="Leave --transductive out" if dataset.transductive else way_on,
            ) from None


def open_teacher_data(
    recipe: TrainRecipe, dataset: Dataset, members: Sequence[Member], sink: Sink, *, glance: bool
) -> TeacherData | None:
    """The parallel data set that a recipe names, matched with the student's data; None without one.

    Its images become views as the teachers were shown them, where that is known and they agree; else of
    their own size and colour.

    Args:
        recipe: The recipe of any training verb.
        dataset: The student's data.
        members: The teachers.
        sink: Is told what there is.
        glance: For a dry run: without pixels.

    Raises:
        UsageError: The recipe names nothing.
        ArtifactError: The images are unusable, or their ids may mean several samples.
    """
    if not isinstance(recipe, StudentRecipe) or recipe.teacher_data is None:
        return None
    view = _view_of(members)
    framing, size = dataset.framing, None
    rules = replace(rules_of(recipe), channels=None, dedupe=False)
    if view is not None:
        framing, size = view.framing, (view.height, view.width)
        rules = replace(rules, channels=view.channels)
    how = (recipe.skip_bad, framing, worker_count(recipe), sink.reading, glance, rules)
    spec = typed_place(recipe.teacher_data, "--teacher-data")
    parallel = read_parallel(spec, size, *how)
    found = _matched(parallel, replace(dataset, spec=spec, framing=framing))
    sink.message(_line(Path(spec).name, found, dataset, size))
    return found


def _view_of(members: Sequence[Member]) -> PlainView | None:
    """The view of a cache, or that the teachers were trained on; None where it is not known, or they differ."""
    views = {one.network.view for one in members if isinstance(one, LiveTeacher)}
    for one in members:
        if isinstance(one, CachedTeacher):
            # Its views are as they are; a live teacher beside it is shown them too.
            return one.reader.plan.view_spec.plain
    return views.pop() if len(views) == 1 else None


def _matched(parallel: Parallel, dataset: Dataset) -> TeacherData:
    """The data with the images of a parallel data set."""
    own_val = dataset.identity.val_fraction == 0
    train, val, test = dataset.train, dataset.val, dataset.test
    parallel.check_splits(
        train.sample_ids[: dataset.identity.samples],
        (*test.sample_ids, *(val.sample_ids if own_val else ())),
    )
    matches = {
        "train": parallel.matched("train", train),
        "val": parallel.matched("val" if own_val else "train", val),
        "test": parallel.matched("test", test),
    }
    images = matches["train"].images
    assert images is not None, "there are images of train"
    return TeacherData(
        dataset=replace(
            dataset,
            train=images,
            val=matches["val"].present(val),
            test=matches["test"].present(test),
        ),
        missing=matches["train"].missing,
        fingerprint=_fingerprint(list(matches.values())),
    )


def _fingerprint(matches: Sequence[Matched]) -> str:
    marks = [match.fingerprint for match in matches]
    return (
        UNREAD if UNREAD in marks else blake2b("".join(marks).encode(), digest_size=16).hexdigest()
    )


def _line(name: str, found: TeacherData, dataset: Dataset, size: Size | None) -> str:
    """The images that the teachers see, in one line."""
    seen = found.dataset
    counts = {
        "training": (int((~found.missing).sum()), len(found.missing)),
        "held-out": (len(seen.val.label_N), len(dataset.val.label_N)),
        "test": (len(seen.test.label_N), len(dataset.test.label_N)),
    }
    listed = ", ".join(f"{there:,} of {count:,} {kind}" for kind, (there, count) in counts.items())
    colour = "grey" if seen.channels == 1 else "colour"
    why = "" if size is None else " as they were trained on"
    files = ", read from files" if seen.from_files else ""
    return (
        f"teachers see {name}: {seen.height}×{seen.width} {colour}{why}{files}; {listed} images "
        "matched by sample id"
    )


def check_counterparts(found: TeacherData | None, rows: Tensor) -> None:
    """Refuses rows to train on of which the teachers have no image; without a parallel data set, none.

    Args:
        found: The parallel data set.
        rows: int64 rows of train.

    Raises:
        ArtifactError: As `TeacherData.check`.
    """
    if found is not None:
        found.check(rows)


def shown_to_teachers(found: TeacherData | None, dataset: Dataset) -> Dataset:
    """The data as the teachers see them."""
    return dataset if found is None else found.dataset


def recorded_data(found: TeacherData | None) -> dict[str, Any]:
    """The record of it in a run; nothing without."""
    return {} if found is None else {"teacher_data": found.to_json()}
