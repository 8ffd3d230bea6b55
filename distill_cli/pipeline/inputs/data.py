"""From a recipe to the images that a network learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from distill_cli.counters import Purpose
from distill_cli.data.augment import resolve
from distill_cli.data.csv_source import is_listing
from distill_cli.data.dataset import Dataset, measured, open_dataset
from distill_cli.data.decode import processors
from distill_cli.data.label_rules import LabelRules
from distill_cli.data.labels import relabelled
from distill_cli.data.views import Views
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import remove, write_text
from distill_cli.pipeline.entries import SKIPPED
from distill_cli.pipeline.inputs.data_rules import recorded_rules, rules_of
from distill_cli.pipeline.inputs.file_options import files_named
from distill_cli.pipeline.inputs.first_line import are_characters, first_line
from distill_cli.pipeline.inputs.framing import framing_of
from distill_cli.pipeline.inputs.label_rules import label_rules
from distill_cli.pipeline.inputs.located import locate
from distill_cli.pipeline.inputs.moved_data import typed_place
from distill_cli.recipe.base import VAL_FRACTION, Recipe, TrainRecipe
from distill_cli.recipe.earlier import DATA_VERSION, FRAMING
from distill_cli.recipe.schema import CacheRecipe, ImportRecipe
from distill_cli.training.events import Sink
from distill_cli.types import Source, ViewSpec


def worker_count(recipe: Recipe) -> int:
    """Processes that make views image by image."""
    return min(8, processors()) if recipe.workers is None else recipe.workers


def unlabelled_of(recipe: Recipe) -> str | None:
    """The value of `--unlabelled`; None of a verb that has none."""
    return (
        recipe.unlabelled if isinstance(recipe, TrainRecipe | CacheRecipe | ImportRecipe) else None
    )


# What a student of another size or colour than a cache's views may say.
OTHER_SIZE = "; a student that sees less names the images that it was made of with --teacher-data"


class OpenData(Protocol):
    """Opens the data of a recipe, as `open_data` does."""

    def __call__(self, recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
        """The dataset."""


def open_data(recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
    """The recipe's data, opened.

    Args:
        recipe: The recipe of any verb.
        sink: Is told what there is.
        glance: For a dry run: without pixels.

    Raises:
        UsageError: The recipe names none.
        ArtifactError: It is unusable.
    """
    return _opened(recipe, label_rules(recipe), sink, glance=glance)


def _opened(
    recipe: Recipe,
    rules: LabelRules,
    sink: Sink,
    *,
    glance: bool,
    before: Dataset | None = None,
    keep: Callable[[Dataset], object] = lambda dataset: None,
) -> Dataset:
    """The same under the recipe's rules for labels.

    Args:
        recipe: The recipe.
        rules: Its rules.
        sink: Is told what there is.
        glance: For a dry run.
        before: The data as they lie on disk, opened before.
        keep: Is given them, where they are not.
    """
    if recipe.data is None:
        raise UsageError("which images? Give --data", hint="Try --data digits, which is built in")

    def known(dataset: Dataset) -> Dataset:
        keep(dataset)
        return relabelled(dataset, rules)

    if before is None:
        dataset = open_dataset(
            typed_place(recipe.data),
            **_images_of(recipe),
            workers=worker_count(recipe),
            progress=sink.reading,
            glance=glance,
            known=known,
        )
    else:
        dataset = known(before) if glance else measured(known(before))
    mirrored = recipe.augment is not None or may_mirror(recipe, dataset)
    sink.message(first_line(Path(recipe.data).name, dataset, size=recipe.size, mirrored=mirrored))
    for line in said_of_pixels(dataset):
        sink.message(line)
    return dataset


def may_mirror(recipe: Recipe, dataset: Dataset) -> bool:
    """Whether the presets of augmentations may mirror images: not where classes are characters."""
    earlier = rules_of(recipe).version == DATA_VERSION
    return earlier or dataset.channels == 1 or not are_characters(dataset.class_names)


def _images_of(recipe: Recipe) -> dict[str, Any]:
    """Which images of its data a recipe means, and their split: no seed but that of the split."""
    named = unlabelled_of(recipe)
    return {
        "split_seed": recipe.split_seed or 0,
        "val_fraction": VAL_FRACTION if recipe.val_fraction is None else recipe.val_fraction,
        "size": recipe.size,
        "skip_bad": recipe.skip_bad,
        "framing": framing_of(recipe),
        "rules": rules_of(recipe),
        "unlabelled": named and typed_place(named, "--unlabelled"),
        "transductive": isinstance(recipe, TrainRecipe) and recipe.transductive,
    }


class OpenedOnce:
    """Opens the data of several runs: again only where they are others than the run's before.

    Where a run may know other labels of the same images, these are not read again.
    """

    def __init__(self) -> None:
        # By what is meant by them: the data as they lie on disk, and as the last run knew them.
        self.on_disk: tuple[Any, Dataset] | None = None
        self.opened: tuple[Any, Dataset] | None = None

    def __call__(self, recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
        """The recipe's data; of those that are open, nothing is said again."""
        images, rules = (recipe.data, _images_of(recipe), glance), label_rules(recipe)
        if self.opened is None or self.opened[0] != (images, rules):
            self.opened = None
            if self.on_disk is not None and self.on_disk[0] != images:
                self.on_disk = None  # Two data sets at once may be too large.
            before = None if self.on_disk is None else self.on_disk[1]

            def keep(dataset: Dataset) -> None:
                self.on_disk = images, dataset

            how: dict[str, Any] = {"before": before, "keep": keep}
            self.opened = (images, rules), _opened(recipe, rules, sink, glance=glance, **how)
        return self.opened[1]


