"""Labels mixed of several, and chosen sample by sample, against the formulas in loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distill_cli.adapters.knowledge_refinery import ResidualMatrix
from distill_cli.adapters.label_mix import ClassEmbeddings
from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.soft_targets import group_relation
from distill_cli.objectives.base import AdapterContext, Objective
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.hooks import needs_of
from distill_cli.objectives.kd import KnowledgeDistillation
from distill_cli.objectives.label_mix import LabelMix
from distill_cli.objectives.label_smoothing import LabelSmoothing
from distill_cli.objectives.selective import Selective
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch, Mixing, Need, Progress, StudentSignals
from tests.objectives.steps import batch_of, step_of

B, K = 10, 4
GENERATOR = torch.Generator().manual_seed(5)
CENTROIDS = torch.randn(K, 6, generator=GENERATOR)
SETTING = AdapterContext(
    class_names=tuple("abcd"),
    rule_KK=group_relation(torch.tensor([0, 1, 0, 2])),
    centroid_KD=CENTROIDS,
)
TARGET = torch.tensor([0, 1, 2, 3, -1, 0, 1, 2, 3, 3])
PROGRESS = Progress(epoch=0, step=1, total_steps=10)


def batch(mixing: Mixing | None = None) -> Batch:
    index_B = torch.arange(B)
    return batch_of(TARGET, index_B=index_B, step=1, mixing=mixing)


def logits(seed: int = 0) -> Tensor:
    return torch.randn(B, K, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def composed(*parts: tuple[float, Objective]) -> tuple[Composition, nn.ModuleDict]:
    made = Composition(
        tuple(Weighted(objective=each, weight=Weight(start=weight)) for weight, each in parts)
    )
    return made, made.adapters(SETTING)


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths


@pytest.mark.parametrize("who", ["own", "teacher"])
def test_a_mix_is_the_formula(who: str) -> None:
    objective = LabelMix(
        **{"hard": 0.4, "relation": 0.3, "sample": 0.2, "rule": 0.1, "model": "run"},
        **{"relation_temperature": 0.7, "sample_temperature": 2.0, "sample_from": who},
    )
    z, v = logits(), logits(1).detach()
    made, adapters = composed((1, objective))
    total = made(StudentSignals(logits=z), DenseSignals(v), batch(), PROGRESS, adapters).total

    mean = [float(value) for value in CENTROIDS.mean(dim=0)]
    about = [[float(x) - m for x, m in zip(row, mean, strict=True)] for row in CENTROIDS]
    groups, losses = [{0, 2}, {1}, {0, 2}, {3}], []
    for row in range(B):
        y = int(TARGET[row])
        if y < 0:
            continue
        relation = softmax([cosine(about[y], other) for other in about], 0.7)
        sample = softmax([float(x) for x in (z if who == "own" else v)[row]], 2.0)
        log_p = [math.log(share) for share in softmax([float(x) for x in z[row]])]
        for k in range(K):
            rule = (k in groups[y]) / len(groups[y])
            q = 0.4 * (k == y) + 0.3 * relation[k] + 0.2 * sample[k] + 0.1 * rule
            losses.append(-q * log_p[k])
    assert float(total) == pytest.approx(sum(losses) / 9, abs=1e-5)


def test_all_hard_is_cross_entropy() -> None:
    one, two = logits(), logits()
    neutral = LabelMix(hard=1, relation=0, sample=0)
    for z, objective in ((one, neutral), (two, CrossEntropy())):
        made, adapters = composed((1, objective))
        made(StudentSignals(logits=z), None, batch(), PROGRESS, adapters).total.backward()
        assert len(list(adapters.parameters())) == 0
    assert torch.allclose(one.grad, two.grad, atol=1e-7)


def test_the_network_and_the_embeddings_learn_apart() -> None:
    objective = LabelMix(hard=0.5, relation=0.5, sample=0)
    _, adapters = composed((1, objective))
    own = adapters["label-mix"]
    z = logits()
    terms = objective(step_of(StudentSignals(logits=z), None, batch(), PROGRESS, own))
    [embedding_KD] = own.parameters()
    terms["ce"].loss_B.sum().backward()
    assert embedding_KD.grad is None
    before = z.grad.clone()
    terms["embeddings"].loss_B.sum().backward()
    assert torch.equal(z.grad, before)
    assert embedding_KD.grad.abs().sum() > 0


def test_the_own_answer_is_held_constant() -> None:
    """dCE(q, p)/dz with q held constant is p·Σq − q; through q there would be more."""
    z = logits()
    made, adapters = composed((1, LabelMix(hard=0.5, relation=0, sample=0.5)))
    made(StudentSignals(logits=z), None, batch(), PROGRESS, adapters).total.backward()
    p = F.softmax(z.detach(), dim=-1)
    q = 0.5 * F.one_hot(TARGET.clamp(min=0), K) + 0.5 * p
    expected = (p - q) / 9 * (TARGET >= 0)[:, None]
    assert torch.allclose(z.grad, expected, atol=1e-7)


def test_embeddings_learn_what_is_confused() -> None:
    """Of a network that answers 2 for half of the 0s, class 0 is related to 2 and to no other."""
    relation = ClassEmbeddings(K, 0.3, rate=0.25)
    answer_KK = torch.tensor([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1.0]])
    optimizer = relation.optimizer()
    for _ in range(400):
        optimizer.zero_grad()
        (-(answer_KK * relation().log()).sum(dim=-1).mean()).backward()
        optimizer.step()
    found = relation.relations()
    assert found[0, 2] > 0.4
    assert found[0, [1, 3]].max() < 0.05
    assert torch.allclose(found.sum(dim=1), torch.ones(K))


@pytest.mark.parametrize(
    "wrong",
    [
        {"hard": 0.5, "relation": 0.6, "sample": 0},
        {"hard": 0.5, "relation": 0, "sample": 0.5, "model": "run"},
        {"hard": -0.1, "relation": 1, "sample": 0.1},
    ],
)
def test_shares_make_up_one_label(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(LabelMix).validate_python(wrong)


def test_a_mix_needs_what_has_a_share() -> None:
    assert needs_of(LabelMix()) == set()
    assert needs_of(LabelMix(sample_from="teacher")) == {Need.TEACHER}
    assert needs_of(LabelMix(model="run")) == {Need.MODEL}
    assert needs_of(LabelMix(hard=0.5, sample=0, relation=0, rule=0.5)) == {Need.GROUPS}


@pytest.mark.parametrize("by", ["own", "teacher"])
def test_selective_softening_in_a_loop(by: str) -> None:
    z, v = (3 * logits(seed).detach() for seed in (0, 2))
    made, adapters = composed((1, LabelSmoothing(epsilon=0.3)), (1, Selective(margin=0.4, by=by)))
    total = made(StudentSignals(logits=z), DenseSignals(v), batch(), PROGRESS, adapters).total
    losses, kept = [], 0
    for row in range(B):
        y = int(TARGET[row])
        if y < 0:
            continue
        p = softmax([float(x) for x in z[row]])
        said = p if by == "own" else softmax([float(x) for x in v[row]])
        ahead = said[y] - max(said[k] for k in range(K) if k != y) >= 0.4
        kept += ahead
        q = [(1 - 0.3) * (k == y) + 0.3 / K if not ahead else float(k == y) for k in range(K)]
        losses.append(-sum(q[k] * math.log(p[k]) for k in range(K)))
    assert 0 < kept < 9, kept
    assert float(total) == pytest.approx(sum(losses) / 9, abs=1e-5)


def test_selecting_none_or_all() -> None:
    z, v = logits(), logits(1).detach()
    said, taught = StudentSignals(logits=z), DenseSignals(v)
    none, adapters = composed((1, LabelSmoothing(epsilon=0.5)), (1, Selective(margin=-1)))
    assert torch.allclose(
        none(said, taught, batch(), PROGRESS, adapters).total,
        cross_entropy(z, TARGET)[TARGET >= 0].mean(),
        atol=1e-7,
    )
    every, adapters = composed((0.9, KnowledgeDistillation()), (1, Selective(margin=2)))
    plain, _ = composed((0.9, KnowledgeDistillation()))
    assert torch.equal(
        every(said, taught, batch(), PROGRESS, adapters).total,
        plain(said, taught, batch(), PROGRESS).total,
    )


@pytest.mark.parametrize("margin", [-1, -0.99, 0.5])
def test_what_is_unlabelled_is_taught_by_the_soft_label(margin: float) -> None:
    z = logits()
    made, adapters = composed((1, KnowledgeDistillation()), (1, Selective(margin=margin)))
    said = made(StudentSignals(logits=z), DenseSignals(logits(1)), batch(), PROGRESS, adapters)
    said.total.backward()
    assert z.grad[4].abs().sum() > 0


def test_a_mixed_image_is_judged_by_its_larger_share() -> None:
    z = torch.full((B, K), -9.0)
    z[:, 1] = 9.0
    other_B = torch.ones(B, dtype=torch.int64)
    share_B = torch.full((B,), 0.3)
    mixed = batch(Mixing(share_B=share_B, target_B=other_B))
    soft_B = Selective(margin=0.5).soft_samples(
        step_of(StudentSignals(logits=z), None, mixed, PROGRESS)
    )
    assert soft_B.tolist() == (TARGET < 0).tolist()


@pytest.mark.parametrize("made", [ClassEmbeddings(K, 0.3, 0.25), ResidualMatrix(K, 0.25)])
def test_a_class_learns_as_fast_however_many_there_are(made: nn.Module) -> None:
    """Of a mean over B samples, a class sees its own B/K: its step is rate times their mean."""
    [group] = made.optimizer().param_groups
    assert group["lr"] == 0.25 * K
    assert group["momentum"] == 0
    assert group["weight_decay"] == 0


def test_a_cold_relation_stays_finite() -> None:
    z = logits()
    made, adapters = composed((1, LabelMix(relation_temperature=1e-3)))
    said = made(StudentSignals(logits=z), None, batch(), PROGRESS, adapters)
    said.total.backward()
    assert said.total.isfinite()
    assert all(each.grad.isfinite().all() for each in adapters.parameters())
