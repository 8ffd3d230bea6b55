"""The views of a run beside those that its student learns from, and its two streams of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distill_cli.counters import Purpose
from distill_cli.data.augment import check_names
from distill_cli.data.dataset import Dataset
from distill_cli.data.loader import OtherViews
from distill_cli.data.split_images import Images, labelled
from distill_cli.data.streams import Streams
from distill_cli.data.views import Views
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.objectives.compose import Composition
from distill_cli.objectives.hooks import needs_of
from distill_cli.pipeline.inputs.data import view_spec, worker_count
from distill_cli.pipeline.inputs.parallel_views import (
    OF_CACHE,
    beside_cache,
    check_size,
    of_parallel,
)
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.teachers.mixture import Assigned
from distill_cli.types import Need, Share, Teacher, ViewSpec


@dataclass(frozen=True, kw_only=True)
class ViewSpecs:
    """The views of a run.

    Attributes:
        student: Of the images that are learnt from.
        teacher: What the teacher is shown; None where it sees the same.
        labelled: Of labelled images, where they come in a stream of their own and are shown otherwise.
        teacher_images: Images of a parallel data set that the teacher's views are made of, row by row; None
            for the student's own.
    """

    student: ViewSpec
    teacher: ViewSpec | None = None
    labelled: ViewSpec | None = None
    teacher_images: Images | None = None

    @property
    def taught(self) -> ViewSpec:
        """The views that the teacher is shown."""
        return self.student if self.teacher is None else self.teacher

    def kept(self, recipe: TrainRecipe) -> dict[str, Any]:
        """The keys of a recipe that say them, every parameter spelt out."""
        if not isinstance(recipe, StudentRecipe) or recipe.teacher_augment is None:
            teacher = None
        elif recipe.teacher_augment == [OF_CACHE]:
            teacher = [OF_CACHE]
        else:
            teacher = list(self.taught.augment) or ["none"]
        streams = isinstance(recipe, StudentRecipe) and recipe.unlabelled_share is not None
        labelled = list((self.labelled or self.student).augment) or ["none"]
        return {
            **({} if teacher is None else {"teacher_augment": teacher}),
            **({"labelled_augment": labelled} if streams else {}),
        }


def check_other_views(recipe: StudentRecipe) -> None:
    """Refuses views beside the student's that make no sense whatever data and teachers are.

    Raises:
        UsageError: There is no such augmentation, or as `check_streams`.
    """
    check_names([name for name in recipe.teacher_augment or [] if name != OF_CACHE])
    check_names(recipe.labelled_augment)
    check_streams(recipe, recipe.order, recipe.mode)


def view_specs(
    recipe: TrainRecipe,
    dataset: Dataset,
    cached: ViewSpec | None,
    parallel: Dataset | None = None,
) -> ViewSpecs:
    """The views that a training shows.

    Args:
        recipe: The recipe of any training verb.
        dataset: Whose images are shown.
        cached: The views of a cache; None without one.
        parallel: The same data with other images, which the teacher is shown; None for the same ones.

    Raises:
        UsageError: They contradict each other, or there is no cache.
        ArtifactError: A flag contradicts the cache.
    """
    if not isinstance(recipe, StudentRecipe):
        return ViewSpecs(student=view_spec(recipe, dataset, cached))
    asked = recipe.teacher_augment
    if parallel is not None and cached is not None:
        student, teacher = beside_cache(recipe, dataset, cached, parallel)
    elif asked is None:
        student, teacher = view_spec(recipe, dataset, cached), None
    elif asked == [OF_CACHE]:
        if cached is None:
            raise UsageError("--teacher-augment cache: none of the teachers is a cache")
        student, teacher = view_spec(recipe, dataset, None), cached
        check_size(dataset, cached)
    else:
        shown = recipe.model_copy(update={"augment": asked})
        student, teacher = view_spec(recipe, dataset, None), view_spec(shown, dataset, cached)
    labelled = _labelled(recipe, dataset, student, teacher)
    if parallel is not None and cached is None:
        teacher = of_parallel(recipe, parallel, student)
    specs = ViewSpecs(
        student=student,
        teacher=teacher,
        labelled=labelled,
        teacher_images=None if parallel is None else parallel.train,
    )
    if teacher is not None or recipe.unlabelled_share is not None:
        for spec in filter(None, (student, teacher, labelled)):
            if spec.mixes:
                flag = "--teacher-data" if parallel is not None else "--teacher-augment"
                raise UsageError(
                    "mixup and cutmix pair images of one view and one order of all: they do not go with "
                    f"{flag if teacher is not None else '--unlabelled-share'}",
                    hint="Leave them out",
                )
    return specs


def _labelled(
    recipe: StudentRecipe, dataset: Dataset, student: ViewSpec, teacher: ViewSpec | None
) -> ViewSpec | None:
    """Views of labelled images; None where they are the student's."""
    if recipe.labelled_augment is not None:
        if recipe.unlabelled_share is None:
            raise UsageError(
                "--labelled-augment is of labelled images in a stream of their own",
                hint="Add --unlabelled-share, as 0.875",
            )
        shown = recipe.model_copy(update={"augment": recipe.labelled_augment})
        spec = view_spec(shown, dataset, None)
        return teacher if teacher == spec else None if spec == student else spec
    return teacher if recipe.unlabelled_share is not None else None