def said_of_pixels(dataset: Dataset) -> list[str]:
    """What a person should know of how these pictures became pixels."""
    lines = []
    framing = asdict(dataset.framing)
    if dataset.framing != FRAMING and Path(locate(dataset.spec)).exists():
        said = ", ".join(f"{key}: {value}" for key, value in framing.items())
        lines.append(f"pictures are read with {said}, as the recipe or the teachers have it")
    if dataset.constant:
        names = ("grey",) if dataset.channels == 1 else ("red", "green", "blue")
        every = len(dataset.constant) == dataset.channels
        equal = "all pixels"
        if not every:
            equal += f" of the {' and the '.join(names[c] for c in dataset.constant)} channel"
        other = "white" if dataset.framing.background == "black" else "black"
        lines.append(
            f"warning: {equal} of the training images are equal, and teach nothing. If the pictures "
            f"are drawn in their transparency, try --set background={other}"
        )
    return lines


def view_spec(recipe: Recipe, dataset: Dataset, cached: ViewSpec | None) -> ViewSpec:
    """The views that training or a dump shows: the cache's where there is one.

    Raises:
        ArtifactError: A flag contradicts the cache.
    """
    augment = resolve(
        recipe.augment,
        channels=dataset.channels,
        height=dataset.height,
        width=dataset.width,
        files=dataset.from_files,
        mirrored=may_mirror(recipe, dataset),
    )
    source: Source = "files" if dataset.from_files else "table"
    if cached is None:
        return ViewSpec(
            augment=augment,
            channels=dataset.channels,
            height=dataset.height,
            width=dataset.width,
            seed=recipe.seed if recipe.view_seed is None else recipe.view_seed,
            source=source,
            framing=dataset.framing,
        )
    asked = {"augment": recipe.augment and augment, "seed": recipe.view_seed}
    size = {
        "height": dataset.height,
        "width": dataset.width,
        "channels": dataset.channels,
        "source": source,
    }
    then = {**vars(cached), **asdict(cached.framing)}
    for name, value in {**asked, **size, **asdict(dataset.framing)}.items():
        if value is not None and value != then[name]:
            raise ArtifactError(
                f"{name} {value!r} contradicts the cache's views, made with {then[name]!r}",
                hint="Leave the option out to adopt the cache's views, or dump new ones"
                + (OTHER_SIZE if name in size and isinstance(recipe, TrainRecipe) else ""),
            )
    return cached


def open_views(
    recipe: Recipe,
    dataset: Dataset,
    spec: ViewSpec,
    device: torch.device,
    stream: Purpose | None = None,
) -> Views:
    """The views of the train split, of which fit rows are mixed in pairs where the spec mixes.

    Args:
        recipe: The recipe of any verb.
        dataset: Its images.
        spec: The views.
        device: Device that makes them.
        stream: The stream that they are drawn from; None for the one that caches are made from.

    Raises:
        UsageError: A library transform fails on images of this size and colour.
    """
    workers = worker_count(recipe)
    rows = dataset.fit_rows if dataset.mixed_rows is None else dataset.mixed_rows
    views = Views(dataset.train, spec, device, workers=workers, rows=rows, stream=stream)
    views.try_out()
    return views


def data_record(recipe: Recipe, dataset: Dataset, spec: ViewSpec) -> dict[str, Any]:
    """The recipe keys that say which images, split and views were used, every default spelt out."""
    others = {key: getattr(recipe, key, None) for key in ("unlabelled", "teacher_data")}
    return {
        "data": locate(str(recipe.data)),
        **{key: locate(named) for key, named in others.items() if named},
        **files_named(recipe.model_dump()),
        "split_seed": dataset.identity.split_seed,
        "val_fraction": recipe.val_fraction or VAL_FRACTION,
        "augment": list(spec.augment) or ["none"],
        "view_seed": spec.seed,
        **recorded_rules(recipe, spec.channels),
        **asdict(spec.framing),
    }


def keep_skipped(folder: Path, dataset: Dataset) -> None:
    """Writes what was left out of the data, with its reasons, into a run or cache folder."""
    keep_lines(folder, skipped_lines(dataset))


def skipped_lines(dataset: Dataset) -> str:
    """What was left out of the data, with its reasons, a line each."""
    # Below the data's folder: a cache that is shared names no folder of this machine.
    root = str(Path(dataset.spec).parent if is_listing(Path(dataset.spec)) else dataset.spec)
    return "".join(one.line(root) for one in dataset.left)


def keep_lines(folder: Path, lines: str) -> None:
    """Writes lines of what was left out, if there are any, into a run or cache folder."""
    if lines:
        write_text(folder / SKIPPED, lines)
    else:
        remove(folder / SKIPPED)
