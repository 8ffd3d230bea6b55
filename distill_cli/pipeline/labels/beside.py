"""The files beside a cache's shards: evaluation rows, sample ids, the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_cli.cache.pixel_probe import PixelProbe
from distill_cli.cache.shard_writer import ShardWriter
from distill_cli.files import real_path
from distill_cli.pipeline.inputs.cache_checks import probe_of
from distill_cli.pipeline.inputs.class_maps import BY_NAME, map_of
from distill_cli.pipeline.inputs.data import data_record
from distill_cli.pipeline.inputs.located import locate
from distill_cli.pipeline.labels.precision import precision_error
from distill_cli.pipeline.labels.prepare import PreparedDump
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.training.events import Sink


def write_evaluation(
    prepared: PreparedDump, writers: Mapping[int, ShardWriter], sink: Sink
) -> None:
    """Stores teachers' logits of held-out and test images.

    Args:
        prepared: The dump.
        writers: Where they go, by the teacher's number.
        sink: Is told where a teacher's arithmetic costs much.
    """
    probe: PixelProbe | None = None
    for number, writer in writers.items():
        teacher = prepared.teachers[number]
        if probe is None:
            probe = probe_of(prepared.plans[0], prepared.views)
        splits = {
            name: (
                teacher.split_logits(name, images, ranks=prepared.runtime.ranks),
                images.label_N,
            )
            for name, images in (("val", prepared.dataset.val), ("test", prepared.dataset.test))
        }
        lost = precision_error(teacher, prepared.dataset.val, splits["val"][0], sink)
        writer.write_eval(splits, probe, lost)


def recipe_beside(
    prepared: PreparedDump, teacher: str, asked: Mapping[str, Any] | None = None
) -> CacheRecipe:
    """The cache's recipe.yaml: how it was made, and the record of the data that students adopt.

    A published cache names data and teacher without the folders of this machine.

    Args:
        prepared: The dump.
        teacher: The name of the cache's teacher.
        asked: Options as a person gave them, where a worker was told others.
    """
    recipe = prepared.recipe
    record = data_record(recipe, prepared.dataset, prepared.views.spec)
    source = str(real_path(teacher)) if Path(teacher).exists() else teacher
    if recipe.publish:
        source, record["data"] = public_name(source), public_name(str(recipe.data))
        if recipe.unlabelled:
            record["unlabelled"] = public_name(recipe.unlabelled)
    return recipe.model_copy(
        update={
            **record,
            "teachers": [source],
            "class_map": _kept_map(prepared, teacher),
            "out": None,
            "part": None,
            **(asked or {}),
        }
    )


def _kept_map(prepared: PreparedDump, teacher: str) -> list[str] | None:
    """This teacher's class map as the one entry of a list; a file by its whole path."""
    maps = prepared.recipe.class_map
    if not maps:
        return None
    class_map = map_of(maps, prepared.names.index(teacher), len(prepared.names))
    if class_map == BY_NAME:
        return [class_map]
    return [Path(class_map).name if prepared.recipe.publish else str(real_path(class_map))]


def public_name(name: str) -> str:
    """Data or a teacher as a shared cache names it: a path by its last part."""
    located = Path(locate(name))
    return located.name if located.exists() else name
