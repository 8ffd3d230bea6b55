"""Objectives at their defaults are what their authors' code computes, formulas written anew.

Shapes: B batch, K classes, C channels. All in fp64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import AdapterContext, Pair, TapShape, with_pairs
from distill_cli.objectives.compose import Composition, Weighted
from distill_cli.pipeline.objective.build import composition
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch, Progress, StudentSignals
from tests.objectives.steps import batch_of

B, K = 12, 7


def named(objective: str) -> Composition:
    """What `--objective` makes of a name, with every default."""
    return composition(validate(StudentRecipe, {"objective": objective}))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double() * 3


def batch() -> Batch:
    index_B = torch.arange(B)
    return batch_of(index_B % K, index_B=index_B)


def total(
    composed: Composition,
    student: StudentSignals,
    teacher: DenseSignals,
    adapters: nn.ModuleDict | None = None,
) -> Tensor:
    """Of the last step, when whatever warms up has done so."""
    last = Progress(epoch=0, step=100, total_steps=101)
    return composed(student, teacher, batch(), last, adapters).total


def looking(composed: Composition, pair: Pair) -> Composition:
    """With the layers named of what stands beside cross-entropy."""
    hard, other = composed.parts
    return Composition(
        (hard, Weighted(objective=with_pairs(other.objective, (pair,)), weight=other.weight))
    )


def pearson(one: Tensor, two: Tensor) -> Tensor:
    """Mean over rows of the cosine of what is centred."""
    one, two = (x - x.mean(dim=1, keepdim=True) for x in (one, two))
    return F.cosine_similarity(one, two, dim=1).mean()


def test_dist() -> None:
    """The authors' configuration of CIFAR-100: CE + 2·(their loss at T = 4)."""
    z, v = drawn(B, K, seed=0), drawn(B, K, seed=1)
    p, q = F.softmax(z / 4, dim=-1), F.softmax(v / 4, dim=-1)
    theirs = 16 * (1 - pearson(p, q)) + 16 * (1 - pearson(p.T, q.T))
    expected = F.cross_entropy(z, batch().target_B) + 2 * theirs
    found = total(named("dist"), StudentSignals(logits=z), DenseSignals(v))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_hint() -> None:
    """Public benchmarks': CE + 100·MSE(ReLU(batch norm(convolution of the student's)), hint)."""
    own, other = drawn(B, 3, 4, 4, seed=0), drawn(B, 5, 3, 3, seed=1).relu()
    z, v = drawn(B, K, seed=2), drawn(B, K, seed=3)
    composed = looking(named("hint"), ("s", "t"))
    shapes = AdapterContext(
        student={"s": TapShape(channels=3, height=4, width=4)},
        teacher={"t": TapShape(channels=5, height=3, width=3, rectified=True)},
    )
    adapters = composed.adapters(shapes).double()
    (weight,) = (each for each in adapters.parameters() if each.ndim == 4)
    predicted = F.conv2d(own, weight.detach())
    predicted = F.relu(F.batch_norm(predicted, None, None, training=True))
    expected = F.cross_entropy(z, batch().target_B) + 100 * F.mse_loss(predicted, other)
    student = StudentSignals(logits=z, features={"s": own})
    found = total(composed, student, DenseSignals(v, {"t": other}), adapters)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def kl(v: Tensor, z: Tensor) -> Tensor:
    """KL(softmax v ‖ softmax z), a mean over samples."""
    return F.kl_div(F.log_softmax(z, dim=-1), F.softmax(v, dim=-1), reduction="batchmean")


