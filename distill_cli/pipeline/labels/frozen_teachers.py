"""The teachers of a dump, opened: networks, or those of a cross-fitted cache as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.labels import relabelled
from distill_cli.data.split_images import labelled
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.objectives import OBJECTIVES
from distill_cli.pipeline.inputs.artifacts import Artifacts
from distill_cli.pipeline.inputs.fold_runs import fold_folders
from distill_cli.pipeline.inputs.label_rules import beside_then, rules_for, rules_kept_of
from distill_cli.pipeline.inputs.teachers import Member, open_teachers
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.runtime import Runtime, TeacherPrecision
from distill_cli.teachers.cross_fit import CrossFit, FrozenTeacher
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import ViewSpec


class Opened(NamedTuple):
    """Networks by folder, and the teachers that they make.

    Attributes:
        names: A folder for each network.
        members: The networks.
        teachers: One for each cache.
    """

    names: list[str]
    members: list[Member]
    teachers: list[FrozenTeacher]


def open_frozen(
    recipe: CacheRecipe,
    names: Sequence[str],
    out: Path,
    dataset: Dataset,
    runtime: Runtime,
    precision: TeacherPrecision,
    runs: Artifacts,
) -> Opened:
    """Opens the teachers of a dump; cross-fitted ones lie in its cache, trained before.

    In a dry run the network of the run whose recipe is trained anew stands for each of them.

    Args:
        recipe: The dump's.
        names: Its teachers.
        out: The cache.
        dataset: The images that they label.
        runtime: Their device.
        precision: Their arithmetic.
        runs: The reader of their folders.

    Raises:
        DistillError: As `open_teachers`.
    """
    count = recipe.cross_fit
    if count is None:
        members = open_teachers(names, dataset, runtime, precision, recipe.class_map, runs)
        live = [member for member in members if isinstance(member, LiveTeacher)]
        return Opened(list(names), members, [*live])
    folders = [str(folder) for folder in fold_folders(out, count)]
    asked = [names[0]] * count if runs.dry else folders
    members = open_teachers(asked, dataset, runtime, precision, recipe.class_map, runs)
    kept = [dict(runs.recipe(name)) for name in asked]
    for number, one in enumerate(kept, start=1):
        one["fold"] = f"{number}/{count}"
    return Opened(folders, members, [cross_fitted(members, kept, dataset)])


def cross_fitted(
    members: Sequence[Member], kept: Sequence[Mapping[str, Any]], dataset: Dataset
) -> CrossFit:
    """Networks that were trained without a fold each, as one teacher.

    Args:
        members: The networks.
        kept: The recipe.yaml of each.
        dataset: The images that they label.

    Raises:
        ArtifactError: Some image was trained on by all of them: they are not of these folds.
    """
    live = [member for member in members if isinstance(member, LiveTeacher)]
    trained = [rows_trained_on(recipe, dataset) for recipe in kept]
    _, count = torch.cat(trained).unique(return_counts=True)
    if seen := int((count == len(live)).sum()):
        raise ArtifactError(
            f"{counted(seen, 'training image')} {'is' if seen == 1 else 'are'} seen by every network of this "
            "cache, though each should leave out a fold of the same images",
            hint="The recipes in its stages were changed: dump again with --overwrite",
        )
    return CrossFit(live, trained, len(dataset.train.sample_ids))


def rows_trained_on(kept: Mapping[str, Any], dataset: Dataset) -> Tensor:
    """int64 rows of train that a run has trained on.

    Args:
        kept: Its recipe.yaml.
        dataset: The same images under the same split, with all of their labels.
    """
    # Lists may name images that do not lie beside the data here; folds of the data do not depend on them.
    known = relabelled(dataset, rules_for(dataset, kept, rules_kept_of(kept)))
    rows = known.fit_rows
    if dataset.identity.beside != beside_then(kept):
        # These images beside the data are labelled by this dump, and were not there then.
        rows = rows[rows < dataset.identity.samples]
    listed = kept.get("objective") or []
    names = listed.split(",") if isinstance(listed, str) else [entry["name"] for entry in listed]
    # Where all is learnt from labels, a run is shown no others.
    if all(OBJECTIVES[name].info.rows == "labelled" for name in names if name in OBJECTIVES):
        rows = rows[labelled(known.train)[rows]]
    return rows


def check_views(recipe: CacheRecipe, spec: ViewSpec) -> None:
    """Refuses views that mix images where each network is asked of some images alone.

    Raises:
        UsageError: With the augmentation.
    """
    if recipe.cross_fit is not None and spec.mixes:
        raise UsageError(
            "--cross-fit and mixup or cutmix: a mixed image is of two rows, and whoever has not seen the one "
            "may have seen the other",
            hint="Leave the mixing out of --augment",
        )
