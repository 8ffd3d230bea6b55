"""Dumps soft labels: frozen teachers run once over the views of the train split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from distill_cli.cache.manifest import Manifest
from distill_cli.cache.plan import Plan
from distill_cli.cache.writer import CacheWriter
from distill_cli.files import by_every_rank, one_writer, write_text
from distill_cli.pipeline.engines.protocol import WorkerId
from distill_cli.pipeline.entries import CARD
from distill_cli.pipeline.folders import CARD_MARK, clear_cache
from distill_cli.pipeline.inputs.data import keep_skipped
from distill_cli.pipeline.inputs.shared_folder import check_shared
from distill_cli.pipeline.labels.beside import public_name, recipe_beside, write_evaluation
from distill_cli.pipeline.labels.commits import Commits
from distill_cli.pipeline.labels.labeller import Labeller
from distill_cli.pipeline.labels.prepare import PreparedDump, prepare_dump, runtime_of, stopped
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.report.cache_card import cache_card
from distill_cli.stopping import stop_signals
from distill_cli.training.events import Sink
from distill_cli.types import Count


@dataclass(frozen=True, kw_only=True)
class Dumped:
    """One cache, finished or a part of one.

    Attributes:
        folder: The cache folder.
        plan: The plan it is bound to.
        manifest: Its manifest; None where shards are left to other parts.
        shards: Number of shards committed in this folder.
        views_per_second: Speed of this call; None where nothing was left to do.
        made_by: Number of shards that each worker of an engine made in this call.
    """

    folder: Path
    plan: Plan
    manifest: Manifest | None
    shards: int
    views_per_second: float | None
    made_by: Mapping[WorkerId, int] = field(default_factory=dict)


def dump(
    recipe: CacheRecipe, *, sink: Sink, progress: Count, overwrite: bool = False
) -> list[Dumped]:
    """Stores the labels of every teacher on every view; goes on where an earlier call stopped.

    Args:
        recipe: Teachers, data, views.
        sink: Shows messages.
        progress: Called with (views done, views in all).
        overwrite: Replace caches that are there, instead of going on.

    Raises:
        DistillError: The dump failed or was stopped; the exit code is that of the fault.
    """
    ranks = runtime_of(recipe).ranks
    prepared = ranks.together(lambda: prepare_dump(recipe, sink=sink, overwrite=overwrite))
    with ExitStack() as locks:
        # Of rank 0, which removes what a killed writer left: only before the others write.
        first: list[CacheWriter] = []

        def begun() -> None:
            for folder in prepared.folders:
                locks.enter_context(one_writer(folder, root=Path(str(prepared.recipe.out))))
            for folder in prepared.folders if overwrite else ():
                clear_cache(folder)
            first.extend(_writers(prepared))
            for folder, name in zip(prepared.folders, prepared.names, strict=True):
                write_text(folder / "recipe.yaml", to_yaml(recipe_beside(prepared, name)))
                keep_skipped(folder, prepared.dataset)

        ranks.led(begun)
        for folder in prepared.folders:
            check_shared(ranks, folder, "into which every rank writes its shards")
        speed = _fill(prepared, first or _writers(prepared), progress, sink)
        # Anew: what other ranks committed is there too.
        writers = _writers(prepared)
        _add_files(prepared, writers, sink)
        return ranks.led(lambda: [finished(prepared.recipe, writer, speed) for writer in writers])


def _writers(prepared: PreparedDump) -> list[CacheWriter]:
    """The caches, each begun where it was not."""
    return [
        CacheWriter(folder, plan)
        for folder, plan in zip(prepared.folders, prepared.plans, strict=True)
    ]


def _fill(
    prepared: PreparedDump, writers: Sequence[CacheWriter], progress: Count, sink: Sink
) -> float | None:
    """Makes the missing shards, each rank every so many; returns views a second, or None where none was."""
    ranks = prepared.runtime.ranks
    shards = prepared.shards[ranks.number :: ranks.count]
    total = sum(shard.rows for shard in shards)
    missing = [set(writer.missing(shards)) for writer in writers]
    started, done, made = time.perf_counter(), 0, 0
    with (
        stop_signals() as request,
        by_every_rank(),
        Commits(prepared.runtime.device) as commits,
    ):
        labeller = Labeller(prepared, sink, commits.wait)
        label = labeller.over(shards, set().union(*missing))
        for shard in shards:
            wanted = [index for index, keys in enumerate(missing) if shard in keys]
            if wanted:
                labels = label(shard, wanted)
                target_N = prepared.dataset.train.label_N[shard.start : shard.stop]
                commits.begin([writers[index] for index in wanted], shard, labels, target_N)
                made += shard.rows
            done += shard.rows
            # What one rank does, the others do about as fast.
            progress(ranks.count * done, ranks.count * total)
            if request.signal_number is not None:
                break
        commits.wait()
        ends = ranks.values((done, total, made, request.signal_number))
        done, total, made = (sum(end[part] or 0 for end in ends) for part in range(3))
        if (number := max((end[3] or 0 for end in ends), default=0)) > 0:
            raise stopped(done, total, prepared.recipe.out, number)
    return made / max(time.perf_counter() - started, 1e-9) if made else None


def _add_files(prepared: PreparedDump, writers: Sequence[CacheWriter], sink: Sink) -> None:
    """Stores the teachers' logits of held-out and test images, and the rows' sample ids.

    Of several parts, the first brings them.
    """
    if prepared.recipe.part is not None and prepared.recipe.part.number > 1:
        return
    for writer in writers:
        if not writer.has_ids:
            writer.write_ids(prepared.dataset.train.sample_ids)
    left = {number: writer for number, writer in enumerate(writers) if not writer.has_eval}
    write_evaluation(prepared, left, sink)


def finished(
    recipe: CacheRecipe,
    writer: CacheWriter,
    speed: float | None,
    made_by: Mapping[WorkerId, int] | None = None,
) -> Dumped:
    """The cache with its manifest, which is written if no shard is left to other parts."""
    left = [] if recipe.part is None else writer.missing()
    whole = not left and writer.has_eval and writer.has_ids
    manifest = writer.finish() if whole else None
    if manifest is not None and recipe.publish:
        data = public_name(str(recipe.data))
        card = cache_card(manifest.to_json(), data=data, licence=recipe.licence)
        write_text(writer.folder / CARD, f"{card}\n{CARD_MARK}\n")
    return Dumped(
        folder=writer.folder,
        plan=writer.plan,
        manifest=manifest,
        shards=len(writer.plan.shards()) - len(left),
        views_per_second=speed,
        made_by=made_by or {},
    )
