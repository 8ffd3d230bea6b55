"""From what is opened and checked to the loop that trains."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.data.loader import Loader
from distill_cli.errors import DivergedError, UsageError
from distill_cli.metrics import one_vs_all
from distill_cli.models import Network, save_model
from distill_cli.models.finite import first_not_finite
from distill_cli.objectives.hooks import needs_of
from distill_cli.pipeline.inputs.data import open_views
from distill_cli.pipeline.inputs.other_views import (
    asks_unlabelled,
    other_views,
    streams_of,
    student_stream,
)
from distill_cli.pipeline.inputs.own_teachers import own_among
from distill_cli.pipeline.run.graphs import step_graphs
from distill_cli.pipeline.run.peer_figures import all_held_out, folder_of
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.probe import penultimate_of
from distill_cli.pipeline.run.rank_share import share_of
from distill_cli.pipeline.run.validation import hints_held_out
from distill_cli.recipe.resolved import ResolvedRecipe
from distill_cli.teachers.live import LiveTeacher
from distill_cli.teachers.mixture import Relabelled
from distill_cli.teachers.own import AVERAGE, NetworkTeacher, SelfTeacher
from distill_cli.training import schedule
from distill_cli.training.events import Sink
from distill_cli.training.exchange import Exchange
from distill_cli.training.forward import StudentForward
from distill_cli.training.loop import Trainer
from distill_cli.training.optimisation import Optimisation, moving_average
from distill_cli.training.peers import Peers, Schedules
from distill_cli.training.rollback import Rollback
from distill_cli.training.state import HeldOut
from distill_cli.training.update import Update
from distill_cli.types import Need


def trainer_of(prepared: PreparedRun, sink: Sink) -> Trainer:
    """The loop of a run, ready to go; torch's global generator is seeded for it."""
    recipe, dataset, runtime = prepared.recipe, prepared.dataset, prepared.runtime
    specs, share, composed = prepared.specs, share_of(prepared), prepared.layers.composition
    views = open_views(recipe, dataset, specs.student, runtime.device, student_stream(specs))
    asks = asks_unlabelled(composed, prepared.teacher, recipe)
    loader = Loader(
        views=views,
        target_N=dataset.train.label_N,
        rows=dataset.fit_rows,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        stored_views=prepared.stored_views,
        target_NK=_label_targets(prepared),
        copies=len(prepared.teacher.members) if isinstance(prepared.teacher, Relabelled) else 1,
        order_name=prepared.order,
        counts_labelled=prepared.counts_labelled,
        share=share,
        views_per_read=recipe.views_per_read,
        epochs=recipe.epochs,
        streams=streams_of(
            recipe, dataset, recipe.batch_size, replace(share, parts=recipe.accumulate)
        ),
        others=other_views(recipe, dataset, specs, runtime.device, asks_unlabelled=asks),
    )
    taps, stop = prepared.layers.taps, prepared.is_hint_init
    optimisation = _optimisation(prepared, loader.steps)
    if recipe.compile:
        prepared.network.net.compile()
        if prepared.runtime.device.type == "cuda":
            for member in prepared.members:
                if isinstance(member, LiveTeacher):
                    member.compile()
    own = _bound(prepared, optimisation)
    # After the network's initialisation, so that dropout does not depend on its size.
    torch.manual_seed(recipe.seed)
    return Trainer(
        network=prepared.network,
        adapters=prepared.layers.adapters,
        optimisation=optimisation,
        update=Update(
            network=prepared.network,
            forward=StudentForward(network=prepared.network, taps=taps, stop=stop, own=own),
            adapters=prepared.layers.adapters,
            optimisation=optimisation,
            teacher=prepared.teacher,
            composition=prepared.layers.composition,
            exchange=_exchange(prepared),
            peers=_peers(prepared),
        ),
        loader=loader,
        truth_N=dataset.hidden_N,
        epochs=recipe.epochs,
        probe=partial(
            penultimate_of, prepared.network, dataset.train, dataset.fit_rows, recipe.seed
        ),
        evaluate=partial(hints_held_out if stop else all_held_out, prepared),
        keep=partial(_keep, prepared),
        run=prepared.run,
        key=prepared.key,
        sink=sink,
        graphs=step_graphs(prepared, optimisation, loader.steps, sink),
    )


def _peers(prepared: PreparedRun) -> Peers:
    """The networks that are trained along, and how they learn."""
    parts = prepared.layers.composition.parts
    return Peers(
        all=prepared.peers,
        mutual=getattr(prepared.recipe, "mutual", False),
        of_logits=any(Need.LOGITS in needs_of(part.objective) for part in parts),
    )


