"""Imports labels that other people or tools made, as a cache. Shapes: N rows, K classes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from distill_cli.cache.codec import codec
from distill_cli.cache.plan import IMPORTED, Plan
from distill_cli.cache.writer import CacheWriter, continued
from distill_cli.data.augment import check_names
from distill_cli.data.dataset import Dataset
from distill_cli.data.views import Views
from distill_cli.errors import UsageError, counted
from distill_cli.files import one_writer, real_path, write_text
from distill_cli.pipeline.folders import check_cache_folders, clear_cache, next_free
from distill_cli.pipeline.inputs.cache_checks import probe_of
from distill_cli.pipeline.inputs.data import (
    data_record,
    keep_skipped,
    open_data,
    open_views,
    view_spec,
)
from distill_cli.pipeline.inputs.data_rules import read_as_begun
from distill_cli.pipeline.inputs.framing import as_begun
from distill_cli.pipeline.inputs.teacher_checks import DISORDER, check_verdict, judged
from distill_cli.pipeline.labels.dump import Dumped
from distill_cli.pipeline.labels.label_files import LabelFile, read_label_file
from distill_cli.pipeline.labels.label_rows import columns_of, logits_of, match_rows
from distill_cli.pipeline.labels.prepare import say_plan, shard_rows, stopped
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import ImportRecipe
from distill_cli.runtime import cpu_capability, decide, versions
from distill_cli.stopping import stop_signals
from distill_cli.training.events import Sink
from distill_cli.types import Count, ViewSpec


@dataclass(frozen=True, kw_only=True)
class PreparedImport:
    """Labels, read and checked; nothing is written yet.

    Attributes:
        recipe: The recipe as it was given, with the folder of the cache as `out`.
        folder: Folder of the cache.
        plan: The plan that the cache is bound to.
        logits_NK: fp32 logits of the rows of the train split.
        dataset: The dataset whose train split is labelled.
        views: The views that the labels are said to hold for.
    """

    recipe: ImportRecipe
    folder: Path
    plan: Plan
    logits_NK: Tensor
    dataset: Dataset
    views: Views


def prepare_import(
    recipe: ImportRecipe, *, sink: Sink, overwrite: bool = False, dry: bool = False
) -> PreparedImport:
    """Opens labels and data and checks all that can be checked before the first byte is written.

    Args:
        recipe: The file, the data, the views that the labels hold for.
        sink: Shows messages.
        overwrite: A cache that is there will be replaced.
        dry: No image is decoded.

    Raises:
        DistillError: The import failed or was stopped; the exit code is that of the fault.
    """
    if recipe.labels is None:
        raise UsageError("which labels? Give a .csv or an .npz")
    _check_augment(recipe)
    folder = Path(recipe.out) if recipe.out else next_free("cache")
    check_cache_folders(folder, [folder])
    label_file = read_label_file(Path(recipe.labels), recipe.kind)
    if recipe.smoothing and label_file.kind != "votes":
        raise UsageError(f"--smoothing adds votes: {label_file.path} holds {label_file.kind}")
    if not overwrite:
        recipe = as_begun(recipe, [folder])
    runtime = decide(recipe.device, threads=recipe.threads, deterministic=recipe.deterministic)
    recipe = recipe if overwrite else read_as_begun(recipe, folder)
    dataset = open_data(recipe, sink, glance=dry)
    if dataset.multi_label and label_file.kind != "logits":
        raise UsageError(
            f"{label_file.kind} are shared out between classes, and several labels may apply to an image "
            "of these data",
            hint="Give the logit of each label, as --kind logits",
        )
    logits_NK = _labels(label_file, dataset, recipe.smoothing, sink)
    _check_knowledge(label_file, logits_NK, dataset, sink, force=recipe.force)
    spec = view_spec(
        recipe.model_copy(update={"augment": recipe.augment or ["none"]}), dataset, None
    )
    views = open_views(recipe, dataset, spec, runtime.device)
    plan = _plan(recipe, label_file, logits_NK, dataset, spec)
    if not overwrite:
        plan = continued(folder, plan)
    say_plan(recipe, folder, plan, sink)
    return PreparedImport(
        recipe=recipe.model_copy(update={"out": str(folder)}),
        folder=folder,
        plan=plan,
        logits_NK=logits_NK,
        dataset=dataset,
        views=views,
    )


def import_labels(
    recipe: ImportRecipe, *, sink: Sink, progress: Count, overwrite: bool = False
) -> Dumped:
    """Stores the labels of a file as a cache; goes on where an earlier call stopped.

    Args:
        recipe: The file, the data, the views that the labels hold for.
        sink: Shows messages.
        progress: Called with (views done, views in all).
        overwrite: Replace a cache that is there, instead of going on.

    Raises:
        DistillError: The import failed or was stopped; the exit code is that of the fault.
    """
    prepared = prepare_import(recipe, sink=sink, overwrite=overwrite)
    with one_writer(prepared.folder):
        if overwrite:
            clear_cache(prepared.folder)
        writer = CacheWriter(prepared.folder, prepared.plan)
        write_text(prepared.folder / "recipe.yaml", to_yaml(_kept(prepared)))
        keep_skipped(prepared.folder, prepared.dataset)
        speed = _fill(prepared, writer, progress)
        if not writer.has_ids:
            writer.write_ids(prepared.dataset.train.sample_ids)
        if not writer.has_eval:
            writer.write_eval(_held_out(prepared), probe_of(prepared.plan, prepared.views))
        return Dumped(
            folder=prepared.folder,
            plan=prepared.plan,
            manifest=writer.finish(),
            shards=len(prepared.plan.shards()),
            views_per_second=speed,
        )


def _check_augment(recipe: ImportRecipe) -> None:
    check_names(recipe.augment)
    for name in recipe.augment or []:
        if name.split(":")[0] in ("mixup", "cutmix"):
            raise UsageError(
                f"augment: '{name}' mixes two images, an imported label belongs to one",
                hint="Leave it out",
            )


def _labels(label_file: LabelFile, dataset: Dataset, smoothing: float, sink: Sink) -> Tensor:
    """The file's labels as logits, in the order of the train split's rows."""
    samples = dataset.train.sample_ids
    others = {*dataset.val.sample_ids, *dataset.test.sample_ids} - set(samples)
    columns = columns_of(label_file, dataset.class_names)
    matches = match_rows(label_file, samples, others=others, skipped=dataset.skipped)
    name = label_file.path.name
    if label_file.classes is None:
        sink.message(
            f"{name} names no classes: taken in the data's order, {dataset.class_names[0]} first"
        )
    if label_file.samples is None:
        sink.message(f"{name} names no samples: taken in sorted order, {samples[0]} first")
    if matches.elsewhere:
        sink.message(f"left out {counted(matches.elsewhere, 'row')} of images outside train")
    if matches.nowhere:
        sink.message(f"left out {counted(matches.nowhere, 'row')} of images that were skipped")
    return logits_of(label_file, matches.row_N, columns, samples=samples, smoothing=smoothing)


def _held_rows(dataset: Dataset) -> Tensor | None:
    """int64 held-out rows of train, in the order of `dataset.val`; None where there is a val/."""
    if dataset.identity.val_fraction == 0:
        return None
    held_N = torch.ones(len(dataset.train.label_N), dtype=torch.bool)
    held_N[dataset.fit_rows] = False
    return held_N.nonzero()[:, 0]


def _check_knowledge(
    label_file: LabelFile, logits_NK: Tensor, dataset: Dataset, sink: Sink, *, force: bool
) -> None:
    """Puts the labels of held-out rows to the teacher gate; where there is a val/, all of train's."""
    rows, image = _held_rows(dataset), "held-out image"
    if rows is None:
        rows, image = torch.arange(len(logits_NK)), "training image"
    verdict = judged(logits_NK[rows], dataset.train.take(rows))
    if verdict is None:
        sink.message(
            f"{label_file.path.name} is not measured: no such image has a label in the data"
        )
        return
    check_verdict(str(label_file.path), verdict, sink, force=force, hint=DISORDER, image=image)


