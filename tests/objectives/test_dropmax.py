"""DropMax: the objective against loops from the paper, its neutral setting, who learns from what."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distill_cli.counters import Purpose, draw, uniform32
from distill_cli.models.heads import GatedClassifier
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.dropmax import LOGITS, POSTERIOR, PRIOR, DropMax
from distill_cli.types import Batch, Mixing, Progress, StudentSignals, Terms
from tests.objectives.steps import batch_of, step_of

B, K, D = 9, 4, 6
TARGETS = [0, 1, 2, 3, -1, 0, 1, 2, 3]
PARTNERS = [1, 1, 0, -1, 2, 3, 0, 2, 1]


def batch(*, mixed: bool = False) -> Batch:
    mixing = Mixing(share_B=torch.linspace(0, 1, B), target_B=torch.tensor(PARTNERS))
    return batch_of(
        torch.tensor(TARGETS), index_B=torch.arange(B) * 7, step=3, mixing=mixing if mixed else None
    )


def at(step: int = 3, seed: int = 5) -> Progress:
    return Progress(epoch=0, step=step, total_steps=10, seed=seed)


def parts(seed: int = 0) -> dict[str, Tensor]:
    """o, the prior's logits and the posterior's, as a tap gives them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, B, K, 1, 1, generator=generator)
    return dict(zip((LOGITS, PRIOR, POSTERIOR), (drawn * 2).unbind(), strict=True))


def terms(
    objective: DropMax,
    features: Mapping[str, Tensor],
    shown: Batch | None = None,
    progress: Progress | None = None,
) -> Terms:
    said = StudentSignals(logits=None, features=features)
    return objective(step_of(said, None, shown or batch(), progress or at(), None))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_loops(features: Mapping[str, Tensor], row: int, label: int) -> dict[str, float]:
    """Equations of the paper for one sample, in fp64; its draws from their definition."""
    o, ph, rh = (features[name][row].flatten().double().tolist() for name in features)
    expo, kl, auxiliary, entropy = [], 0.0, 0.0, 0.0
    for k in range(K):
        bits = int(draw(5, Purpose.GATE, 3, row * 7, k)) % (1 << 64)
        u = (bits >> 40) / (1 << 24)
        rho, r, q = sigmoid(ph[k]), sigmoid(rh[k]), sigmoid(ph[k] + rh[k])
        gate = math.log(q / (1 - q)) + math.log(u / (1 - u))
        mask = 1.0 if k == label else sigmoid(gate / 0.1)
        expo.append((mask + 1e-20) * math.exp(o[k]))
        if k == label:
            kl += math.log(1 / rho)
            auxiliary += math.log(1 / r)
        else:
            kl += q * math.log(q / rho) + (1 - q) * math.log((1 - q) / (1 - rho))
            auxiliary += math.log(1 / (1 - r))
        entropy += rho * math.log(rho) + (1 - rho) * math.log(1 - rho)
    ce = math.log(sum(expo) / expo[label])
    return {"ce": ce, "kl": kl, "auxiliary": auxiliary, "entropy": entropy}


@pytest.mark.parametrize("mixed", [False, True])
def test_the_terms_are_the_papers(mixed: bool) -> None:
    weights = {"ce": 1.0, "kl": 0.5, "auxiliary": 2.0, "entropy": 0.25}
    objective = DropMax(kl_weight=0.5, auxiliary_weight=2.0, entropy_weight=0.25)
    features, shown = parts(), batch(mixed=mixed)
    found = terms(objective, features, shown)
    assert list(found) == list(weights)
    for row, (label, partner) in enumerate(zip(TARGETS, PARTNERS, strict=True)):
        share = float(shown.mixing.share_B[row]) if shown.mixing is not None else 1.0
        for name, weight in weights.items():
            expected = 0.0
            for target, part in ((label, share), (partner, 1 - share)):
                if label >= 0 and target >= 0:
                    expected += part * weight * by_loops(features, row, target)[name]
            assert float(found[name].loss_B[row]) == pytest.approx(expected, rel=2e-4, abs=1e-5)
            assert found[name].rows == "labelled"


