"""From a recipe to what a network learns from: data, views and teachers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from distill_cli.cache.manifest import is_cache
from distill_cli.cache.reader import CacheReader, require_same
from distill_cli.data.augment import resolve
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.decode import processors
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.models import Network, load_model
from distill_cli.pipeline.folders import TIMM, kept_recipe
from distill_cli.recipe.schema import Recipe, StudentRecipe
from distill_cli.runtime import Runtime
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.teachers.live import LiveTeacher
from distill_cli.teachers.mixture import Ensemble, RandomTeacher
from distill_cli.training.events import Sink
from distill_cli.types import DatasetIdentity, Source, Teacher, ViewSpec

Member = LiveTeacher | CachedTeacher


def locate(data: str) -> str:
    """A data spec with its path made absolute; also looked up under $DISTILL_DATA."""
    root = os.environ.get("DISTILL_DATA")
    for path in (Path(data), *([Path(root) / data] if root else [])):
        if path.exists():
            return str(path.resolve())
    return data


def worker_count(recipe: Recipe) -> int:
    """Processes that make views image by image."""
    return min(8, processors()) if recipe.workers is None else recipe.workers


def open_data(recipe: Recipe, sink: Sink) -> Dataset:
    """The recipe's data, opened.

    Raises:
        UsageError: The recipe names none.
        ArtifactError: It is unusable.
    """
    if recipe.data is None:
        raise UsageError("which images? Give --data", hint="Try --data digits, which is built in")
    dataset = open_dataset(
        locate(recipe.data),
        split_seed=recipe.split_seed or 0,
        val_fraction=0.1 if recipe.val_fraction is None else recipe.val_fraction,
        size=recipe.size,
        skip_bad=recipe.skip_bad,
        workers=worker_count(recipe),
        progress=sink.reading,
    )
    if dataset.skipped:
        sink.message(f"skipped {dataset.skipped} images that cannot be read")
    sink.message(
        f"{Path(recipe.data).name}: {len(dataset.class_names)} classes, "
        f"{len(dataset.fit_rows):,} images to train on, {len(dataset.val.label_N):,} held out, "
        f"{len(dataset.test.label_N):,} test, {dataset.height}×{dataset.width} "
        f"{'grey' if dataset.channels == 1 else 'colour'}"
        f"{', read from files' if dataset.from_files else ''}"
    )
    return dataset


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
        )
    asked = {"augment": recipe.augment and augment, "seed": recipe.view_seed}
    size = {
        "height": dataset.height,
        "width": dataset.width,
        "channels": dataset.channels,
        "source": source,
    }
    for name, value in {**asked, **size}.items():
        if value is not None and value != getattr(cached, name):
            raise ArtifactError(
                f"{name} {value!r} contradicts the cache's views, made with "
                f"{getattr(cached, name)!r}",
                hint="Leave the option out to adopt the cache's views, or dump new ones",
            )
    return cached


def open_teachers(
    names: Sequence[str], dataset: Dataset, runtime: Runtime, precision: str
) -> list[Member]:
    """Opens caches and loads networks, and checks that they speak of this dataset's classes.

    Raises:
        ArtifactError: A class count, name or order differs, a cache is of other data, or a split
            differs in a way that would leak.
    """
    members: list[Member] = []
    for name in names:
        if is_cache(Path(name)):
            reader = CacheReader(Path(name))
            check_classes(name, reader.class_names, dataset.class_names)
            reader.require_dataset(dataset.identity)
            # Now, rather than after a training: damaged evaluation rows are refused.
            reader.eval_rows("test")
            members.append(CachedTeacher(reader, runtime.device))
        else:
            network = load_teacher(name, dataset)
            check_classes(name, network.class_names, dataset.class_names)
            check_split(name, dataset.identity)
            members.append(
                LiveTeacher(network, runtime.device, "fp64" if precision == "fp64" else "fp32")
            )
    readers = [member.reader for member in members if isinstance(member, CachedTeacher)]
    require_same(readers)
    return members


def load_teacher(name: str, dataset: Dataset) -> Network:
    """A saved network, or timm's pretrained one for timm/NAME."""
    if name.startswith(TIMM) and not Path(name).exists():
        from distill_cli.models import pretrained_teacher

        return pretrained_teacher(name.removeprefix(TIMM), dataset.class_names)
    return load_model(Path(name))


def check_classes(name: str, teacher: Sequence[str], data: Sequence[str]) -> None:
    """Refuses a teacher that speaks of other classes than the data has."""
    if len(teacher) != len(data):
        raise ArtifactError(
            f"teacher {name} has {len(teacher)} classes, the data has {len(data)}",
            hint="Train a teacher on these classes",
        )
    for index, (said, own) in enumerate(zip(teacher, data, strict=True)):
        if said != own:
            raise ArtifactError(
                f"class {index} is '{said}' to teacher {name} and '{own}' in the data",
                hint="Names and order of the classes must agree",
            )


def check_split(name: str, identity: DatasetIdentity) -> None:
    """Refuses a teacher that was trained on rows which this run holds out."""
    recorded = kept_recipe(Path(name)).get("recorded") or {}
    said = recorded.get("dataset")
    if said is None or said.get("fingerprint") != identity.fingerprint:
        return
    for key in ("split_seed", "val_fraction"):
        if said[key] != getattr(identity, key):
            raise ArtifactError(
                f"teacher {name} was trained with {key} {said[key]}, this run has "
                f"{getattr(identity, key)}: it has seen rows that are held out here",
                hint=f"Leave --{key.replace('_', '-')} out to adopt the teacher's",
            )


def cached_views(members: Sequence[Member]) -> tuple[ViewSpec | None, int | None]:
    """View spec and number of views of the caches among the teachers; None without any."""
    for member in members:
        if isinstance(member, CachedTeacher):
            return member.reader.plan.view_spec, member.reader.plan.views
    return None, None


def teacher_of(recipe: StudentRecipe, members: Sequence[Member]) -> tuple[Teacher, str]:
    """The members as one teacher, and the mode that was chosen.

    Raises:
        UsageError: `single` with several teachers, or a wrong number of weights.
    """
    mode = recipe.mode or ("single" if len(members) == 1 else "ensemble")
    weights = recipe.teacher_weights or [1.0] * len(members)
    if len(weights) != len(members):
        raise UsageError(f"{len(weights)} teacher weights for {len(members)} teachers")
    if sum(weights) <= 0:
        raise UsageError("teacher weights must not all be zero")
    if mode == "single":
        if len(members) > 1:
            raise UsageError(
                f"--mode single takes one teacher, got {len(members)}",
                hint="Choose --mode ensemble or random",
            )
        return members[0], mode
    if mode == "random":
        return RandomTeacher(members, weights, recipe.seed), mode
    return Ensemble(members, weights), mode