def _plan(
    recipe: ImportRecipe, label_file: LabelFile, logits_NK: Tensor, dataset: Dataset, spec: ViewSpec
) -> Plan:
    """The plan of the cache; a digest of the labels stands in for the teacher's weights."""
    classes = len(dataset.class_names)
    content = logits_NK.numpy().astype("<f4", copy=False)
    return Plan(
        dataset=dataset.identity,
        view_spec=spec,
        views=recipe.views,
        teacher_fingerprint=blake2b(content.data, digest_size=16).hexdigest(),
        architecture=f"{IMPORTED}{label_file.kind}",
        codec=codec(recipe.codec, classes).name,
        precision="fp32",
        device="cpu",
        teacher_batch=1,
        shard_length=recipe.shard_length or shard_rows(len(logits_NK), classes, 1),
        versions=versions(),
        cpu_capability=cpu_capability(),
        targets="sigmoid" if dataset.multi_label else "softmax",
        sample_ids=recipe.sample_ids,
    )


def _kept(prepared: PreparedImport) -> ImportRecipe:
    """The cache's recipe.yaml: how it was made, and the record of the data that students adopt."""
    recipe = prepared.recipe
    return recipe.model_copy(
        update={
            **data_record(recipe, prepared.dataset, prepared.views.spec),
            "labels": str(real_path(str(recipe.labels))),
            "out": None,
        }
    )


def _held_out(prepared: PreparedImport) -> dict[str, tuple[Tensor, Tensor]]:
    """The labels of held-out rows, for the student's gate; test rows have none."""
    rows = _held_rows(prepared.dataset)
    if rows is None:
        return {}
    return {"val": (prepared.logits_NK[rows], prepared.dataset.train.label_N[rows])}


def _fill(prepared: PreparedImport, writer: CacheWriter, progress: Count) -> float | None:
    """Makes the missing shards; returns views a second, or None where none was missing."""
    shards, missing = prepared.plan.shards(), set(writer.missing())
    total, done, made = sum(shard.rows for shard in shards), 0, 0
    started = time.perf_counter()
    with stop_signals() as request:
        for shard in shards:
            if shard in missing:
                rows = slice(shard.start, shard.stop)
                writer.commit(shard, prepared.logits_NK[rows], prepared.dataset.train.label_N[rows])
                made += shard.rows
            done += shard.rows
            progress(done, total)
            if request.signal_number is not None:
                raise stopped(done, total, prepared.folder, request.signal_number)
    return made / max(time.perf_counter() - started, 1e-9) if made else None
