"""Replays views of a cache through its live teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from distill_cli.cache.plan import IMPORTED, MAKER, Plan
from distill_cli.cache.reader import CacheReader
from distill_cli.cache.replay import Replay, replay
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.pipeline.folders import has_model
from distill_cli.pipeline.inputs.artifacts import Artifacts
from distill_cli.pipeline.inputs.cache_checks import check_probe
from distill_cli.pipeline.inputs.data import open_data, open_views, view_spec
from distill_cli.pipeline.inputs.data_rules import kept_rules
from distill_cli.pipeline.inputs.fold_runs import fold_folders
from distill_cli.pipeline.inputs.moved_data import check_moved
from distill_cli.pipeline.inputs.teacher_folders import TIMM
from distill_cli.pipeline.inputs.teachers import live_teacher
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.pipeline.labels.forward import precision_of
from distill_cli.pipeline.labels.frozen_teachers import cross_fitted
from distill_cli.recipe.earlier import data_version_then
from distill_cli.recipe.messages import in_words
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.runtime import decide
from distill_cli.teachers.cross_fit import FrozenTeacher
from distill_cli.training.events import Sink


def replay_cache(
    folder: Path,
    *,
    sample: int,
    teacher: str | None = None,
    data: str | None = None,
    unlabelled: str | None = None,
    device: str = "auto",
    sink: Sink,
) -> Replay:
    """Makes some of a cache's views again, asks its teacher again, and compares.

    Args:
        folder: The cache.
        sample: Number of views to compare.
        teacher: The teacher's present folder; by default the one in the cache's recipe.
        data: The present `--data`; by default that of the cache's recipe.
        unlabelled: The present `--unlabelled`, likewise.
        device: Device of the teacher, or `auto`.
        sink: Shows messages.

    Raises:
        UsageError: Teacher or data are not known, or the labels were imported.
        ArtifactError: The data, the teacher's weights or the pixels of the views are others.
    """
    reader = CacheReader(folder)
    if reader.architecture.startswith(IMPORTED):
        raise UsageError(
            f"the labels of {folder} were imported: there is no teacher to ask again",
            hint="Leave --sample out: every file is hashed all the same",
        )
    recipe = _recipe(reader, {"data": data, "unlabelled": unlabelled})
    names = _teachers(reader, recipe, teacher)
    runtime = decide(device)
    check_moved(recipe.data, [str(folder)])
    check_moved(recipe.unlabelled, [str(folder)], key="unlabelled")
    dataset = open_data(recipe, sink)
    reader.require_dataset(dataset.identity)
    members = [
        live_teacher(
            name,
            Artifacts(tell=sink.message).teacher(name, dataset.class_names),
            reader.class_names,
            runtime.device,
            precision_of(reader.plan),
            class_map=next(iter(recipe.class_map or []), None),
        )
        for name in names
    ]
    spoke = reader.plan.cross_fit or (reader.teacher_fingerprint,)
    for name, live, fingerprint in zip(names, members, spoke, strict=True):
        _check_weights(folder, name, live.fingerprint, fingerprint)
    asked: FrozenTeacher = members[0]
    if reader.plan.cross_fit:
        kept = [kept_recipe(Path(name)) for name in names]
        asked = cross_fitted(members, kept, dataset)
        # Of the same networks it differs by the rows that they trained on.
        subject = f"{names[0]} and the others"
        _check_weights(folder, subject, asked.fingerprint, reader.teacher_fingerprint)
    spec = view_spec(recipe, dataset, reader.plan.view_spec)
    views = open_views(recipe, dataset, spec, runtime.device)
    check_probe(reader, views)

    def ask(index_B: Tensor, view_B: Tensor) -> Tensor:
        images_BCHW = views.batch(index_B, view_B).images_BCHW
        logits_BK: Tensor = asked.row_logits(images_BCHW, index_B)
        return logits_BK.cpu()

    with torch.no_grad():
        return replay(reader, ask, sample=sample)


def _teachers(reader: CacheReader, recipe: CacheRecipe, given: str | None) -> list[str]:
    """The folders of the networks that spoke in a cache.

    Args:
        reader: The cache.
        recipe: Its recipe.
        given: Where its teacher is now, or, of a cross-fitted one, the folder whose `stages` hold them;
            None for where it was.

    Raises:
        UsageError: They are not known, or not there.
    """
    folder, count = reader.folder, len(reader.plan.cross_fit)
    if count:
        names = [str(run) for run in fold_folders(Path(given) if given else folder, count)]
    else:
        named = given or next(iter(recipe.teachers or []), None)
        if named is None:
            raise UsageError(
                f"{folder} does not say who its teacher was", hint="Say with --teacher"
            )
        names = [named]
    for name in names:
        if not (name.startswith(TIMM) or has_model(Path(name))):
            hint = "Say with --teacher"
            if count:
                hint += f", which is a folder with stages/fold-1 to {count} in it"
            raise UsageError(f"the teacher of {folder} is not at {name}", hint=hint)
    return names


def _check_weights(folder: Path, name: str, now: str, then: str) -> None:
    """Refuses another network than the one that spoke in a cache, by their fingerprints.

    Raises:
        ArtifactError: They differ.
    """
    if now != then:
        raise ArtifactError(
            f"teacher {name} has other weights than those that spoke in {folder} (fingerprint "
            f"{now[:12]}…, the cache's {then[:12]}…)",
            hint="Give the network that it was dumped from, or dump again",
        )


def _of_plan(plan: Plan) -> dict[str, Any]:
    """What a plan says of its data, where there is no recipe beside it."""
    spec, identity = plan.view_spec, plan.dataset
    return {
        "size": spec.height,
        "data_rules": data_version_then(plan.versions.get(MAKER)),
        "split_by": identity.split_by if identity.split_by == "content" else None,
        "channels": spec.channels,
        "dedupe": identity.dedupe,
    }


def _recipe(reader: CacheReader, places: Mapping[str, str | None]) -> CacheRecipe:
    """The recipe of the cache, as far as its data and teacher go.

    Args:
        reader: The cache.
        places: By key, where its images are now; None where they were.
    """
    kept = kept_recipe(reader.folder)
    identity = reader.plan.dataset
    known = {
        key: kept[key]
        for key in ("data", "unlabelled", "teachers", "class_map", "size", "skip_bad")
        if kept.get(key)
    }
    values = {
        **(_of_plan(reader.plan) if not kept else kept_rules(kept)),
        **known,
        **asdict(reader.plan.view_spec.framing),
        "split_seed": identity.split_seed,
        "val_fraction": identity.val_fraction or None,
        **{key: place for key, place in places.items() if place},
    }
    try:
        return CacheRecipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"{reader.folder}/recipe.yaml: {'.'.join(map(str, first['loc']))}: {in_words(first)}"
        ) from None
