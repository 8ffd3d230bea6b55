"""From what is opened and checked to the loop that trains."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.data.loader import Loader
from distill_cli.data.views import Views
from distill_cli.errors import UsageError
from distill_cli.metrics import one_vs_all
from distill_cli.models import Network, save_model
from distill_cli.models.taps import signals_of
from distill_cli.pipeline.inputs.data import worker_count
from distill_cli.pipeline.run.prepared import Plan
from distill_cli.pipeline.run.probe import penultimate_of
from distill_cli.pipeline.run.validation import hints_held_out, labels_held_out
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.schema import HintRecipe
from distill_cli.teachers.mixture import Relabelled
from distill_cli.training import schedule
from distill_cli.training.events import Sink
from distill_cli.training.loop import Trainer
from distill_cli.training.optimisation import Updates, moving_average
from distill_cli.training.rollback import Rollback


def trainer_of(plan: Plan, sink: Sink) -> Trainer:
    """The loop of a run, ready to go; torch's global generator is seeded for it."""
    recipe, dataset, here = plan.recipe, plan.dataset, plan.runtime
    views = Views(
        dataset.train, plan.spec, here.device, workers=worker_count(recipe), rows=dataset.fit_rows
    )
    views.try_out()
    loader = Loader(
        views=views,
        target_N=dataset.train.label_N,
        rows=dataset.fit_rows,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        stored_views=plan.stored_views,
        target_NK=_label_targets(plan),
        copies=len(plan.teacher.members) if isinstance(plan.teacher, Relabelled) else 1,
        order_name=(recipe.order if isinstance(recipe, LabelledRecipe) else None) or "shuffled",
    )
    taps, stop = plan.layers.taps, isinstance(recipe, HintRecipe)
    updates = _updates(plan, loader.steps)
    if recipe.compile:
        plan.network.net.compile()
    # After the network's initialisation, so that dropout does not depend on its size.
    torch.manual_seed(recipe.seed)
    return Trainer(
        network=plan.network,
        forward=partial(signals_of, plan.network, taps=taps, stop=stop),
        adapters=plan.layers.adapters,
        updates=updates,
        teacher=plan.teacher,
        composition=plan.layers.composition,
        loader=loader,
        epochs=recipe.epochs,
        probe=partial(penultimate_of, plan.network, dataset.train, dataset.fit_rows, recipe.seed),
        evaluate=partial(hints_held_out if stop else labels_held_out, plan),
        save_best=lambda network: save_model(network, plan.run / "model"),
        run=plan.run,
        key=plan.key,
        sink=sink,
    )


def _label_targets(plan: Plan) -> Tensor | None:
    """What applies of each class to each training image; None where one class of all does."""
    train, network = plan.dataset.train, plan.network
    if network.targets == "softmax":
        return None
    if train.label_NK is not None:
        return train.label_NK
    return one_vs_all(train.label_N, len(network.class_names))


def _check_parts(recipe: TrainRecipe, network: Network) -> None:
    """Refuses parts of a batch that are empty, or too small for batch norm."""
    smallest = 2 if any(isinstance(m, _BatchNorm) for m in network.modules()) else 1
    if recipe.accumulate * smallest > recipe.batch_size:
        needed = " of two, which batch norm needs" if smallest == 2 else ""
        raise UsageError(
            f"--accumulate {recipe.accumulate}: a batch of {recipe.batch_size} has not so many "
            f"parts{needed}"
        )
    if recipe.clip_mode != "norm" and recipe.clip_grad is None:
        raise UsageError(f"clip_mode {recipe.clip_mode} without a bound: set clip_grad too")


def _updates(plan: Plan, steps: int) -> Updates:
    recipe = plan.recipe
    _check_parts(recipe, plan.network)
    assert recipe.lr is not None, "resolved by `prepare`"
    updates = Updates(
        optimizer=plan.optimizer,
        schedule=schedule.create(
            plan.optimizer,
            recipe.sched,
            peak=recipe.lr,
            floor=recipe.min_lr,
            total_steps=recipe.epochs * steps,
            warmup_steps=round(recipe.warmup_epochs * steps),
            args=recipe.sched_args,
        ),
        here=plan.runtime,
        scaler=plan.runtime.scaler(),
        accumulate=recipe.accumulate,
        clip_grad=recipe.clip_grad,
        clip_mode=recipe.clip_mode,
        beside=plan.layers.optimizers,
        ema=None if recipe.ema is None else moving_average(plan.network, recipe.ema),
    )
    if not plan.layers.composition.judging:
        return updates
    undone = {"network": plan.network, **updates.of_student}
    return replace(updates, rollback=Rollback(undone))
