"""Replays views of a cache through its live teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from distill_cli.cache.plan import IMPORTED
from distill_cli.cache.reader import CacheReader
from distill_cli.cache.replay import Replay, replay
from distill_cli.data.views import Views
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.pipeline.folders import has_model, kept_recipe
from distill_cli.pipeline.inputs.artifacts import ON_DISK
from distill_cli.pipeline.inputs.cache_checks import check_probe
from distill_cli.pipeline.inputs.class_maps import columns_of
from distill_cli.pipeline.inputs.data import open_data, view_spec, worker_count
from distill_cli.pipeline.inputs.teacher_folders import TIMM
from distill_cli.pipeline.inputs.teachers import check_classes
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.runtime import decide
from distill_cli.teachers.live import LiveTeacher, Precision
from distill_cli.training.events import Sink


def replayed(
    folder: Path,
    *,
    sample: int,
    teacher: str | None = None,
    data: str | None = None,
    device: str = "auto",
    sink: Sink,
) -> Replay:
    """Makes some of a cache's views again, asks its teacher again, and compares.

    Args:
        folder: The cache.
        sample: Views to compare.
        teacher: Where the teacher is now; default: where the cache's recipe says.
        data: Where the images are now; default: where the cache's recipe says.
        device: Where the teacher computes.
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
    recipe = _recipe(reader, data)
    teacher = teacher or next(iter(recipe.teachers or []), None)
    if teacher is None:
        raise UsageError(f"{folder} does not say who its teacher was", hint="Say with --teacher")
    if not (teacher.startswith(TIMM) or has_model(Path(teacher))):
        raise UsageError(f"the teacher of {folder} is not at {teacher}", hint="Say with --teacher")
    runtime = decide(device)
    dataset = open_data(recipe, sink)
    reader.require_dataset(dataset.identity)
    network = ON_DISK.teacher(teacher, dataset.class_names)
    columns = None
    if recipe.class_map:
        [how] = recipe.class_map
        columns = columns_of(how, teacher, network.class_names, reader.class_names)
    else:
        check_classes(f"teacher {teacher}", network.class_names, reader.class_names)
    precision: Precision = "fp64" if reader.plan.precision == "fp64" else "fp32"
    live = LiveTeacher(
        network, runtime.device, precision, class_names=reader.class_names, columns=columns
    )
    if (found := live.fingerprint) != reader.teacher_fingerprint:
        raise ArtifactError(
            f"teacher {teacher} has other weights than those that spoke in {folder} (fingerprint "
            f"{found[:12]}…, the cache's {reader.teacher_fingerprint[:12]}…)",
            hint="Give the network that it was dumped from, or dump again",
        )
    spec = view_spec(recipe, dataset, reader.plan.view_spec)
    views = Views(
        dataset.train, spec, runtime.device, workers=worker_count(recipe), rows=dataset.fit_rows
    )
    check_probe(reader, views)

    def ask(index_B: Tensor, view_B: Tensor) -> Tensor:
        logits_BK: Tensor = live.logits(views.batch(index_B, view_B).images_BCHW)
        return logits_BK.cpu()

    with torch.no_grad():
        return replay(reader, ask, sample=sample)


def _recipe(reader: CacheReader, data: str | None) -> CacheRecipe:
    """How the cache was made, as far as its data and teacher go."""
    kept = kept_recipe(reader.folder)
    identity, spec = reader.plan.dataset, reader.plan.view_spec
    known = {
        key: kept[key]
        for key in ("data", "teachers", "class_map", "size", "skip_bad")
        if kept.get(key)
    }
    values = {
        **({} if kept else {"size": spec.height}),
        **known,
        "split_seed": identity.split_seed,
        "val_fraction": identity.val_fraction or None,
        **({"data": data} if data else {}),
    }
    try:
        return CacheRecipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"{reader.folder}/recipe.yaml: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
