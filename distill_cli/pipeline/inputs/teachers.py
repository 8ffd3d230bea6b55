"""From a recipe to the teachers: opened, checked against the data, joined into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distill_cli.cache.folder import is_cache
from distill_cli.cache.reader import CacheReader, require_same
from distill_cli.data.dataset import Dataset
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.models import Network
from distill_cli.pipeline.inputs.artifacts import ON_DISK, Artifacts
from distill_cli.pipeline.inputs.class_maps import BY_NAME, columns_of, map_of
from distill_cli.pipeline.inputs.data_rules import rules_kept
from distill_cli.pipeline.inputs.located import locate
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.schema import HintRecipe, StudentRecipe
from distill_cli.runtime import Runtime, TeacherPrecision
from distill_cli.teachers.cached import CachedTeacher
from distill_cli.teachers.live import LiveTeacher
from distill_cli.teachers.mixture import (
    Ensemble,
    LogitEnsemble,
    RandomTeacher,
    RandomTeacherPerSample,
    Relabelled,
)
from distill_cli.types import UNREAD, Need, Targets, Teacher, ViewSpec

Member = LiveTeacher | CachedTeacher
# What decides the held-out rows of the same training images.
SPLIT_KEYS = ("split_seed", "val_fraction", "split_by")


def open_teachers(
    names: Sequence[str],
    dataset: Dataset,
    runtime: Runtime,
    precision: TeacherPrecision,
    maps: Sequence[str] | None = None,
    runs: Artifacts = ON_DISK,
) -> list[Member]:
    """Opens caches and loads networks, and checks that they speak of this dataset's classes.

    Args:
        names: Folders, or timm/NAME.
        dataset: The images that they label.
        runtime: The device that live ones compute on.
        precision: Their arithmetic.
        maps: Class maps from the dataset's classes to theirs: one for all, or one each.
        runs: The reader of their folders.

    Raises:
        UsageError: There are more maps than one, and not one for each.
        ArtifactError: A class count, name or order differs, a cache is of other data, or a split
            differs in a way that would leak.
    """
    members: list[Member] = []
    if maps:
        map_of(maps, 0, len(names))
    for index, name in enumerate(names):
        if is_cache(Path(name)) and not runs.comes(name):
            reader = CacheReader(Path(name))
            check_classes(f"teacher {name}", reader.class_names, dataset.class_names)
            reader.require_dataset(dataset.identity, transductive=dataset.transductive)
            # Now, rather than after a training: damaged evaluation rows are refused.
            reader.eval_rows("test")
            if maps and len(maps) == len(names) and maps[index] != BY_NAME:
                raise UsageError(
                    f"class map {maps[index]} is for {name}, a cache, which has its classes already",
                    hint=f"Give {BY_NAME} in its place",
                )
            members.append(CachedTeacher(reader, runtime.device))
            continue
        live = live_teacher(
            name,
            runs.teacher(name, dataset.class_names),
            dataset.class_names,
            runtime.device,
            precision,
            class_map=map_of(maps, index, len(names)) if maps else None,
            in_parts=runtime.shards_teachers,
        )
        check_split(name, dataset, runs=runs)
        if runs.dry:
            live.fingerprint = dict(enumerate(runs.taught_by)).get(index, UNREAD)
        members.append(live)
    readers = [member.reader for member in members if isinstance(member, CachedTeacher)]
    require_same(readers)
    return members


# The hint where a teacher has other classes than the data, more or fewer, or in another order.
MAPS = (
    "Train a teacher on these classes, or say with --class-map which of its outputs stands for which "
    "class (by-name, if only the order differs)"
)


def check_classes(
    subject: str, class_names: Sequence[str], data: Sequence[str], *, hint: str | None = MAPS
) -> None:
    """Refuses a network or a cache that speaks of other classes than the data has.

    Args:
        subject: The network or cache as the user knows it, as `teacher runs/a`.
        class_names: The classes of the network or cache.
        data: The data's.
        hint: The remedy that the message names.

    Raises:
        ArtifactError: They differ in number, name or order.
    """
    if len(class_names) != len(data):
        raise ArtifactError(
            f"{subject} has {counted(len(class_names), 'class', 'classes')}, the data has {len(data)}",
            hint=hint,
        )
    for index, (given, name) in enumerate(zip(class_names, data, strict=True)):
        if given != name:
            raise ArtifactError(
                f"class {index} is '{given}' to {subject} and '{name}' in the data", hint=hint
            )


def check_split(
    name: str, dataset: Dataset, *, subject: str = "teacher", runs: Artifacts = ON_DISK
) -> None:
    """Refuses a teacher, or another run, that was trained on rows which this run holds out.

    Args:
        name: Its folder.
        dataset: The data of this run.
        subject: The noun for it, `teacher` where its options are adopted unless others are given.
        runs: The reader of its folder.

    Raises:
        ArtifactError: The same data were split otherwise.
    """
    identity = dataset.identity
    kept = runs.recipe(name)
    identity_then = (kept.get("recorded") or {}).get("dataset")
    if identity.fingerprint == UNREAD or identity_then is None:
        # A dry run cannot tell whether these are the images that it was trained on.
        return
    if identity_then.get("fingerprint") == identity.fingerprint:
        # A seed and a share of versions up to 0.3.0 went by the sample ids.
        then = {"split_by": "id", **identity_then}
        now: dict[str, Any] = {key: getattr(identity, key) for key in SPLIT_KEYS}
    elif kept.get("data") == locate(dataset.spec):
        # Other rows of the same data: copies moved to the other side of a seeded split, or left out.
        rules, rules_then = dataset.rules, rules_kept(kept)
        then = {"split_by": rules_then.split_by, "dedupe": rules_then.dedupe}
        now = {"split_by": rules.split_by, "dedupe": rules.dedupe}
    else:
        return
    for key, value in now.items():
        if then[key] != value:
            raise ArtifactError(
                f"{subject} {name} was trained with {key} {then[key]}, this run has {value}: it has "
                "seen rows that are held out here",
                hint=_same_split(key, then[key], adopted=subject == "teacher"),
            )


def _same_split(key: str, value: Any, *, adopted: bool) -> str:
    """The hint where another split of the same data had `value` for a key."""
    flag = f"--{key.replace('_', '-')}"
    if adopted:
        return f"Leave {flag} out to adopt the teacher's; several teachers must have the same"
    if isinstance(value, bool):
        return f"Give {flag}" if value else f"Leave {flag} out"
    return f"Give {flag} {value}"


def live_teacher(
    name: str,
    network: Network,
    class_names: tuple[str, ...],
    device: torch.device,
    precision: TeacherPrecision,
    *,
    class_map: str | None,
    in_parts: bool = False,
) -> LiveTeacher:
    """A network as a teacher of the data's classes.

    Args:
        name: Its name, for messages.
        network: The network.
        class_names: The data's classes.
        device: Device that it computes on.
        precision: Its arithmetic.
        class_map: The map from the data's classes to its outputs; None where they are the same.
        in_parts: Whether its weights lie in parts on the ranks.

    Raises:
        UsageError: The map cannot be read.
        ArtifactError: A class count, name or order differs, or the map does not fit.
    """
    columns = None
    if class_map is None:
        check_classes(f"teacher {name}", network.class_names, class_names)
    else:
        columns = columns_of(class_map, name, network.class_names, class_names)
    return LiveTeacher(
        network,
        device,
        precision,
        class_names=class_names,
        columns=columns,
        in_parts=in_parts,
    )


def cached_views(members: Sequence[Member]) -> tuple[ViewSpec | None, int | None]:
    """View spec and number of views of the caches among the teachers; None without any."""
    for member in members:
        if isinstance(member, CachedTeacher):
            return member.reader.plan.view_spec, member.reader.plan.views
    return None, None


def joined(
    recipe: TrainRecipe, names: list[str], members: Sequence[Teacher], targets: Targets
) -> tuple[Teacher | None, dict[str, Any]]:
    """The teachers as one, and the keys of the recipe that say how they are joined.

    Raises:
        UsageError: They cannot be joined as the recipe says, or several give hints.
    """
    if isinstance(recipe, StudentRecipe):
        average = recipe.ensemble_of
        is_ensemble = len(members) > 1 and recipe.mode in (None, "ensemble")
        if targets == "sigmoid" and is_ensemble and average is None:
            # Independent labels have no common probabilities: their logits are averaged.
            average = "logits"
        teacher, mode = teacher_of(recipe.model_copy(update={"ensemble_of": average}), members)
        return teacher, {"teachers": names, "mode": mode, "ensemble_of": average}
    if isinstance(recipe, HintRecipe):
        if len(members) > 1:
            raise UsageError(
                f"hints come from one teacher, these are {len(members)}", hint="Name one of them"
            )
        return members[0], {"teachers": names}
    return None, {}


def teacher_of(recipe: StudentRecipe, members: Sequence[Teacher]) -> tuple[Teacher, str]:
    """The members as one teacher, and the mode that was chosen.

    Raises:
        UsageError: `single` with several teachers, or a wrong number of weights.
    """
    mode = recipe.mode or ("single" if len(members) == 1 else "ensemble")
    if recipe.random_per is not None and mode != "random":
        raise UsageError(f"--random-per is of --mode random, this is {mode}")
    if recipe.ensemble_of is not None and mode != "ensemble":
        raise UsageError(f"--ensemble-of is of --mode ensemble, this is {mode}")
    weights = recipe.teacher_weights or [1.0] * len(members)
    if len(weights) != len(members):
        raise UsageError(
            f"{counted(len(weights), 'teacher weight')} for {counted(len(members), 'teacher')}"
        )
    if sum(weights) <= 0:
        raise UsageError("teacher weights must not all be zero")
    if mode == "relabel" and recipe.teacher_weights is not None:
        raise UsageError("--mode relabel shows every teacher's copy alike: leave the weights out")
    if mode == "single" and len(members) > 1:
        raise UsageError(
            f"--mode single takes one teacher, got {len(members)}",
            hint="Choose --mode ensemble, random or relabel",
        )
    if recipe.ensemble_of == "logits":
        _require_logits(recipe.teachers or [], members)
    # One is itself, in every mode: its layers can be looked at.
    if len(members) == 1:
        return members[0], mode
    if mode == "relabel":
        return Relabelled(members), mode
    if mode == "random":
        kind = RandomTeacherPerSample if recipe.random_per == "sample" else RandomTeacher
        return kind(members, weights, recipe.seed), mode
    if recipe.ensemble_of == "logits":
        return LogitEnsemble(members, weights), mode
    return Ensemble(members, weights), mode


def _require_logits(names: Sequence[str], members: Sequence[Teacher]) -> None:
    for name, member in zip(names, members, strict=False):
        if Need.LOGITS not in member.offers:
            raise ArtifactError(
                f"--ensemble-of logits: teacher {name} is a cache that keeps no raw logits",
                hint="Average probabilities, or dump with --codec fp16",
            )
