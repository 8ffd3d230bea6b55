"""Pull of an objective at its usual weight, on the built-in digits.

The norm of an objective's weighted gradient over the student's parameters, all its terms, a mean
over ten fixed batches, before and after training with it, divided by that of cross-entropy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.losses.soft_targets import group_relation
from distill_cli.models import Network
from distill_cli.models.taps import signals_of
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import AdapterContext
from distill_cli.objectives.binary_cross_entropy import BinaryCrossEntropy
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.hooks import SelectsSamples, needs_of
from distill_cli.pipeline.inputs.data import open_data
from distill_cli.pipeline.inputs.student import architecture_of, student_network
from distill_cli.pipeline.objective.build import composition
from distill_cli.pipeline.objective.layers import Layers, find_layers
from distill_cli.pipeline.run.probe import penultimate_of
from distill_cli.recipe.base import LabelledRecipe
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe
from distill_cli.teachers.live import LiveTeacher
from distill_cli.training.events import Silent
from distill_cli.types import UNLABELLED, Batch, Need, Progress, Targets

# Student and teacher: one pair without maps, one with. At these rates both learn the digits, and end
# alike on machines that round otherwise.
NETWORKS = {"mlp": ("mlp_32x2", "mlp_128x2"), "resnet": ("cifar_resnet8", "cifar_resnet8")}
BATCHES, OF_A_CLASS, EPOCHS = 10, 6, 4
STEPS = 20 * EPOCHS
RATES = {"mlp": 0.01, "resnet": 0.001}
# Digits that are alike, for what wants groups.
GROUP_K = torch.tensor([0, 1, 2, 3, 4, 3, 0, 1, 3, 4])
# Labels of which one in ten is wrong, for what corrects them.
NOISE_KK = torch.full((10, 10), 0.1 / 9).fill_diagonal_(0.9)
Entries = list[dict[str, Any]]


def form(name: str, **parameters: Any) -> Entries:
    """An objective with parameters that are no defaults, at its usual weights."""
    about = OBJECTIVES[name].info
    hard = [] if about.owns else [{"name": "ce", "weight": about.default_weights.ce}]
    return [*hard, {"name": name, "weight": about.default_weights.objective, **parameters}]


# Cases that are measured, as `objective` takes them: every objective at its defaults, one that selects beside
# a soft label; and what some do at other settings, to compare.
DEFAULTS: dict[str, str | Entries] = {
    name: f"{name},label-smoothing" if issubclass(cls, SelectsSamples) else name
    for name, cls in OBJECTIVES.items()
}
OTHERS: dict[str, str | Entries] = {
    "d2l, turned": form("d2l", turn_epoch=2),
    "pseudo-label, adaptive": form("pseudo-label", adaptive=True, fairness=0.001),
    "tfkd-reg, form paper": form("tfkd-reg", form="paper"),
    "nkd, weights for ImageNet": form("nkd", temperature=1.0, others=1.5),
    "category-structure, form release": form("category-structure", form="release"),
    "category-structure, form release, no compact_weight": form(
        "category-structure", form="release", compact_weight=0.0
    ),
    "category-structure, form teacher-free": form("category-structure", form="teacher-free"),
    "category-structure, released weights": form(
        "category-structure", intra_weight=0.002, inter_weight=0.04
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Pull of one objective on one network; shares of a gradient's norm.

    Attributes:
        start: Untrained, of cross-entropy's there.
        end: Trained, of cross-entropy's on the untrained network.
        beside: Trained, of cross-entropy's on the same trained network.
    """

    start: float
    end: float | None = None
    beside: float | None = None

    @property
    def most(self) -> float:
        """At the moment at which it pulls harder."""
        return max(self.start, self.end or 0.0)


@cache
def digits() -> tuple[Dataset, Tensor, Tensor]:
    """The built-in digits; their training images in [0, 1] and labels."""
    dataset = open_data(StudentRecipe(data="digits", workers=0), Silent())
    images_NCHW = torch.cat(list(dataset.train.iter_plain())).float() / 255
    return dataset, images_NCHW, dataset.train.label_N