def test_kd() -> None:
    """Public benchmarks' configuration of CIFAR-100: 0.1 · CE + 0.9 · KD at T = 4."""
    z, v = drawn(B, K, seed=0), drawn(B, K, seed=1)
    expected = 0.1 * F.cross_entropy(z, batch().target_B) + 0.9 * 16 * kl(v / 4, z / 4)
    found = total(named("kd"), StudentSignals(logits=z), DenseSignals(v))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_dkd() -> None:
    """The authors' configuration: CE + TCKD + 8 · NCKD at T = 4, once it has warmed up."""
    z, v = drawn(B, K, seed=0), drawn(B, K, seed=1)
    target_B = batch().target_B
    own = F.one_hot(target_B, K).bool()
    binary = [
        torch.stack([p[own], 1 - p[own]], dim=1).log()
        for p in (F.softmax(v / 4, dim=-1), F.softmax(z / 4, dim=-1))
    ]
    others = [x[~own].view(B, K - 1) / 4 for x in (v, z)]
    expected = F.cross_entropy(z, target_B) + 16 * (kl(*binary) + 8 * kl(*others))
    found = total(named("dkd"), StudentSignals(logits=z), DenseSignals(v))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_nkd() -> None:
    """The authors' configuration of CIFAR-100: CE − q_y·log p_y + 3.5 · 9 · CE(q̂, p̂) at T = 3."""
    z, v = drawn(B, K, seed=0), drawn(B, K, seed=1)
    target_B = batch().target_B
    own = F.one_hot(target_B, K).bool()
    hard_B = F.cross_entropy(z, target_B, reduction="none")
    sure_B = F.softmax(v, dim=-1)[own]
    other, answer = (x[~own].view(B, K - 1) / 3 for x in (v, z))
    others = F.cross_entropy(answer, F.softmax(other, dim=-1))
    expected = (hard_B + sure_B * hard_B).mean() + 3.5 * 9 * others
    found = total(named("nkd"), StudentSignals(logits=z), DenseSignals(v))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_logit_standardisation() -> None:
    """The authors' configuration: 0.1 · CE + 9 · KD of z-scores at T = 2."""
    z, v = drawn(B, K, seed=0), drawn(B, K, seed=1)
    scores = [
        (x - x.mean(dim=-1, keepdim=True)) / x.std(dim=-1, keepdim=True, unbiased=False)
        for x in (v, z)
    ]
    soft = 4 * kl(scores[0] / 2, scores[1] / 2)
    expected = 0.1 * F.cross_entropy(z, batch().target_B) + 9 * soft
    found = total(named("logit-standardisation"), StudentSignals(logits=z), DenseSignals(v))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def attended(one: Tensor, two: Tensor) -> Tensor:
    """Attention transfer's: the mean squared difference of normalised maps."""
    one, two = (F.normalize(x.pow(2).mean(dim=1).flatten(1), dim=1) for x in (one, two))
    return (one - two).pow(2).mean()


def alike(one: Tensor, two: Tensor) -> Tensor:
    """Similarity-preserving distillation's: of row-normalised Gram matrices, over B²."""
    one, two = (F.normalize(x.flatten(1) @ x.flatten(1).T, dim=1) for x in (one, two))
    return (two - one).pow(2).sum() / B**2


def related(one: Tensor, two: Tensor) -> Tensor:
    """RKD's: 25 · distances + 50 · angles, smooth L1 of both."""
    distances, cosines = [], []
    for x in (one.flatten(1), two.flatten(1)):
        between = x[None] - x[:, None]
        length = between.norm(dim=-1)
        distances.append(length / length[~torch.eye(B).bool()].mean())
        unit = F.normalize(between, dim=-1)
        cosines.append(unit @ unit.mT)
    return 25 * F.smooth_l1_loss(*distances) + 50 * F.smooth_l1_loss(*cosines)


@pytest.mark.parametrize(
    ("name", "weight", "loss"),
    [("attention", 1000, attended), ("similarity", 3000, alike), ("rkd", 1, related)],
)
def test_features(name: str, weight: float, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The authors' weights beside cross-entropy of weight 1."""
    own, other = drawn(B, 3, 4, 4, seed=0), drawn(B, 5, 4, 4, seed=1)
    z, v = drawn(B, K, seed=2), drawn(B, K, seed=3)
    expected = F.cross_entropy(z, batch().target_B) + weight * loss(own, other)
    student = StudentSignals(logits=z, features={"s": own})
    found = total(looking(named(name), ("s", "t")), student, DenseSignals(v, {"t": other}))
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_every_objective_says_whose_its_defaults_are() -> None:
    silent = {name for name, cls in OBJECTIVES.items() if not cls.info.defaults}
    assert not silent