def _bound(prepared: PreparedRun, optimisation: Optimisation) -> SelfTeacher | None:
    """Has the student's own teachers ask it, and its average; the one that speaks in its forward."""
    speaking: SelfTeacher | None = None
    for own in own_among(prepared.teacher):
        if isinstance(own, SelfTeacher):
            speaking = own
        elif isinstance(own, NetworkTeacher):
            averaged = own.name == AVERAGE
            own.bind(optimisation.averaged(prepared.network) if averaged else prepared.network)
    return speaking


def _exchange(prepared: PreparedRun) -> Exchange:
    recipe, runtime = prepared.recipe, prepared.runtime
    return Exchange(
        runtime.ranks,
        prepared.network,
        prepared.layers.adapters,
        sync_norm=recipe.sync_bn,
        scaled=runtime.precision == "fp16",
        looks=runtime.device.type == "cpu",
        weights=prepared.weights,
        beside=[peer.network for peer in prepared.peers],
    )


def _keep(prepared: PreparedRun, network: Network | None, held_out: HeldOut) -> None:
    """Keeps a network as the best one, and each that is trained along as its own figures are best.

    Raises:
        DivergedError: A weight is NaN or infinite: nobody could load it, and figures may hide it.
    """
    if network is not None:
        _save(network, prepared.run / "model")
    for peer in prepared.peers:
        if peer.is_best(held_out.beside[peer.name]):
            _save(peer.network, folder_of(prepared.run, peer) / "model")


def _save(network: Network, folder: Path) -> None:
    fresh = dict(network.net.named_buffers())
    if (fault := first_not_finite(network.net.state_dict(), fresh)) is not None:
        raise DivergedError(
            f"the weights are no longer numbers: {fault}",
            hint="Lower --lr; the best model and the last checkpoint before it are kept",
        )
    save_model(network, folder)


def _label_targets(prepared: PreparedRun) -> Tensor | None:
    """Multi-label targets of the training images; None where exactly one class applies."""
    train, network = prepared.dataset.train, prepared.network
    if network.targets == "softmax":
        return None
    if train.label_NK is not None:
        return train.label_NK
    return one_vs_all(train.label_N, len(network.class_names))


def _check_parts(recipe: ResolvedRecipe, network: Network) -> None:
    """Refuses parts of a batch that are empty, or too small for batch norm."""
    smallest = 2 if any(isinstance(m, _BatchNorm) for m in network.modules()) else 1
    if smallest > recipe.batch_size:
        raise UsageError(
            f"--batch-size {recipe.batch_size}: the network has batch norm, which is over the images "
            "of a batch and needs two at least",
            hint="Choose a larger --batch-size, or a network without batch norm",
        )
    if recipe.accumulate * smallest > recipe.batch_size:
        needed = " of two, which batch norm needs" if smallest == 2 else ""
        raise UsageError(
            f"--accumulate {recipe.accumulate}: a batch of {recipe.batch_size} has not so many "
            f"parts{needed}",
            hint="Choose fewer, or a larger --batch-size",
        )
    if recipe.clip_mode != "norm" and recipe.clip_grad is None:
        raise UsageError(f"clip_mode {recipe.clip_mode} without a bound: set clip_grad too")


def _optimisation(prepared: PreparedRun, steps: int) -> Optimisation:
    recipe = prepared.recipe
    _check_parts(recipe, prepared.network)

    def scheduled(optimizer: torch.optim.Optimizer, peak: float) -> Scheduler:
        return schedule.create_scheduler(
            optimizer,
            recipe.sched,
            peak=peak,
            # Below a lower peak the fall ends as much lower.
            floor=recipe.min_lr * peak / recipe.lr,
            total_steps=recipe.epochs * steps,
            warmup_steps=round(recipe.warmup_epochs * steps),
            args=recipe.sched_args,
        )

    student = scheduled(prepared.optimizer, recipe.lr)
    along = [scheduled(peer.optimizer, peer.optimizer.defaults["lr"]) for peer in prepared.peers]
    optimisation = Optimisation(
        optimizer=prepared.optimizer,
        schedule=Schedules(student, *along) if along else student,
        runtime=prepared.runtime,
        scaler=prepared.runtime.scaler(),
        accumulate=recipe.accumulate,
        clip_grad=recipe.clip_grad,
        clip_mode=recipe.clip_mode,
        adapter_optimizers=prepared.layers.optimizers,
        ema=None if recipe.ema is None else moving_average(prepared.network, recipe.ema),
        weights=prepared.weights,
        peers=prepared.peers,
    )
    if not prepared.layers.composition.judging:
        return optimisation
    undone = {"network": prepared.network, **optimisation.of_student}
    return replace(optimisation, rollback=Rollback(undone))