def batches(targets: Targets, seed: int, *, step: int = 0, epoch: int = 0) -> Iterator[Batch]:
    """Twenty, with as many samples of each class in each, no sample twice; set by the seed."""
    dataset, images_NCHW, label_N = digits()
    generator = torch.Generator().manual_seed(seed)
    rows_K = []
    for label in range(len(dataset.class_names)):
        rows = dataset.fit_rows[label_N[dataset.fit_rows] == label]
        rows_K.append(rows[torch.randperm(len(rows), generator=generator)])
    for place in range(STEPS // EPOCHS):
        own = slice(place * OF_A_CLASS, (place + 1) * OF_A_CLASS)
        index_B = torch.cat([rows[own] for rows in rows_K])
        target_B = label_N[index_B]
        yield Batch(
            images_BCHW=images_NCHW[index_B],
            target_B=target_B,
            index_B=index_B,
            view_B=torch.zeros_like(index_B),
            step=step + place,
            epoch=epoch,
            target_BK=F.one_hot(target_B).float() if targets == "sigmoid" else None,
            unlabelled=False,
        )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and what it is trained with."""

    network: Network
    layers: Layers
    teacher: LiveTeacher | None
    rate: float

    def loss(self, composed: Composition, batch: Batch) -> Tensor:
        if Need.UNLABELLED in composed.needs:
            # Every second label is hidden, and the images without are a stream of their own.
            target_B = batch.target_B.clone()
            target_B[::2] = UNLABELLED
            batch = replace(batch, target_B=target_B, unlabelled=True, streams=True)
        progress = Progress(epoch=batch.epoch, step=batch.step, total_steps=STEPS)
        student = signals_of(self.network, batch.images_BCHW, self.layers.taps)
        teacher = self.teacher and self.teacher.signals(batch)
        return composed(student, teacher, batch, progress, self.layers.adapters).total

    def train(self) -> None:
        """Adam at one rate, whose steps do not grow with the loss: trained networks differ little
        between machines. Adapters with an optimiser of their own keep it.
        """
        own = list(self.layers.optimizers.values())
        shared = [*self.network.net.parameters(), *self.layers.shared]
        optimizers = [torch.optim.Adam(shared, lr=self.rate), *own]
        dataset, _, _ = digits()
        look = partial(penultimate_of, self.network, dataset.train, dataset.fit_rows, 0)
        step = 0
        for epoch in range(EPOCHS):
            for batch in batches(self.network.targets, epoch + 1, step=step, epoch=epoch):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                self.loss(self.layers.composition, batch).backward()
                for optimizer in optimizers:
                    optimizer.step()
                step += 1
            self.layers.composition.after_epoch(look, epoch + 1, EPOCHS, self.layers.adapters)

    def norm(self, composed: Composition) -> float:
        """Norm of the gradient over the network's parameters, a mean over the fixed batches."""
        weights = list(self.network.net.parameters())
        before = copy.deepcopy(self.network.state_dict())
        norms = []
        # As in the middle of a run: whoever grows from 0 has grown.
        for batch in islice(batches(self.network.targets, 0, step=STEPS // 2), BATCHES):
            found = torch.autograd.grad(self.loss(composed, batch), weights, allow_unused=True)
            norms.append(float(sum(g.square().sum() for g in found if g is not None)) ** 0.5)
        # Batch norm has looked at batches that are not its training's.
        self.network.load_state_dict(before)
        return fmean(norms)


def recipe_of(network: str, case: str | Entries) -> tuple[LabelledRecipe, Targets]:
    """As a user would ask for these objectives, and the targets that they are for."""
    entries = [{"name": name} for name in case.split(",")] if isinstance(case, str) else case
    asked = {"data": "digits", "model": NETWORKS[network][0], "objective": case, "seed": 1}
    needs, targets = set(), "softmax"
    for entry in entries:
        cls = OBJECTIVES[entry["name"]]
        given = {key: value for key, value in entry.items() if key not in ("name", "weight")}
        needs |= needs_of(cls(**given))
        targets = "sigmoid" if cls.info.targets == {"sigmoid"} else targets
    if Need.GROUPS in needs:
        asked["groups"] = "words"
    if Need.NOISE in needs:
        asked["noise_matrix"] = "noise.csv"
    taught = Need.TEACHER in needs
    recipe = StudentRecipe(**asked, teachers=["run"]) if taught else TeacherRecipe(**asked)
    return recipe, targets


def subject(network: str, case: str | Entries) -> Subject:
    """A fresh student with what these objectives need."""
    recipe, targets = recipe_of(network, case)
    dataset, _, _ = digits()
    composed = composition(recipe, targets)
    architecture = architecture_of(recipe, dataset, None)
    made = student_network(recipe, architecture, dataset, targets, start=None, head=composed.head)
    teacher = None
    if Need.TEACHER in composed.needs:
        teacher = LiveTeacher(copy.deepcopy(teacher_of(network, targets)), torch.device("cpu"))
    context = AdapterContext(
        class_names=dataset.class_names,
        rule_KK=group_relation(GROUP_K),
        group_K=GROUP_K,
        noise_KK=NOISE_KK,
    )
    # Again: a teacher that was made in between has drawn numbers, one that is remembered has not.
    torch.manual_seed(recipe.seed)
    layers = find_layers(composed, made, teacher, context=context)
    return Subject(network=made.train(), layers=layers, teacher=teacher, rate=RATES[network])


@cache
def teacher_of(network: str, targets: Targets) -> Network:
    dataset, _, _ = digits()
    recipe = StudentRecipe(data="digits", model=NETWORKS[network][1], seed=0)
    architecture = architecture_of(recipe, dataset, None)
    made = student_network(recipe, architecture, dataset, targets, start=None, head=None)
    composed = hard(targets)
    layers = find_layers(composed, made, None)
    Subject(network=made.train(), layers=layers, teacher=None, rate=RATES[network]).train()
    return made.eval()


def hard(targets: Targets) -> Composition:
    """Cross-entropy alone; of sigmoid targets the sum of the labels' binary ones."""
    objective = BinaryCrossEntropy() if targets == "sigmoid" else CrossEntropy()
    return Composition((Weighted(objective=objective, weight=Weight(start=1)),))


def only(composed: Composition, name: str, weight: float | None = None) -> Composition:
    """The composition in which nothing but this objective has a weight."""
    parts = []
    for part in composed.parts:
        if part.objective.info.name != name:
            part = replace(part, weight=Weight(start=0))
        elif weight is not None:
            part = replace(part, weight=Weight(start=weight))
        parts.append(part)
    return Composition(tuple(parts))


def pull(network: str, case: str, *, trained: bool = True, weight: float | None = None) -> Pull:
    """Measures a case of `DEFAULTS` or `OTHERS`.

    Args:
        network: Name of one of `NETWORKS`.
        case: Its name.
        trained: After training too.
        weight: Weight of the objective, instead of its usual one.
    """
    made = subject(network, {**DEFAULTS, **OTHERS}[case])
    own = only(made.layers.composition, case.split(", ")[0], weight)
    plain = hard(made.network.targets)
    untrained = made.norm(plain)
    start = made.norm(own) / untrained
    if not trained:
        return Pull(start=start)
    made.train()
    end = made.norm(own)
    return Pull(start=start, end=end / untrained, beside=end / made.norm(plain))