def other_views(
    recipe: TrainRecipe,
    dataset: Dataset,
    specs: ViewSpecs,
    device: torch.device,
    *,
    asks_unlabelled: bool,
) -> OtherViews:
    """The views beside the student's, opened; the teacher's keep the stream that caches are made from.

    Raises:
        UsageError: A library transform fails on images of this size and colour.
    """

    def opened(spec: ViewSpec | None, images: Images) -> Views | None:
        if spec is None:
            return None
        views = Views(images, spec, device, workers=worker_count(recipe))
        views.try_out()
        return views

    other = specs.teacher_images
    teacher = opened(specs.teacher, dataset.train if other is None else other)
    shared = specs.labelled == specs.teacher and other is None
    labelled = teacher if shared else opened(specs.labelled, dataset.train)
    return OtherViews(labelled=labelled, teacher=teacher, asks_unlabelled=asks_unlabelled)


def student_stream(specs: ViewSpecs) -> Purpose | None:
    """The stream that the student's views are drawn from: one of its own beside a teacher's.

    Images of a parallel data set that are augmented alike are cropped and flipped alike too.
    """
    if specs.teacher is None:
        return None
    alike = specs.teacher_images is not None and specs.teacher.augment == specs.student.augment
    return None if alike else Purpose.STUDENT


def asks_unlabelled(composed: Composition, teacher: Teacher | None, recipe: TrainRecipe) -> bool:
    """Whether a teacher that has views of its own is asked of unlabelled images alone."""
    if not isinstance(recipe, StudentRecipe) or recipe.unlabelled_share is None:
        return False
    taught = [p.objective for p in composed.parts if Need.TEACHER in needs_of(p.objective)]
    return not isinstance(teacher, Assigned) and all(
        objective.info.rows == "unlabelled" for objective in taught
    )


def streams_of(
    recipe: TrainRecipe, dataset: Dataset, batch_size: int, share: Share
) -> Streams | None:
    """The two streams of a run; None where there is one order of all rows.

    Args:
        recipe: The recipe of any training verb.
        dataset: Its images.
        batch_size: Images of a step.
        share: What a rank sees of each, in how many parts.

    Raises:
        UsageError: The share leaves one kind out of a batch, or cannot be dealt out evenly.
        ArtifactError: There are no images of a kind, or too few.
    """
    if not isinstance(recipe, StudentRecipe) or recipe.unlabelled_share is None:
        return None
    wanted = recipe.unlabelled_share
    rows = dataset.fit_rows
    known_N = labelled(dataset.train)[rows]
    known, others = rows[known_N], rows[~known_N]
    count = min(max(round(batch_size * wanted), 1), batch_size - 1)
    for stream, none in (
        (known, "no training image has a label"),
        (others, "none without a label is learnt from"),
    ):
        if not len(stream):
            raise ArtifactError(
                f"--unlabelled-share {wanted:g} needs images with labels and others: {none}",
                hint="Leave it out; --labels-fraction and --labels-per-class hide labels",
            )
    parts = share.parts * share.ranks
    if batch_size < 2 or count % parts or batch_size % parts:
        raise UsageError(
            f"--unlabelled-share {wanted:g} of a batch of {batch_size:,} cannot be shared evenly by "
            f"{counted(parts, 'part')}, of either kind some",
            hint="Choose another --batch-size",
        )
    if len(others) < count:
        raise ArtifactError(
            f"a batch has {count:,} unlabelled images, and there are {len(others):,}",
            hint="Choose a smaller --batch-size or --unlabelled-share",
        )
    return Streams(
        labelled=known,
        unlabelled=others,
        batch_size=batch_size,
        count=count,
        seed=recipe.seed,
    )


def check_streams(recipe: TrainRecipe, order: str | None, mode: str | None) -> None:
    """Refuses two streams, or views of the teacher's own, where samples follow each other otherwise.

    Args:
        recipe: The recipe of any training verb.
        order: The order of its samples; None without labels.
        mode: How its teachers are joined; None where nobody teaches.

    Raises:
        UsageError: With the reason.
    """
    if not isinstance(recipe, StudentRecipe) or recipe.unlabelled_share is None:
        return
    reasons: Sequence[tuple[bool, str]] = (
        (order == "balanced", "the balanced order"),
        (mode == "relabel", "--mode relabel"),
        (recipe.views_per_read > 1, "--views-per-read"),
    )
    for applies, name in reasons:
        if applies:
            raise UsageError(
                f"--unlabelled-share and {name} do not go together: each says what makes up a batch",
                hint="Leave one of them out",
            )
