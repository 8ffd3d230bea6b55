"""The images that a run learns from, and how many of them make a batch.

What needs a label learns from labelled images alone: where nothing else is learnt, an epoch shows no
others. A batch of which two or three images have a label would move the weights at the rate for whole
batches, and ruin them.
"""

from __future__ import annotations

from dataclasses import replace

from distill_cli.adapters.regressor import Regressor
from distill_cli.data.dataset import Dataset
from distill_cli.data.split_images import labelled
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.objectives.compose import Composition
from distill_cli.pipeline.objective.layers import Layers
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.default_batch import MOST, default_batch
from distill_cli.recipe.earlier import batch_size_then, counts_labelled_then
from distill_cli.recipe.recorded import made_by
from distill_cli.recipe.schema import TeacherRecipe
from distill_cli.training.events import Sink
from distill_cli.types import Rows, ViewSpec


def learnt_from(
    recipe: TrainRecipe,
    dataset: Dataset,
    composed: Composition,
    cached: ViewSpec | None,
    sink: Sink,
) -> Dataset:
    """The dataset with the rows that the run learns from: all of them, or the labelled ones.

    Args:
        recipe: The run's.
        dataset: What there is.
        composed: The objectives, some of which may learn from images without labels.
        cached: The views of a cache, whose mixed pairs may be of labelled and other images.
        sink: Is told which images are learnt from where some have no label.

    Raises:
        UsageError: There is `--unlabelled`, and nothing would be learnt from it.
        ArtifactError: No training image has a label, and nothing is learnt without.
    """
    label_N = dataset.train.label_N[dataset.fit_rows]
    rows = dataset.fit_rows[labelled(dataset.train)[dataset.fit_rows]]
    if len(rows) == len(label_N):
        return dataset
    if counts_labelled_then(made_by(recipe.recorded)):
        # A recipe of an earlier version means the same, and a run of one goes on as it was begun.
        sink.message(
            f"as its version did: batches of all {counted(len(label_N), 'image')}, "
            f"{len(rows):,} of them with a label"
        )
        return dataset
    taught, others = _names(composed, "labelled"), _of_others(composed)
    line = f"{taught}: learnt from the {counted(len(rows), 'labelled image')} of {len(label_N):,}"
    if not composed.learns_from_labels or (cached is not None and cached.mixes and len(rows)):
        if taught and len(rows):
            sink.message(f"{line}{others}")
        return dataset
    if not len(rows):
        raise ArtifactError(
            f"no training image of {dataset.spec} has a label, which is all that {taught} learns from",
            hint="Put some into train/<class>/, or teach a student with kd, which needs none",
        )
    # A list may say the labels of some of them.
    known_beside = bool((rows >= dataset.identity.samples).any())
    if dataset.identity.unlabelled_samples and cached is None and not known_beside:
        named = f"--unlabelled {dataset.unlabelled}"
        raise UsageError(
            f"{'--transductive' if dataset.transductive else named}: {taught} {_learn(taught)} from labels alone, and nothing "
            "would be learnt from these images",
            hint="Leave it out, or add an objective that needs no label, as kd of a student",
        )
    learner = "a student learns by kd" if isinstance(recipe, TeacherRecipe) else "kd learns"
    sink.message(f"{line}; from the others {learner}")
    return replace(dataset, fit_rows=rows)


def mixed_as_cached(dataset: Dataset, cached: ViewSpec | None) -> Dataset:
    """The dataset with the pairs of a cache whose views mix images: those of the split's rows.

    Args:
        dataset: What a run knows of it.
        cached: The views of a cache; None without one.

    Raises:
        UsageError: Some of these rows are not trained on.
    """
    if dataset.labels is None or cached is None or not cached.mixes:
        return dataset
    labels = dataset.labels
    flags = (
        ("--limit", labels.limit is not None),
        ("--fold", labels.fold is not None),
        ("--without", labels.without is not None),
        ("--unlabelled-list", labels.unlabelled is not None),
        ("--omit-class and --only-classes", bool(labels.left_out)),
    )
    if given := [flag for flag, is_given in flags if is_given]:
        raise UsageError(
            f"{given[0]}: the cache's views mix images in pairs, also of those that would be left out",
            hint="Dump views that mix none, or leave the option out",
        )
    return replace(dataset, mixed_rows=labels.split_rows)


def _learn(names: str) -> str:
    return "learn" if " and " in names else "learns"


def _names(composed: Composition, rows: Rows) -> str:
    """The objectives that learn from these images, in words."""
    infos = [part.objective.info for part in composed.parts]
    return " and ".join(info.name for info in infos if info.rows == rows)


def _of_others(composed: Composition) -> str:
    """The objectives that learn from images without a label too, or from these alone, as the end of a line."""
    from_all, from_others = _names(composed, "all"), _names(composed, "unlabelled")
    words = [f"; {from_all}: from all"] if from_all else []
    return "".join([*words, *([f"; {from_others}: from the others"] if from_others else [])])


def batch_size_of(recipe: TrainRecipe, rows: int, sink: Sink) -> int:
    """Images of a step: what the recipe says, else what suits the number of images.

    Args:
        recipe: The run's.
        rows: Number of images to train on, at least 1.
        sink: Is told of a default that is not the usual one.
    """
    asked = recipe.batch_size or batch_size_then(made_by(recipe.recorded))
    if asked is not None:
        return min(asked, rows)
    size = default_batch(rows)
    if size < MOST:
        steps = counted(rows // size, "step")
        sink.message(
            f"batch {size} for {counted(rows, 'image')}: {steps} an epoch; --batch-size says otherwise"
        )
    return size


def check_batch(layers: Layers, batch_size: int) -> None:
    """Refuses a batch in which a regressor's batch norm would see one value of a channel.

    Args:
        layers: With their adapters.
        batch_size: Images of a step.

    Raises:
        UsageError: With the objective.
    """
    for name, adapter in layers.adapters.items():
        for module in adapter.modules():
            if not isinstance(module, Regressor) or module.norm is None:
                continue
            if batch_size * module.size[0] * module.size[1] < 2:
                raise UsageError(
                    f"objective '{name}' normalises a layer by the batch, and a batch of "
                    f"{counted(batch_size, 'image')} has one value of each channel",
                    hint="Choose a --batch-size of at least 2, or normalised: false in a list of "
                    "objectives",
                )
