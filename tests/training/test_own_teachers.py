"""Students that teach themselves, against loops by hand on the same rows.

fp32 and fp64 on the CPU. Dropout draws torch's numbers in the order of the rows of a forward, so that a
loop by hand with the same rows and generator has the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from distill_cli.data.dataset import Dataset
from distill_cli.pipeline.inputs.data import open_data
from distill_cli.pipeline.run.prepare import prepare
from distill_cli.pipeline.run.trainer import trainer_of
from distill_cli.recipe.base import Recipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.training.events import Silent, Sink
from distill_cli.training.loop import Trainer
from distill_cli.types import UNLABELLED
from tests.training.test_device_steps import assert_same, played, tabled, taken

COMMON: dict[str, Any] = {
    "data": "digits",
    "model": "cifar_resnet8",
    "batch_size": 40,
    "epochs": 3,
    "warmup_epochs": 0,
    "sched": "constant",
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "seed": 4,
    "device": "cpu",
    "precision": "fp32",
}
FIXMATCH: dict[str, Any] = {
    **COMMON,
    "teachers": ["self"],
    "teacher_augment": ["shift:1"],
    "augment": ["rotate:30", "shift:2"],
    "unlabelled_share": 0.75,
}
# Dropout and no batch norm.
DROPPING: dict[str, Any] = {"model": "mlp_32x1", "model_args": {"drop_rate": 0.3}}
# Rounding grows from step to step: an answer that is the likeliest by a hair may be another one.
STEPS = 4


def few_labels(recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
    """Digits of which every tenth row has a label."""
    dataset = open_data(recipe, sink, glance=glance)
    label_N = dataset.train.label_N.clone()
    label_N[torch.arange(len(label_N)) % 10 != 0] = UNLABELLED
    return replace(dataset, train=replace(dataset.train, label_N=label_N))


def begun(tmp_path: Path, **options: Any) -> Trainer:
    """A run that is about to take its first step."""
    out = tmp_path / str(len(list(tmp_path.iterdir())))
    out.mkdir()
    recipe = StudentRecipe(out=str(out), **options)
    made = trainer_of(prepare(recipe, sink=Silent(), overwrite=True, opening=few_labels), Silent())
    made.start(resume=False)
    made.network.train()
    torch.manual_seed(5)
    return made


def steps_of(run: Trainer, count: int = STEPS) -> None:
    taken(run, run._steps_on_host, count)


def by_hand(run: Trainer, loss_of: Callable[..., Tensor], count: int = STEPS) -> None:
    """Steps of SGD with Nesterov momentum of a loss of (images, weak images, targets, places)."""
    parameters = list(run.network.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    batches = [batch for epoch in range(run.epochs) for batch in run.loader.epoch(epoch)]
    for batch in batches[:count]:
        gradients = torch.autograd.grad(loss_of(run, batch), parameters)
        with torch.no_grad():
            for parameter, moving, gradient in zip(parameters, velocity, gradients, strict=True):
                moving.mul_(0.9).add_(gradient)
                parameter.sub_(0.05 * (gradient + 0.9 * moving))


def fixmatch(run: Trainer, batch: Any, threshold: float = 0.95) -> Tensor:
    """FixMatch, algorithm 1, in one forward of labelled, strong and weak images, as its code has it."""
    labelled = batch.target_B != UNLABELLED
    count = len(batch.index_B)
    logits = run.network(torch.cat([batch.images_BCHW, batch.teacher_TCHW]))
    supervised = F.cross_entropy(logits[:count][labelled], batch.target_B[labelled])
    probs = logits[count:].detach().softmax(dim=1)
    most, label = probs.max(dim=1)
    losses = F.cross_entropy(logits[:count][~labelled], label, reduction="none")
    return supervised + (losses * (most >= threshold)).sum() / len(label)


class FreeMatch:
    """FreeMatch, equations 4 to 12, with the moving averages in fp64."""

    def __init__(self) -> None:
        self.tau, self.mean = torch.tensor(0.1).double(), torch.full((10,), 0.1).double()
        self.histogram = self.mean.clone()

    def __call__(self, run: Trainer, batch: Any) -> Tensor:
        labelled = batch.target_B != UNLABELLED
        count = len(batch.index_B)
        logits = run.network(torch.cat([batch.images_BCHW, batch.teacher_TCHW]))
        supervised = F.cross_entropy(logits[:count][labelled], batch.target_B[labelled])
        probs = logits[count:].detach().softmax(dim=1).double()
        most, label = probs.max(dim=1)
        m = 0.9
        self.tau = m * self.tau + (1 - m) * most.mean()
        self.mean = m * self.mean + (1 - m) * probs.mean(dim=0)
        counts = torch.bincount(label, minlength=10).double()
        self.histogram = m * self.histogram + (1 - m) * counts / counts.sum()
        accepted = most >= self.tau * (self.mean / self.mean.max())[label]
        strong = logits[:count][~labelled]
        losses = F.cross_entropy(strong, label, reduction="none")
        loss = supervised + (losses * accepted).sum() / len(label)
        if accepted.any():
            own = strong[accepted].double().softmax(dim=1)
            histogram = torch.bincount(own.argmax(dim=1), minlength=10).double()
            histogram = histogram / histogram.sum()
            ratio = torch.where(histogram > 0, own.mean(dim=0) / histogram.clamp(min=1e-30), 0.0)
            target = self.mean / self.histogram
            fairness = (target / target.sum() * (ratio / ratio.sum() + 1e-12).log()).sum()
            loss = loss + 0.05 * fairness.float()
        return loss


class MeanTeacher:
    """Mean Teacher on two views, the average moved after each step as timm does it."""

    def __init__(self, run: Trainer) -> None:
        self.run, self.steps = run, 0
        self.average = {name: value.clone() for name, value in run.network.state_dict().items()}

    def __call__(self, run: Trainer, batch: Any) -> Tensor:
        if self.steps:
            # What the step before left: min(decay, 1 − t^(−2/3)) of the average stays.
            decay = min(0.9, 1 - self.steps ** (-2 / 3))
            for name, value in run.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].mul_(decay).add_(value, alpha=1 - decay)
                else:
                    self.average[name].copy_(value)
        self.steps += 1
        labelled = batch.target_B != UNLABELLED
        logits = run.network(batch.images_BCHW)
        run.network.eval()
        with torch.no_grad():
            said = functional_call(run.network, self.average, (batch.teacher_TCHW,))
        run.network.train()
        consistency = (logits.softmax(dim=1) - said.softmax(dim=1)).square().mean()
        supervised = F.cross_entropy(logits[labelled], batch.target_B[labelled])
        return supervised + 2.0 * consistency


def assert_close(one: Trainer, other: Trainer) -> None:
    """fp32 rounding of a few steps."""
    for (name, value), expected in zip(
        one.network.state_dict().items(), other.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            value, expected, rtol=2e-3, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("network", [{}, DROPPING], ids=["batch norm", "dropout"])
def test_fixmatch_is_the_paper_s_step(tmp_path: Path, network: dict[str, Any]) -> None:
    objective = [{"name": "ce"}, {"name": "pseudo-label", "threshold": 0.3}]
    ours, hand = (begun(tmp_path, **{**FIXMATCH, **network}, objective=objective) for _ in range(2))
    torch.manual_seed(5)
    steps_of(ours)
    torch.manual_seed(5)
    by_hand(hand, lambda run, batch: fixmatch(run, batch, 0.3))
    assert_close(ours, hand)
    accepted = ours.state.means()
    assert accepted["pseudo_label"] > 0, "some labels were taken"


@pytest.mark.parametrize("network", [{}, DROPPING], ids=["batch norm", "dropout"])
def test_freematch_is_the_paper_s_step(tmp_path: Path, network: dict[str, Any]) -> None:
    entry = {"name": "pseudo-label", "adaptive": True, "momentum": 0.9, "fairness": 0.05}
    options = {**FIXMATCH, **network, "objective": [{"name": "ce"}, entry]}
    ours, hand = (begun(tmp_path, **options) for _ in range(2))
    torch.manual_seed(5)
    steps_of(ours)
    torch.manual_seed(5)
    by_hand(hand, FreeMatch())
    assert_close(ours, hand)


def test_mean_teacher_is_the_paper_s_step(tmp_path: Path) -> None:
    entry = {"name": "consistency", "weight": 2.0, "ramp": 0.0}
    options = {**FIXMATCH, "teachers": ["ema"], "ema": 0.9, "objective": [{"name": "ce"}, entry]}
    ours, hand = (begun(tmp_path, **options) for _ in range(2))
    steps_of(ours)
    by_hand(hand, MeanTeacher(hand))
    assert_close(ours, hand)


def test_without_a_sure_answer_nothing_is_learnt_from_unlabelled_images(tmp_path: Path) -> None:
    """The threshold is above every answer: the loss is cross-entropy's alone, not NaN."""
    objective = [{"name": "ce"}, {"name": "pseudo-label", "threshold": 1.0}]
    run = begun(tmp_path, **FIXMATCH, objective=objective)
    steps_of(run)
    means = run.state.means()
    assert means["pseudo_label"] == 0
    assert means["loss"] == pytest.approx(means["ce"])