def test_with_open_gates_and_no_other_term_it_is_cross_entropy() -> None:
    features = {name: each.requires_grad_() for name, each in parts().items()}
    shut = features | {name: torch.full((B, K, 1, 1), 1e4) for name in (PRIOR, POSTERIOR)}
    neutral = DropMax(kl_weight=0, auxiliary_weight=0, entropy_weight=0)
    plain = features[LOGITS].detach().flatten(1).requires_grad_()
    losses = []
    for objective, said in (
        (neutral, StudentSignals(logits=None, features=shut)),
        (CrossEntropy(), StudentSignals(logits=plain)),
    ):
        composed = Composition((Weighted(objective=objective, weight=Weight(start=1)),))
        losses.append(composed(said, None, batch(), at()).total)
        losses[-1].backward()
    assert torch.allclose(*losses, atol=1e-7, rtol=0)
    assert torch.allclose(features[LOGITS].grad.flatten(1), plain.grad, atol=1e-7, rtol=0)


def test_masks_are_a_function_of_seed_step_sample_and_class() -> None:
    features = parts()

    def ce(shown: Batch, progress: Progress) -> Tensor:
        rows = shown.index_B // 7
        some = {name: each[rows] for name, each in features.items()}
        return terms(DropMax(), some, shown, progress)["ce"].loss_B

    whole = ce(batch(), at())
    assert torch.equal(ce(batch(), at()), whole)
    rows = torch.tensor([7, 0, 3])
    assert torch.equal(ce(batch().take(rows), at()), whole[rows])
    assert not torch.equal(ce(batch(), at(step=4)), whole)
    assert not torch.equal(ce(batch(), at(seed=6)), whole)
    bits = draw(5, Purpose.GATE, 3, batch().index_B[:, None], torch.arange(K))
    assert len(uniform32(bits).unique()) == B * K


def test_unlabelled_samples_cost_nothing() -> None:
    features = {name: each.requires_grad_() for name, each in parts().items()}
    for shown in (batch(), batch(mixed=True)):
        total = sum(term.loss_B.sum() for term in terms(DropMax(), features, shown).values())
        total.backward()
        for each in features.values():
            assert each.grad[4].abs().sum() == 0
            assert each.grad[0].abs().sum() > 0


def learners(name: str) -> set[str]:
    """Which parts of a classifier a term moves."""
    torch.manual_seed(0)
    head = GatedClassifier(nn.Linear(D, K))
    for layer in (head.prior, head.posterior):
        nn.init.normal_(layer.weight)
    x_BD = torch.randn(B, D)
    said = [layer(x_BD) for layer in (head.logits, head.prior, head.posterior)]
    features = dict(zip((LOGITS, PRIOR, POSTERIOR), said, strict=True))
    terms(DropMax(), features)[name].loss_B.sum().backward()
    return {part for part in ("logits", "prior", "posterior") if _moved(getattr(head, part))}


def _moved(layer: nn.Linear) -> bool:
    return layer.weight.grad is not None and bool(layer.weight.grad.abs().sum() > 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The prior stands still in the posterior: it learns what the posterior says, no label.
        ("ce", {"logits", "posterior"}),
        ("kl", {"prior", "posterior"}),
        ("auxiliary", {"posterior"}),
        ("entropy", {"prior"}),
    ],
)
def test_each_gate_learns_from_its_own_terms(name: str, expected: set[str]) -> None:
    assert learners(name) == expected


def test_half_precision_under_autocast_stays_finite() -> None:
    features = {name: (each * 1e4).bfloat16().float() for name, each in parts().items()}
    for term in terms(DropMax(), features).values():
        assert term.loss_B.dtype == torch.float32
        assert term.loss_B.isfinite().all()


@pytest.mark.parametrize(
    "given", [{"mask_temperature": 0}, {"kl_weight": -1}, {"mask_temperature": 11}]
)
def test_parameters_out_of_range_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DropMax).validate_python(given)


def test_a_batch_in_parts_is_the_whole() -> None:
    features = parts()
    composed = Composition((Weighted(objective=DropMax(), weight=Weight(start=1)),))
    whole = composed(StudentSignals(logits=None, features=features), None, batch(), at()).total
    pieces = []
    for start, part in zip((0, 3, 6), batch().split(3), strict=True):
        some = {name: each[start : start + 3] for name, each in features.items()}
        said = StudentSignals(logits=None, features=some)
        pieces.append(composed(said, None, part, at()).total)
    assert torch.allclose(sum(pieces), whole, atol=1e-5)
