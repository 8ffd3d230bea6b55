"""From what is opened and checked to the loop that trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.data.dataset import Dataset
from distill_cli.data.loader import Loader
from distill_cli.data.views import Views
from distill_cli.errors import UsageError
from distill_cli.evaluate import evaluate
from distill_cli.metrics import one_vs_all
from distill_cli.models import Network, save_model
from distill_cli.models.taps import signals_of
from distill_cli.pipeline.inputs import worker_count
from distill_cli.pipeline.layers import Layers
from distill_cli.pipeline.probe import penultimate_of
from distill_cli.pipeline.teaching import Member
from distill_cli.recipe.base import LabelledRecipe, TrainRecipe
from distill_cli.recipe.schema import HintRecipe
from distill_cli.runtime import Runtime
from distill_cli.teachers.mixture import Relabelled
from distill_cli.training import schedule
from distill_cli.training.events import Sink
from distill_cli.training.loop import Trainer
from distill_cli.training.rollback import Rollback
from distill_cli.training.state import HeldOut
from distill_cli.training.updates import Updates, moving_average
from distill_cli.types import UNLABELLED, Batch, Progress, Teacher, ViewSpec

# Keys that do not change what is trained, so that a resumed run may have others.
NOT_TRAINING = {
    *("out", "require", "about", "recorded", "device", "threads", "workers", "data", "teachers"),
    *("force", "class_map"),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a run needs, opened and checked; nothing is written yet."""

    recipe: TrainRecipe
    runtime: Runtime
    dataset: Dataset
    spec: ViewSpec
    stored_views: int | None
    members: tuple[Member, ...]
    teacher: Teacher | None
    layers: Layers
    network: Network
    optimizer: torch.optim.Optimizer

    @property
    def run(self) -> Path:
        """The run folder."""
        assert self.recipe.out is not None, "resolved by `prepare`"
        return Path(self.recipe.out)

    @property
    def key(self) -> str:
        """Identifies what is trained from what: recipe, data and teachers."""
        return self.key_of(self.recipe.model_dump(mode="json", exclude=NOT_TRAINING))

    def key_of(self, values: Mapping[str, Any]) -> str:
        """The same, of a recipe in other words.

        Args:
            values: Its keys, but for those of `NOT_TRAINING`.
        """
        teacher = None if self.teacher is None else self.teacher.fingerprint
        parts = [values, self.dataset.identity.to_json(), self.spec.to_json(), teacher]
        # What objectives were told of the classes: a file or a run may be another one by now.
        parts += [self.layers.told_of] if self.layers.told_of else []
        return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


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


def labels_held_out(plan: Plan, network: Network) -> HeldOut:
    """Accuracy chooses the epoch, NLL between equal accuracies, of which small splits are full.

    Where several labels may apply to an image, mean average precision stands for accuracy.
    """
    held_out, here = plan.dataset.val, plan.runtime
    with here.autocast():
        found = evaluate(network, held_out, here.device)
    figures = {"val_top1": found.top1, "val_nll": found.nll, "val_ece": found.ece}
    if found.map is None or found.f1 is None:
        return HeldOut(figures=figures, rank=(found.top1, -found.nll))
    first = found.map if plan.dataset.several else found.top1
    figures |= {"val_map": found.map, "val_f1": found.f1}
    return HeldOut(figures=figures, rank=(first, -found.nll))


@torch.no_grad()
def hints_held_out(plan: Plan, network: Network) -> HeldOut:
    """The loss of the regression on the held-out images chooses the epoch."""
    here, layers = plan.runtime, plan.layers
    assert plan.teacher is not None, "hints come from a teacher"
    training = network.training
    network.eval()
    total, samples = 0.0, 0
    for images_BCHW in plan.dataset.val.still():
        row_B = torch.arange(len(images_BCHW))
        batch = Batch(
            images_BCHW=images_BCHW.to(here.device) / 255,
            target_B=torch.full_like(row_B, UNLABELLED, device=here.device),
            index_B=row_B,
            view_B=torch.zeros_like(row_B),
            step=0,
        )
        with here.autocast():
            student = signals_of(network, batch.images_BCHW, layers.taps, stop=True)
        teacher = plan.teacher.signals(batch)
        progress = Progress(epoch=0, step=0, total_steps=1)
        loss = layers.composition(student, teacher, batch, progress, layers.adapters)
        total, samples = total + float(loss.total) * len(row_B), samples + len(row_B)
    network.train(training)
    return HeldOut(figures={"val_hint": total / samples}, rank=(-total / samples,))


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