@pytest.mark.parametrize(
    "options",
    [
        {**FIXMATCH, "objective": "ce,pseudo-label"},
        {**FIXMATCH, "accumulate": 2, "objective": "ce,pseudo-label"},
        {
            **FIXMATCH,
            "teachers": ["ema"],
            "ema": 0.9,
            "objective": [{"name": "ce"}, {"name": "consistency", "weight": 1.0}],
        },
        {**FIXMATCH, "self": {"mode": "eval"}, "objective": "ce,pseudo-label"},
        {
            **{key: value for key, value in FIXMATCH.items() if key != "unlabelled_share"},
            "objective": "ce,pseudo-label",
        },
    ],
    ids=["self", "accumulated", "ema", "eval", "one order"],
)
def test_steps_on_a_device_are_those_of_the_host_and_can_be_recorded(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """To the bit, from tables and from a recording, over the end of an epoch."""
    options = {**options, **DROPPING}
    host, table, recorded = (begun(tmp_path, **options) for _ in range(3))
    count = host.loader.steps + 4
    torch.manual_seed(5)
    steps_of(host, count)
    torch.manual_seed(5)
    taken(table, tabled(table).epoch, count)
    # timm's moving average rounds otherwise than the one on a device, and here it teaches.
    (assert_close if host.optimisation.ema is not None else assert_same)(host, table)
    torch.manual_seed(5)
    taken(recorded, played(recorded).epoch, count)
    assert_same(table, recorded)


def test_asked_in_eval_mode_it_leaves_its_buffers_alone(tmp_path: Path) -> None:
    options = {**FIXMATCH, "objective": [{"name": "ce"}, {"name": "pseudo-label"}]}
    run = begun(tmp_path, **{**options, "self": {"mode": "eval"}})
    batch = next(run.loader.epoch(0))
    assert run.update.teacher is not None
    before = {name: value.clone() for name, value in run.network.named_buffers()}
    signals = run.update.teacher.signals(batch)
    assert run.network.training
    for name, value in run.network.named_buffers():
        assert torch.equal(value, before[name]), name
    said = signals.log_probs(1.0)
    assert not said.requires_grad
    run.network.eval()
    with torch.no_grad():
        expected = run.network(batch.teacher_TCHW).log_softmax(dim=1)
    assert torch.allclose(said[batch.asked_T], expected, atol=1e-6)
