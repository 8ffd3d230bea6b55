"""Feature-normalised distillation: from features and weights in loops, its limits, its τ."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_cli.adapters.feature_norm_kd import TypicalNorm
from distill_cli.models import InputSpec, Network, create_network
from distill_cli.models.taps import signals_of
from distill_cli.objectives.base import AdapterContext
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.feature_norm_kd import OF_CLASSIFIERS, FeatureNormDistillation
from distill_cli.pipeline.objective.layers import find_layers
from distill_cli.teachers.live import LiveTeacher
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import BIAS, PENULTIMATE, Batch, Progress, StudentSignals
from tests.objectives.steps import step_of

B, K, D = 6, 4, 5
PROGRESS = Progress(epoch=0, step=0, total_steps=9)


def batch(images_BCHW: Tensor | None = None) -> Batch:
    row = torch.arange(B)
    return Batch(
        images_BCHW=torch.zeros(B, 1, 2, 2) if images_BCHW is None else images_BCHW,
        target_B=row % K,
        index_B=row,
        view_B=torch.zeros_like(row),
        step=0,
    )


def layer(seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """f, W, b, fp64."""
    generator = torch.Generator().manual_seed(seed)
    f, w, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((B, D), (K, D), (K,))
    )
    return f * scale, w, b


def signals(f: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    bias = b.expand(B, -1)[:, :, None, None]
    return f @ w.T + b, {PENULTIMATE: f[:, :, None, None], BIAS: bias}


def loss(
    objective: FeatureNormDistillation, seed: int = 0, made: nn.Module | None = None
) -> Tensor:
    (z, features), (v, taught) = signals(*layer(seed)), signals(*layer(seed + 1, 3.0))
    student = StudentSignals(logits=z, features=features)
    terms = objective(step_of(student, DenseSignals(v, taught), batch(), PROGRESS, made))
    return terms["feature_norm_kd"].loss_B


def predicted(f: Tensor, w: Tensor, b: Tensor, tau: float, form: str) -> list[list[float]]:
    """Class probabilities, by the formulas of both forms."""
    rows = []
    for feature in f.tolist():
        norm = math.sqrt(sum(x * x for x in feature))
        factor = tau / norm if form == "paper" else min(norm, tau) / norm
        scores = []
        for k in range(K):
            product = sum(x * y for x, y in zip(feature, w[k].tolist(), strict=True))
            whole = factor * (product + float(b[k]))
            scores.append(whole if form == "paper" else factor * product + float(b[k]))
        total = sum(math.exp(x) for x in scores)
        rows.append([math.exp(x) / total for x in scores])
    return rows


@pytest.mark.parametrize("tau", [None, 0.7, 2.5])
@pytest.mark.parametrize("form", ["paper", "release"])
def test_the_term_is_the_formula(form: str, tau: float | None) -> None:
    objective = FeatureNormDistillation(form=form, tau=tau)
    made = objective.adapters(AdapterContext())
    made = None if made is None else made.double()
    own, other = layer(0), layer(1, 3.0)
    if tau is None:
        squares = [sum(x * x for x in row) for row in other[0].tolist()]
        tau = math.sqrt(sum(squares) / B / 9) if form == "paper" else 2.0
    rows = zip(predicted(*own, tau, form), predicted(*other, tau, form), strict=True)
    expected = [-sum(y * math.log(x) for x, y in zip(p, q, strict=True)) for p, q in rows]
    assert loss(objective, 0, made).tolist() == pytest.approx(expected, rel=1e-9)


def test_tau_is_found_in_the_first_batch_and_kept() -> None:
    objective = FeatureNormDistillation()
    made = objective.adapters(AdapterContext())
    assert isinstance(made, TypicalNorm)
    made = made.double()
    loss(objective, 0, made)
    tau = float(made.norm) / 3
    mean = float(layer(1, 3.0)[0].square().sum(dim=1).mean())
    assert objective.info.default_weights.objective * tau**2 / mean == pytest.approx(1)
    later = loss(objective, 7, made)
    assert torch.allclose(later, loss(FeatureNormDistillation(tau=tau), 7), atol=1e-12)
    restored = TypicalNorm().double()
    restored.load_state_dict(made.state_dict())
    assert torch.equal(loss(objective, 7, restored), later)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_features_of_length_tau_are_distilled_at_temperature_1(form: str) -> None:
    """In the release form shorter ones are, too: nothing is lengthened."""
    objective = FeatureNormDistillation(form=form, tau=4.0)
    (f, w, b), (g, u, c) = layer(2), layer(3)
    short = 1.0 if form == "paper" else 0.5
    f, g = (short * 4 * F.normalize(each, dim=-1) for each in (f, g))
    (z, features), (v, taught) = signals(f, w, b), signals(g, u, c)
    student = StudentSignals(logits=z, features=features)
    found = objective(step_of(student, DenseSignals(v, taught), batch(), PROGRESS, None))
    cross = -(F.softmax(v, -1) * F.log_softmax(z, -1)).sum(dim=-1)
    assert torch.allclose(found["feature_norm_kd"].loss_B, cross, atol=1e-12)


def test_the_students_length_learns_and_the_teacher_does_not() -> None:
    for form in ("paper", "release"):
        objective = FeatureNormDistillation(form=form)
        made = objective.adapters(AdapterContext())
        (z, features), (v, taught) = signals(*layer(0)), signals(*layer(1))
        leaves = [z, v, *features.values(), *taught.values()]
        leaves = [each.detach().requires_grad_() for each in leaves]
        own = StudentSignals(
            logits=leaves[0], features=dict(zip(features, leaves[2:4], strict=True))
        )
        other = DenseSignals(leaves[1], dict(zip(taught, leaves[4:], strict=True)))
        objective(step_of(own, other, batch(), PROGRESS, made))[
            "feature_norm_kd"
        ].loss_B.sum().backward()
        assert leaves[0].grad.abs().sum() > 0
        assert own.features[PENULTIMATE].grad.abs().sum() > 0, "its length is not detached"
        assert (own.features[BIAS].grad is not None) == (form == "release")
        assert other.logits_BK.grad is None
        assert all(each.grad is None for each in other.features.values())


def network(name: str, seed: int) -> Network:
    view = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
    torch.manual_seed(seed)
    return create_network(name, class_names=tuple("abcd"), view=view)


def test_of_real_networks_it_is_their_last_layers_on_shortened_features() -> None:
    own, live = (
        network("mlp_16x1", 0),
        LiveTeacher(network("cifar_resnet8", 1), torch.device("cpu")),
    )
    objective = FeatureNormDistillation(form="release", tau=0.3)
    composed = Composition((Weighted(objective=objective, weight=Weight(start=1)),))
    found = find_layers(composed, own, live)
    assert found.taps == (BIAS, PENULTIMATE)
    assert [entry["teacher"] for entry in found.recorded] == [BIAS, PENULTIMATE]
    images = torch.rand(B, 1, 8, 8)
    with torch.no_grad():
        student = signals_of(own, images, found.taps)
        teacher = live.signals(batch(images))
        loss = found.composition(student, teacher, batch(images), PROGRESS, found.adapters)
    probabilities = []
    for net, said in ((own.net, student), (live.network.net, teacher)):
        last = net.get_classifier()
        f = said.features[PENULTIMATE].flatten(1)
        short = f * (0.3 / f.norm(dim=1, keepdim=True)).clamp(max=1)
        probabilities.append(F.log_softmax(last(short), -1))
    p, q = probabilities
    assert float(loss.total) == pytest.approx(float(-(q.exp() * p).sum(-1).mean()), rel=1e-5)


def test_a_teacher_of_classes_in_another_order_says_its_biases_in_ours() -> None:
    taught = network("mlp_16x1", 0)
    live = LiveTeacher(taught, torch.device("cpu"), class_names=("d", "b"), columns=(3, 1))
    live.watch((BIAS, PENULTIMATE))
    said = live.signals(batch(torch.rand(B, 1, 8, 8)))
    bias = taught.net.get_classifier().bias
    assert torch.equal(said.features[BIAS].flatten(1), bias[[3, 1]].expand(B, -1))
    assert said.features[PENULTIMATE].shape == (B, 16, 1, 1)


def test_other_layers_are_refused() -> None:
    assert FeatureNormDistillation(pairs=OF_CLASSIFIERS)
    with pytest.raises(ValueError, match="no other layers"):
        FeatureNormDistillation(pairs=(("stages.0", "layer1"),))
