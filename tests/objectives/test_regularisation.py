"""Label regularisation: neutral settings are cross-entropy, draws are functions, nothing leaks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distill_cli.adapters.hooks import OwnOptimizer
from distill_cli.adapters.knowledge_refinery import ResidualMatrix
from distill_cli.adapters.target_matrix import TargetMatrix
from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.soft_targets import group_relation
from distill_cli.objectives.base import AdapterContext
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.disturb_label import DisturbLabel
from distill_cli.objectives.grouped_smoothing import GroupedSmoothing
from distill_cli.objectives.knowledge_refinery import KnowledgeRefinery
from distill_cli.objectives.label_smoothing import LabelSmoothing
from distill_cli.objectives.tfkd_reg import TeacherFreeRegularisation
from distill_cli.types import Batch, Progress, StudentSignals
from tests.objectives.steps import batch_of, step_of

B, K = 12, 5
GROUP_K = torch.tensor([0, 1, 0, 1, 2])
SETTING = AdapterContext(class_names=tuple("abcde"), rule_KK=group_relation(GROUP_K))


def batch(rows: Tensor | None = None) -> Batch:
    index_B = torch.arange(B) if rows is None else rows
    target_N = torch.tensor([0, 1, 2, 3, 4, -1, 0, 1, 2, 3, 4, 0])
    return batch_of(target_N[index_B], index_B=index_B)


def at(step: int = 3, seed: int = 0) -> Progress:
    return Progress(epoch=0, step=step, total_steps=10, seed=seed)


def logits(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, K, generator=generator).requires_grad_()


def loss(objective: object, said: Tensor, progress: Progress | None = None) -> Tensor:
    composed = Composition((Weighted(objective=objective, weight=Weight(start=1)),))
    adapters = composed.adapters(SETTING)
    return composed(StudentSignals(logits=said), None, batch(), progress or at(), adapters).total


@pytest.mark.parametrize(
    "neutral",
    [
        GroupedSmoothing(epsilon=0, group_epsilon=0),
        DisturbLabel(alpha=0),
        LabelSmoothing(epsilon=0),
    ],
    ids=lambda objective: objective.info.name,
)
def test_at_its_neutral_setting_it_is_cross_entropy(neutral: object) -> None:
    one, two = logits(), logits()
    losses = [loss(neutral, one), loss(CrossEntropy(), two)]
    for each in losses:
        each.backward()
    assert torch.allclose(*losses, atol=1e-7)
    assert torch.allclose(one.grad, two.grad, atol=1e-7)


def test_groups_of_one_are_label_smoothing() -> None:
    alone = GroupedSmoothing(epsilon=0.1, group_epsilon=0)
    assert torch.allclose(loss(alone, logits()), loss(LabelSmoothing(), logits()), atol=1e-6)


def test_the_matrix_of_groups_is_what_the_docstring_says() -> None:
    made = GroupedSmoothing(epsilon=0.1, group_epsilon=0.2).adapters(SETTING)
    assert isinstance(made, TargetMatrix)
    expected = torch.zeros(K, K)
    for y in range(K):
        alike = [k for k in range(K) if GROUP_K[k] == GROUP_K[y]]
        for k in range(K):
            expected[y, k] = 0.7 * (k == y) + 0.1 / K + 0.2 * (k in alike) / len(alike)
    assert torch.allclose(made.target_KK.float(), expected)


def test_disturbed_labels_are_a_function_of_seed_step_and_sample() -> None:
    z = torch.zeros(B, K)
    z[:, 1:] = torch.arange(1.0, K)

    def losses(rows: Tensor, progress: Progress) -> Tensor:
        said = StudentSignals(logits=z[rows])
        return DisturbLabel(alpha=0.5)(step_of(said, None, batch(rows), progress))["ce"].loss_B

    whole = losses(torch.arange(B), at())
    some = torch.tensor([7, 2, 10])
    assert torch.equal(losses(some, at()), whole[some])
    assert torch.equal(losses(torch.arange(B), at()), whole)
    assert not torch.equal(losses(torch.arange(B), at(step=4)), whole)
    assert not torch.equal(losses(torch.arange(B), at(seed=1)), whole)
    assert float(whole[5]) == 0


def test_mean_disturbed_gradient_is_smoothings() -> None:
    total, steps = torch.zeros(B, K), 1000
    for step in range(steps):
        z = logits()
        loss(DisturbLabel(alpha=0.3), z, at(step=step)).backward()
        total += z.grad / steps
    z = logits()
    loss(LabelSmoothing(epsilon=0.3), z).backward()
    assert torch.allclose(total, z.grad, atol=6e-3)


def test_a_virtual_teacher_must_be_right() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TeacherFreeRegularisation).validate_python({"correct_prob": 0.8})


@pytest.mark.parametrize(
    ("alpha", "multiplier", "temperature", "weights"),
    [
        (0.1, 100.0, 20.0, (0.9, 0.1)),  # ResNet-18, the defaults
        (0.1, 50.0, 40.0, (0.9, 0.05)),  # GoogLeNet
        (0.95, 1.0, 40.0, (0.05, 0.0095)),  # MobileNetV2
    ],
)
def test_the_virtual_teacher_is_the_authors_release(
    alpha: float, multiplier: float, temperature: float, weights: tuple[float, float]
) -> None:
    """(1 − α)·CE + α·m·KL, KL's mean over B·K, on CIFAR-100's number of classes, in fp64."""
    classes, rows = 100, 16
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (rows,), generator=generator)
    virtual = torch.full((rows, classes), 0.01 / (classes - 1), dtype=torch.float64)
    virtual[torch.arange(rows), target] = 0.99
    softened = F.softmax(virtual / temperature, dim=1)
    divergence = F.kl_div(F.log_softmax(z, dim=1), softened, reduction="none").mean()
    theirs = (1 - alpha) * F.cross_entropy(z, target) + alpha * multiplier * divergence

    about = TeacherFreeRegularisation.info
    objective = TeacherFreeRegularisation(temperature=temperature)
    if temperature == 20:
        assert objective == TeacherFreeRegularisation()
        assert (about.default_weights.ce, about.default_weights.objective) == weights
    parts = [(CrossEntropy(), weights[0]), (objective, weights[1])]
    composed = Composition(
        tuple(Weighted(objective=each, weight=Weight(start=weight)) for each, weight in parts)
    )
    shown = batch_of(target, index_B=torch.arange(rows))
    ours = composed(StudentSignals(logits=z), None, shown, at()).total
    assert float(ours) == pytest.approx(float(theirs), rel=1e-12)


def test_the_virtual_teacher_of_the_paper_is_the_formula() -> None:
    z = logits().detach().double()
    objective = TeacherFreeRegularisation(form="paper", correct_prob=0.95, temperature=20.0)
    said = StudentSignals(logits=z)
    found_B = objective(step_of(said, None, batch(), at(), None))["virtual"].loss_B
    for row, label in enumerate(batch().target_B.tolist()):
        if label < 0:
            assert float(found_B[row]) == 0
            continue
        prob = torch.full((K,), 0.05 / (K - 1), dtype=torch.float64)
        prob[label] = 0.95
        soft = prob ** (1 / 20) / (prob ** (1 / 20)).sum()
        student = F.softmax(z[row] / 20, -1)
        expected = sum(float(q * (q.log() - p.log())) for q, p in zip(soft, student, strict=True))
        assert float(found_B[row]) == pytest.approx(expected, abs=1e-9)


def test_refinery_each_side_learns_from_the_other_held_still() -> None:
    objective = KnowledgeRefinery()
    made = objective.adapters(SETTING)
    assert isinstance(made, ResidualMatrix)
    assert isinstance(made, OwnOptimizer)
    z = logits()
    terms = objective(step_of(StudentSignals(logits=z), None, batch(), at(), made))
    terms["residual"].loss_B.sum().backward()
    assert z.grad.abs().sum() > 0
    assert made.residual_KR.grad is None
    z.grad = None
    terms = objective(step_of(StudentSignals(logits=z), None, batch(), at(), made))
    terms["matrix"].loss_B.sum().backward()
    assert z.grad is None
    assert made.residual_KR.grad.abs().sum() > 0


def test_refinery_learns_which_classes_are_confused() -> None:
    """Where the student always takes class 0 for class 1, so do the labels of class 0 in the end."""
    made = ResidualMatrix(3, 0.5)
    assert torch.allclose(made.relations(), (1 - torch.eye(3)) / 2)
    optimizer = made.optimizer()
    z = torch.tensor([[5.0, 3.0, -3.0]])
    shown = Batch(
        images_BCHW=torch.zeros(1, 1, 1, 1),
        target_B=torch.tensor([0]),
        index_B=torch.tensor([0]),
        view_B=torch.tensor([0]),
        step=0,
    )
    for _ in range(300):
        optimizer.zero_grad()
        terms = KnowledgeRefinery()(step_of(StudentSignals(logits=z), None, shown, at(), made))
        terms["matrix"].loss_B.sum().backward()
        optimizer.step()
    assert made.relations()[0, 1] > 0.95
    assert made.relations()[1, 0] == pytest.approx(0.5)


def test_adapters_with_an_optimiser_of_their_own_are_told_apart() -> None:
    assert not isinstance(TargetMatrix(torch.eye(2)), OwnOptimizer)
    assert not isinstance(nn.Linear(1, 1), OwnOptimizer)


def test_unlabelled_samples_cost_nothing() -> None:
    z = logits()
    for objective in (
        GroupedSmoothing(),
        DisturbLabel(),
        TeacherFreeRegularisation(),
        KnowledgeRefinery(),
    ):
        z.grad = None
        loss(objective, z).backward()
        assert float(z.grad[5].abs().sum()) == 0, objective


def test_plain_cross_entropy_is_torchs() -> None:
    z = logits()
    target = batch().target_B
    assert torch.allclose(
        loss(CrossEntropy(), z), F.cross_entropy(z[target >= 0], target[target >= 0])
    )
    assert torch.equal(cross_entropy(z, target)[5], torch.tensor(0.0))
