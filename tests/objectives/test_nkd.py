"""Normalised distillation through a composition: weights, mixed images, teachers without logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.nkd import NormalisedDistillation, normalised_others, soft_target
from distill_cli.teachers.signals import DenseSignals, EnsembleSignals
from distill_cli.types import Batch, Mixing, Progress, StudentSignals, TeacherSignals
from tests.objectives.steps import step_of

B, K = 4, 5
TARGET = torch.tensor([0, 1, 2, -1])
PROGRESS = Progress(epoch=0, step=1, total_steps=10)
PLAIN = Batch(
    images_BCHW=torch.zeros(B, 1, 2, 2),
    target_B=TARGET,
    index_B=torch.arange(B),
    view_B=torch.zeros(B, dtype=torch.int64),
    step=1,
)
MIXING = Mixing(
    share_B=torch.tensor([0.7, 0.3, 0.4, 0.6]),
    target_B=torch.tensor([1, 0, 4, 2]),
)


def drawn(seed: int) -> Tensor:
    return torch.randn(B, K, generator=torch.Generator().manual_seed(seed)) * 3


def terms_of(
    objective: NormalisedDistillation, z: Tensor, teacher: TeacherSignals, batch: Batch
) -> dict[str, Tensor]:
    terms = objective(step_of(StudentSignals(logits=z), teacher, batch, PROGRESS))
    assert all(term.rows == "labelled" for term in terms.values())
    return {name: term.loss_B for name, term in terms.items()}


def test_each_term_has_its_weight_and_the_temperature_is_the_others() -> None:
    z, v = drawn(0), DenseSignals(drawn(1))
    objective = NormalisedDistillation(temperature=2, target=0.5, others=3)
    found = terms_of(objective, z, v, PLAIN)
    target_B = 0.5 * soft_target(z, v.log_probs(1.0), TARGET)
    others_B = 3 * normalised_others(z, v.log_probs(2.0), TARGET, 2.0)
    assert torch.equal(found["nkd_target"], target_B)
    assert torch.equal(found["nkd_others"], others_B)
    whole = Composition((Weighted(objective=objective, weight=Weight(start=0.1)),))
    loss = whole(StudentSignals(logits=z), v, PLAIN, PROGRESS)
    # A mean over the three that have a label.
    assert float(loss.total) == pytest.approx(0.1 * float((target_B + others_B).sum()) / 3)


def test_a_mixed_image_has_the_label_of_its_larger_share() -> None:
    z, v, objective = drawn(0), DenseSignals(drawn(1)), NormalisedDistillation()
    found = terms_of(objective, z, v, replace(PLAIN, mixing=MIXING))
    # 0.7 of class 0, 0.7 of class 0, 0.6 of class 4; the last stays without a label.
    larger = replace(PLAIN, target_B=torch.tensor([0, 0, 4, -1]))
    expected = terms_of(objective, z, v, larger)
    for name, loss_B in found.items():
        assert torch.equal(loss_B, expected[name])
        assert (loss_B[:3] > 0).all()
        assert loss_B[3] == 0


def test_it_learns_from_teachers_that_have_probabilities_alone() -> None:
    """An ensemble of two that agree is one of them; q̂ is the mean's, not the mean of q̂."""
    z, v = drawn(0), DenseSignals(drawn(1))
    objective = NormalisedDistillation()
    for name, loss_B in terms_of(objective, z, EnsembleSignals((v, v), (0.5, 0.5)), PLAIN).items():
        assert torch.allclose(loss_B, terms_of(objective, z, v, PLAIN)[name], rtol=1e-5)
    other = DenseSignals(drawn(2))
    found = terms_of(objective, z, EnsembleSignals((v, other), (0.3, 0.7)), PLAIN)
    q = 0.3 * v.log_probs(3.0).exp() + 0.7 * other.log_probs(3.0).exp()
    for row in range(3):
        beside = [k for k in range(K) if k != int(TARGET[row])]
        p_hat = torch.softmax(z[row, beside] / 3, dim=-1)
        q_hat = q[row, beside] / q[row, beside].sum()
        expected = 3.5 * 9 * -(q_hat * p_hat.log()).sum()
        assert float(found["nkd_others"][row]) == pytest.approx(float(expected), rel=1e-5)
