"""A training run, opened and checked: from its recipe to all that the loop needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill_cli.data.dataset import Dataset
from distill_cli.models import Network
from distill_cli.models.gated import base_of
from distill_cli.objectives.compose import Composition
from distill_cli.pipeline.folders import check_output, next_free
from distill_cli.pipeline.inputs.artifacts import ON_DISK, Artifacts, once
from distill_cli.pipeline.inputs.cache_checks import say_losses
from distill_cli.pipeline.inputs.data import OpenData, data_record, open_data
from distill_cli.pipeline.inputs.members import open_members, teacher_names
from distill_cli.pipeline.inputs.other_views import (
    ViewSpecs,
    check_streams,
    streams_of,
    view_specs,
)
from distill_cli.pipeline.inputs.own_teachers import outside, with_own
from distill_cli.pipeline.inputs.peers import open_peers
from distill_cli.pipeline.inputs.places import check_places
from distill_cli.pipeline.inputs.student import (
    Architecture,
    advised,
    architecture_of,
    freeze_parts,
    starting,
    student_network,
    with_few_bits,
)
from distill_cli.pipeline.inputs.table_checks import check_table
from distill_cli.pipeline.inputs.teacher_data import (
    check_counterparts,
    check_teacher_data,
    recorded_data,
)
from distill_cli.pipeline.inputs.teacher_folders import with_data
from distill_cli.pipeline.inputs.teachers import (
    cached_views,
    check_split,
    joined,
)
from distill_cli.pipeline.objective.build import composition, targets_of
from distill_cli.pipeline.objective.class_info import adapter_context
from distill_cli.pipeline.objective.entries import spelled
from distill_cli.pipeline.objective.layers import Layers, find_layers
from distill_cli.pipeline.objective.offers import check_labels, check_offers
from distill_cli.pipeline.objective.order import check_reads, order_of
from distill_cli.pipeline.objective.sources import check_sources
from distill_cli.pipeline.objective.temperature import temperature_message
from distill_cli.pipeline.run.batches import (
    batch_size_of,
    check_batch,
    learnt_from,
    mixed_as_cached,
)
from distill_cli.pipeline.run.compiling import compiles
from distill_cli.pipeline.run.machine import runtime_of
from distill_cli.pipeline.run.options import check_options
from distill_cli.pipeline.run.prepared import KINDS, PreparedRun
from distill_cli.pipeline.run.probe import check_judged
from distill_cli.pipeline.run.record import record_of
from distill_cli.pipeline.run.requirements import check_held_out
from distill_cli.pipeline.run.resume import as_made, begun_by
from distill_cli.pipeline.run.sharded import check_shard, sharded
from distill_cli.recipe.base import LabelledRecipe, TeacherLabels, TrainRecipe
from distill_cli.recipe.resolved import ResolvedRecipe, resolved
from distill_cli.recipe.schema import HintRecipe
from distill_cli.runtime import Runtime, teacher_precision
from distill_cli.training import optim
from distill_cli.training.events import Silent, Sink
from distill_cli.types import WHOLE, Targets


def prepare(
    recipe: TrainRecipe,
    *,
    sink: Sink,
    resume: bool = False,
    overwrite: bool = False,
    runs: Artifacts = ON_DISK,
    opening: OpenData = open_data,
) -> PreparedRun:
    """Opens and checks everything before the first byte is written.

    Cheap refusals come first: folders and objectives before any image is decoded. In a dry run,
    which `runs` says, no pixels and no weights are read and no network is asked.
    """
    runs = replace(runs, tell=once(sink.message))
    out = Path(recipe.out) if recipe.out else next_free(KINDS[type(recipe)])
    check_output(out, resume=resume, overwrite=overwrite)
    recipe, taught_by = _named(recipe, out, runs, resume=resume)
    names = outside(taught_by)
    runtime = check_shard(recipe, names, runtime_of(recipe))
    check_table(recipe, names, runs)
    dataset = opening(recipe, sink, glance=runs.dry)
    targets = targets_of(recipe, several=dataset.multi_label)
    check_held_out(recipe, dataset, targets, sink)
    composed = composition(recipe, targets)
    if message := temperature_message(recipe):
        sink.message(message)
    members, teacher_data = open_members(recipe, names, dataset, targets, runtime, sink, runs)
    say_losses(members, composed, sink)
    cached, stored_views = cached_views(members)
    parallel = None if teacher_data is None else teacher_data.dataset
    specs = view_specs(recipe, dataset, cached, parallel)
    dataset = learnt_from(recipe, mixed_as_cached(dataset, cached), composed, cached, sink)
    check_labels(composed, dataset)
    check_counterparts(teacher_data, dataset.fit_rows)
    batch_size = batch_size_of(recipe, len(dataset.fit_rows), sink)
    advice = Silent() if resume else sink
    architecture, network = _student(recipe, composed, dataset, targets, runtime, runs, advice)
    peers = open_peers(recipe, taught_by, composed, dataset, targets, runtime, batch_size, sink)
    everyone = with_own(recipe, taught_by, members, dataset.class_names, targets, runtime, peers)
    teacher, joining = joined(recipe, taught_by, everyone, targets)
    if teacher is not None:
        check_offers(composed, teacher, names, members)
    mode, spec = joining.get("mode"), specs.student
    order = order_of(recipe, mode, composed, dataset, spec, batch_size)
    check_reads(recipe, order, mode, spec, stored_views)
    check_streams(recipe, order, mode)
    steps = _steps(recipe, dataset, batch_size, sink)
    layers = find_layers(
        composed,
        network,
        teacher,
        context=adapter_context(recipe, composed, dataset, runtime, runs),
        stop=isinstance(recipe, HintRecipe),
    )
    check_judged(layers.composition.judging, dataset)
    check_batch(layers, batch_size)
    for line in layers.descriptions:
        sink.message(line)
    values = {"out": str(out), "batch_size": batch_size, **architecture._asdict(), **joining}
    values |= {} if order is None else {"order": order}
    complete = _resolve(recipe, values, dataset, specs, network, runtime, layers, steps)
    recorded = record_of(recipe, dataset, specs, taught_by, everyone, layers, runtime)
    prepared = PreparedRun(
        recipe=complete,
        recorded={**recorded, **recorded_data(teacher_data)},
        runtime=runtime,
        dataset=dataset,
        specs=specs,
        stored_views=stored_views,
        members=tuple(members),
        teacher=teacher,
        teacher_data=teacher_data,
        layers=layers,
        network=network,
        optimizer=_optimizer(complete, network, layers),
        peers=peers,
    )
    return sharded(prepared) if runtime.shards_student else prepared


def _named(
    recipe: TrainRecipe, out: Path, runs: Artifacts, *, resume: bool
) -> tuple[TrainRecipe, list[str]]:
    """The recipe as its version and its teachers mean it, and these; refused by what folders tell."""
    if resume:
        recipe = as_made(recipe, begun_by([out / "recipe.yaml"]))
    check_options(recipe)
    check_sources(recipe, out, coming=runs.comes, resume=resume)
    taught_by = teacher_names(recipe, runs)
    names = outside(taught_by)
    recipe = with_data(recipe, names, runs.recipe, start=recipe.init)
    owners = [*([str(out)] if resume else []), *names, *([recipe.init] if recipe.init else [])]
    check_teacher_data(recipe, taught_by)
    check_places(recipe, [out], owners, runs.recipe)
    return recipe, taught_by


def _steps(recipe: TrainRecipe, dataset: Dataset, batch_size: int, sink: Sink) -> int:
    """Steps of an epoch; says what makes up the batches of two streams."""
    streams = streams_of(recipe, dataset, batch_size, WHOLE)
    if streams is None:
        return len(dataset.fit_rows) // batch_size
    sink.message(streams.text)
    return streams.steps


def _optimizer(recipe: ResolvedRecipe, network: Network, layers: Layers) -> torch.optim.Optimizer:
    """The optimiser of the student and of the adapters that share it."""
    return optim.create_optimizer(
        network.net,
        recipe.opt,
        rate=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=recipe.layer_decay,
        adapter_parameters=layers.shared,
    )


def _student(
    recipe: TrainRecipe,
    composed: Composition,
    dataset: Dataset,
    targets: Targets,
    runtime: Runtime,
    runs: Artifacts,
    sink: Sink,
) -> tuple[Architecture, Network]:
    """The student on its device, and the keys of the recipe that name its network."""
    start = starting(recipe, runs)
    architecture = architecture_of(recipe, dataset, start)
    if advice := advised(recipe, architecture, len(dataset.fit_rows)):
        sink.message(advice)
    network = student_network(
        recipe,
        architecture,
        dataset,
        targets,
        start=start,
        head=composed.head,
        weights=not runs.dry,
    )
    if recipe.init is not None:
        check_split(recipe.init, dataset, subject="run", runs=runs)
    network = with_few_bits(recipe, network, dataset, runtime, sink, dry=runs.dry)
    # Last: steps of a quantiser are parts of a layer, too.
    if recipe.freeze is not None:
        sink.message(freeze_parts(recipe, network))
    if runtime.shards_student:
        # It goes to the device in parts, once all else is known of it.
        return architecture, network
    return architecture, network.to(runtime.device).to(memory_format=runtime.memory_format)


def _resolve(
    recipe: TrainRecipe,
    values: Mapping[str, Any],
    dataset: Dataset,
    specs: ViewSpecs,
    network: Network,
    runtime: Runtime,
    layers: Layers,
    steps: int,
) -> ResolvedRecipe:
    """Every option with its value: what is in `values`, and what data and machine decide.

    The objectives stand as a list of every value, in place of names and flags.
    """
    listed = spelled(recipe, layers.composition)
    opt = recipe.opt
    if opt == "auto":
        opt = optim.default_optimizer(base_of(network))
    rate = optim.default_rate(opt, values["batch_size"]) if recipe.lr is None else recipe.lr
    decay = optim.default_decay(opt) if recipe.weight_decay is None else recipe.weight_decay
    targets = {"targets": network.targets} if isinstance(recipe, LabelledRecipe) else {}
    taught: dict[str, Any] = {}
    if isinstance(recipe, TeacherLabels):
        # Recorded, for whoever goes on elsewhere goes on in the same arithmetic.
        taught["teacher_precision"] = teacher_precision(recipe.teacher_precision, runtime.device)
    return resolved(
        listed,
        {
            **values,
            **targets,
            **taught,
            **data_record(recipe, dataset, specs.student),
            **specs.kept(recipe),
            "opt": opt,
            "lr": rate,
            "weight_decay": decay,
            "device": str(runtime.device),
            "precision": runtime.precision,
            "compile": compiles(recipe, runtime, layers, recipe.epochs * steps),
        },
    )
