"""Pseudo-labels through a composition: thresholds, ramps, what is remembered, and means.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_cli.adapters.pseudo_label import AnswerMemory
from distill_cli.errors import UsageError
from distill_cli.objectives.base import AdapterContext
from distill_cli.objectives.compose import Composition, Loss, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.pseudo_label import PseudoLabel
from distill_cli.pipeline.objective.build import composition
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch, Progress, StudentSignals
from tests.objectives.steps import batch_of

B, K = 12, 4
CONTEXT = AdapterContext(class_names=tuple("abcd"))


def at(step: int, total: int = 101) -> Progress:
    return Progress(epoch=0, step=step, total_steps=total)


def composed(weight: float = 1.0, **values: Any) -> tuple[Composition, nn.ModuleDict]:
    """Beside cross-entropy; the memory is in fp64."""
    parts = (
        Weighted(objective=CrossEntropy(), weight=Weight(start=1.0)),
        Weighted(objective=PseudoLabel(**values), weight=Weight(start=weight)),
    )
    made = Composition(parts)
    return made, made.adapters(CONTEXT).double()


def drawn(seed: int, rows: int = B, unlabelled: float = 0.6) -> tuple[Tensor, Tensor, Batch]:
    """Logits of a student and of a teacher that is sure of many, and a batch of two streams."""
    generator = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, rows, K, generator=generator, dtype=torch.float64) * 3
    y = torch.randint(0, K, (rows,), generator=generator)
    hidden = torch.rand(rows, generator=generator) < unlabelled
    return z.requires_grad_(), v, replace(batch_of(y.masked_fill(hidden, -1)), streams=True)


def loss_of(
    made: tuple[Composition, nn.ModuleDict], z: Tensor, v: Tensor, batch: Batch, step: int = 50
) -> Loss:
    return made[0](StudentSignals(logits=z), DenseSignals(v), batch, at(step), made[1])


@dataclass
class Loop:
    """FixMatch's and FreeMatch's step, in Python numbers and after their equations.

    Attributes:
        threshold: τ of FixMatch; None for FreeMatch.
        momentum: m.
        fairness: w_f.
    """

    threshold: float | None
    momentum: float = 0.9
    fairness: float = 0.0
    tau: float = 1 / K
    mean: list[float] = field(default_factory=lambda: [1 / K] * K)
    hist: list[float] = field(default_factory=lambda: [1 / K] * K)

    def remember(self, weak: list[list[float]]) -> None:
        """Before the rows are masked; nothing where there are none."""
        if not weak:
            return
        m, count = self.momentum, len(weak)
        self.tau = m * self.tau + (1 - m) * sum(max(q) for q in weak) / count
        for k in range(K):
            named = sum(q.index(max(q)) == k for q in weak) / count
            self.mean[k] = m * self.mean[k] + (1 - m) * sum(q[k] for q in weak) / count
            self.hist[k] = m * self.hist[k] + (1 - m) * named

    def __call__(self, z: Tensor, v: Tensor, batch: Batch) -> tuple[Tensor, list[bool]]:
        """The loss of a batch by rows that are picked out, and which rows were accepted."""
        rows = batch.target_B.eq(-1).nonzero().flatten().tolist()
        weak = [F.softmax(v[row], -1).tolist() for row in rows]
        self.remember(weak)
        accepted, unsupervised, strong = [False] * len(z), torch.zeros(()).double(), []
        for row, q in zip(rows, weak, strict=True):
            label = q.index(max(q))
            least = self.threshold
            if least is None:
                least = self.tau * self.mean[label] / max(self.mean)
            if max(q) >= least:
                accepted[row] = True
                unsupervised = unsupervised - F.log_softmax(z[row], -1)[label] / len(rows)
                strong.append(F.softmax(z[row], -1))
        total = unsupervised
        known = batch.target_B >= 0
        if known.any():
            total = total + F.cross_entropy(z[known], batch.target_B[known])
        if self.fairness and strong:
            total = total + self.fairness * self._fair(strong)
        return total, accepted

    def _fair(self, strong: list[Tensor]) -> Tensor:
        named = [sum(int(p.argmax()) == k for p in strong) / len(strong) for k in range(K)]
        own = [
            sum(p[k] for p in strong) / len(strong) / named[k] if named[k] else 0 for k in range(K)
        ]
        kept = [p / h for p, h in zip(self.mean, self.hist, strict=True)]
        total = sum(own)
        logs = [torch.log(torch.as_tensor(x / total).double() + 1e-12) for x in own]
        return sum(a / sum(kept) * b for a, b in zip(kept, logs, strict=True))  # type: ignore[return-value]


WAYS: dict[str, tuple[dict[str, Any], Loop]] = {
    "fixmatch": ({"threshold": 0.9}, Loop(0.9)),
    "every label": ({"threshold": 0.0}, Loop(0.0)),
    "freematch": (
        {"adaptive": True, "momentum": 0.9, "fairness": 0.3},
        Loop(None, fairness=0.3),
    ),
    "adaptive alone": ({"adaptive": True, "momentum": 0.9}, Loop(None)),
    "fairness alone": (
        {"threshold": 0.9, "momentum": 0.9, "fairness": 0.3},
        Loop(0.9, fairness=0.3),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_steps_are_those_of_a_loop_over_rows(way: str) -> None:
    """Loss, gradients, accepted rows and memory over forty batches, some without rows of either kind."""
    values, loop = WAYS[way]
    loop = replace(loop, mean=[1 / K] * K, hist=[1 / K] * K)
    made = composed(**values)
    seen = 0
    for seed in range(40):
        z, v, batch = drawn(seed, unlabelled={0: 0.0, 1: 1.0}.get(seed % 8, 0.6))
        found = loss_of(made, z, v, batch)
        other = z.detach().clone().requires_grad_()
        expected, accepted = loop(other, v, batch)
        assert found.pseudo_labels is not None
        assert found.pseudo_labels.accepted_B.tolist() == accepted
        seen += sum(accepted)
        assert found.total.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
        found.total.backward()
        if expected.requires_grad:
            expected.backward()
            torch.testing.assert_close(z.grad, other.grad, rtol=1e-9, atol=1e-12)
    assert 0 < seen < 40 * B
    if "pseudo-label" in made[1]:
        memory = made[1]["pseudo-label"]
        assert isinstance(memory, AnswerMemory)
        assert float(memory.certainty) == pytest.approx(loop.tau, rel=1e-9)
        assert memory.mean_K.tolist() == pytest.approx(loop.mean, rel=1e-9)
        assert memory.histogram_K.tolist() == pytest.approx(loop.hist, rel=1e-9)
        assert (
            memory.summary("abcd") == [] or "thresholds ended between" in memory.summary("abcd")[0]
        )


@pytest.mark.parametrize("values", [way[0] for way in WAYS.values()], ids=WAYS)
@pytest.mark.parametrize("kind", ["no row", "no label", "every label", "none sure"])
def test_an_empty_stream_is_0(values: dict[str, Any], kind: str) -> None:
    """And has gradients of 0, never NaN; the memory stays as it is without a row that is noted."""
    z, v, batch = drawn(1)
    target_B = {"no label": torch.full((B,), -1), "every label": torch.arange(B) % K}
    rows = 0 if kind == "no row" else B
    batch = replace(
        batch_of(target_B.get(kind, batch.target_B)[:rows]), streams=True, unlabelled=True
    )
    v = torch.zeros_like(v) if kind == "none sure" else v
    if kind == "none sure" and values.get("adaptive"):
        # The threshold begins at 1/K, which a teacher that knows nothing just reaches.
        pytest.skip("every answer is as sure as the threshold asks")
    made = composed(**values)
    before = {name: value.clone() for name, value in made[1].state_dict().items()}
    found = loss_of(made, z[:rows], v[:rows], batch)
    (gradient,) = torch.autograd.grad(found.total, z)
    assert found.total.isfinite()
    assert gradient.isfinite().all()
    if kind in ("no row", "every label"):
        assert {name: float(value) for name, value in found.terms.items() if name != "ce"} == {
            name: 0.0 for name in found.terms if name != "ce"
        }
        for name, value in made[1].state_dict().items():
            assert torch.equal(value, before[name])
    if kind == "none sure" and values["threshold"] > 0:
        unlabelled = batch.target_B == -1
        assert float(gradient[unlabelled].abs().sum()) == 0
        assert float(found.terms["pseudo_label"]) == 0


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_thresholds_of_0_and_1(threshold: float) -> None:
    """0 takes every label; 1 those of a certain teacher alone."""
    z, v, batch = drawn(2, unlabelled=0.7)
    v[0] = torch.tensor([-torch.inf, 0, -torch.inf, -torch.inf])
    batch.target_B[0] = -1
    found = loss_of(composed(threshold=threshold), z, v, batch)
    assert found.pseudo_labels is not None
    wanted = batch.target_B == -1 if threshold == 0 else torch.arange(B) == 0
    assert torch.equal(found.pseudo_labels.accepted_B, wanted)
    assert found.pseudo_labels.class_B.tolist() == v.argmax(-1).tolist()
    expected = F.cross_entropy(z[wanted], v.argmax(-1)[wanted], reduction="sum")
    rows = int((batch.target_B == -1).sum())
    assert float(found.terms["pseudo_label"]) == pytest.approx(float(expected) / rows, rel=1e-9)


def test_a_label_is_never_looked_at() -> None:
    """The other rows' labels change nothing of what is learnt, remembered or accepted."""
    values = {"adaptive": True, "fairness": 0.3}
    z, v, batch = drawn(3)
    other = replace(batch, target_B=torch.where(batch.target_B < 0, -1, (batch.target_B + 1) % K))
    states = []
    for each in (batch, other):
        made = composed(**values)
        terms = loss_of(made, z, v, each).terms
        states.append([*(terms[name] for name in ("pseudo_label", "fairness")), *made[1].buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_a_soft_label_at_T_1_is_cross_entropy_with_the_answer() -> None:
    z, v, batch = drawn(4, unlabelled=1.0)
    found = loss_of(composed(threshold=0.0, hard=False, temperature=1.0), z, v, batch)
    expected = F.cross_entropy(z, F.softmax(v, -1))
    assert float(found.terms["pseudo_label"]) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("ramp", "expected"),
    [
        ((0.0, 0.0), [1, 1, 1, 1, 1]),
        ((0.2, 0.6), [0, 0, 0.5, 1, 1]),
        ((0.0, 1.0), [0, 0.2, 0.4, 0.7, 1]),
        ((0.4, 0.4), [0, 0, 1, 1, 1]),
        ((1.0, 1.0), [0, 0, 0, 0, 1]),
    ],
)
def test_the_weight_rises_as_lees(ramp: tuple[float, float], expected: list[float]) -> None:
    """a(t): 0 until T₁, then evenly to 3 at T₂; on the host and where steps are counted on a device."""
    z, v, batch = drawn(5)
    made = composed(3.0, threshold=0.0, ramp=ramp)
    whole = float(loss_of(composed(threshold=0.0), z, v, batch).terms["pseudo_label"])
    hard = float(F.cross_entropy(z, batch.target_B, ignore_index=-1))
    for step, share in zip((0, 20, 40, 70, 100), expected, strict=True):
        found = loss_of(made, z, v, batch, step)
        assert float(found.total) == pytest.approx(hard + 3 * share * whole)
        counted = Progress(epoch=torch.tensor(0), step=torch.tensor(step), total_steps=101)
        assert float(counted.risen(*ramp)) == pytest.approx(share)


def test_it_is_no_hint_of_the_batch_unless_it_is_adaptive_or_fair() -> None:
    plain, adaptive, fair = (
        composed(**values)[0] for values in ({}, {"adaptive": True}, {"fairness": 0.1})
    )
    assert (plain.coupled, adaptive.coupled, fair.coupled) == ((), (), ("pseudo-label",))
    for setting, refused in (("{}", False), ("adaptive: true", True), ("fairness: 0.1", True)):
        entry = f"{{name: pseudo-label, {setting}}}" if setting != "{}" else "{name: pseudo-label}"
        asked = {"objective": _entries(f"[{{name: ce}}, {entry}]"), "accumulate": 2}
        if refused:
            with pytest.raises(UsageError, match="'pseudo-label' looks at a batch as a whole"):
                composition(validate(StudentRecipe, asked))
        else:
            composition(validate(StudentRecipe, asked))


def _entries(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"ramp": [0.6, 0.2]}, "ramp begins at 0.6"),
        ({"ramp": [0.6, 1.2]}, "less than or equal to 1"),
        ({"threshold": 1.5}, "less than or equal to 1"),
        ({"momentum": 1.0}, "less than 1"),
    ],
)
def test_values_that_make_no_sense(entry: dict[str, Any], words: str) -> None:
    asked = {"objective": [{"name": "ce"}, {"name": "pseudo-label", **entry}]}
    with pytest.raises(UsageError, match=words):
        composition(validate(StudentRecipe, asked))


def test_selecting_beside_fairness_is_refused() -> None:
    """One chooses samples, the other is one number of all."""
    asked = {"objective": [{"name": "pseudo-label", "fairness": 0.1}, {"name": "selective"}]}
    with pytest.raises(UsageError, match="cannot choose some of them"):
        composition(validate(StudentRecipe, asked))
    asked["objective"][0].pop("fairness")  # type: ignore[attr-defined]
    composition(validate(StudentRecipe, asked))


def test_a_term_of_two_streams_stands_by_itself_and_of_one_by_its_share() -> None:
    z, v, batch = drawn(6)
    rows = int((batch.target_B == -1).sum())
    shared = replace(batch, streams=False, labelled_share=1 - rows / B)
    means = [float(loss_of(composed(threshold=0.0), z, v, each).total) for each in (batch, shared)]
    whole = F.cross_entropy(z, v.argmax(-1), reduction="none")[batch.target_B == -1].sum()
    hard = F.cross_entropy(z, batch.target_B, ignore_index=-1, reduction="sum")
    assert means[0] == pytest.approx(float(whole / rows + hard / (B - rows)), rel=1e-9)
    assert means[1] == pytest.approx(float((whole + hard) / B), rel=1e-9)
    assert math.isfinite(sum(means))
