"""Category structure against loops over several batches, and where its gradients go."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distill_cli.adapters.category_structure import MovingCentres
from distill_cli.adapters.regressor import Regressor
from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.objectives.base import AdapterContext, TapShape
from distill_cli.objectives.category_structure import WEIGHTS, CategoryStructure
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.hooks import needs_of
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import Batch, Mixing, Need, Progress, StudentSignals
from tests.objectives.steps import batch_of, step_of

B, K, D = 7, 4, 3
PAIRS = (("s", "t"),)
LABELS = [[0, 0, 1, 1, 2, -1, 0], [3, 3, 1, 1, 1, 0, -1], [2, 2, 2, 1, 0, 0, 3]]
PROGRESS = Progress(epoch=0, step=0, total_steps=9)
Row = list[float]


def batch(labels: list[int], mixing: Mixing | None = None) -> Batch:
    index_B = torch.arange(len(labels))
    return batch_of(torch.tensor(labels), index_B=index_B, mixing=mixing)


def values(seed: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(B, width, generator=generator, dtype=torch.float64) + 0.4).to(dtype)


def said(seed: int, width: int = D) -> tuple[StudentSignals, DenseSignals]:
    """fp64 logits and features, of a student whose layer is the teacher's size or not."""
    student = StudentSignals(
        logits=values(seed, K).requires_grad_(),
        features={"s": values(seed + 1, width)[:, :, None, None].requires_grad_()},
    )
    teacher = DenseSignals(
        values(seed + 2, K).requires_grad_(),
        {"t": values(seed + 3, D)[:, :, None, None].requires_grad_()},
    )
    return student, teacher


def setting(width: int = D) -> AdapterContext:
    return AdapterContext(
        class_names=tuple("abcd"),
        student={"s": TapShape(channels=width, height=1, width=1)},
        teacher={"t": TapShape(channels=D, height=1, width=1)},
    )


def made(objective: CategoryStructure, width: int = D) -> nn.Module:
    return objective.adapters(setting(width)).double()


class ByHand:
    """The centres of one network's values, over batches, in loops."""

    def __init__(self, momentum: float | None) -> None:
        self.momentum = momentum
        self.kept: dict[int, Row] = {}

    def see(self, rows: list[Row], labels: list[int]) -> None:
        if self.momentum is None:
            self.kept = {}
        for k in range(K):
            own = [row for row, label in zip(rows, labels, strict=True) if label == k]
            if not own:
                continue
            mean = [sum(column) / len(own) for column in zip(*own, strict=True)]
            if k in self.kept and self.momentum is not None:
                m = self.momentum
                mean = [m * c + (1 - m) * x for c, x in zip(self.kept[k], mean, strict=True)]
            self.kept[k] = mean


def cosine(a: Row, b: Row) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def right(logits: list[Row], labels: list[int]) -> list[int]:
    """The labels of what is answered rightly, −1 else."""
    return [k if row.index(max(row)) == k else -1 for row, k in zip(logits, labels, strict=True)]


def residual(
    own: list[Row], other: list[Row], about: ByHand, taught: ByHand, labels: list[int]
) -> float:
    """The mean square of both networks' residuals; a sample without a centre is its own."""
    cells = [
        ((t - d) - (s - c)) ** 2
        for p, q, k in zip(own, other, labels, strict=True)
        if k >= 0
        for s, t, c, d in zip(p, q, about.kept.get(k, p), taught.kept.get(k, q), strict=True)
    ]
    return sum(cells) / len(cells)


def angle(about: ByHand, taught: ByHand) -> float:
    """The mean square of cosines between centres."""
    angles = [
        (cosine(taught.kept[i], taught.kept[j]) - cosine(about.kept[i], about.kept[j])) ** 2
        for i in about.kept
        for j in about.kept
    ]
    return sum(angles) / len(angles)


def compactness(rows: list[Row], about: ByHand, labels: list[int]) -> float:
    cells = [
        (z - c) ** 2
        for row, k in zip(rows, labels, strict=True)
        if k >= 0
        for z, c in zip(row, about.kept[k], strict=True)
    ]
    return sum(cells) / len(cells)


@pytest.mark.parametrize("centres", ["batch", "moving"])
@pytest.mark.parametrize("form", ["paper", "release", "teacher-free"])
def test_the_terms_are_the_formulas_over_three_batches(form: str, centres: str) -> None:
    asked = {"intra_weight": 0.3, "inter_weight": 0.5, "compact_weight": 0.2, "logit_weight": 0.01}
    objective = CategoryStructure(
        form=form,
        centres=centres,
        momentum=0.7,
        pairs=() if form == "teacher-free" else PAIRS,
        **{name: weight for name, weight in asked.items() if name in WEIGHTS[form]},
    )
    adapters = made(objective)
    momentum = 0.7 if centres == "moving" else None
    features, of_right, logits = [[ByHand(momentum), ByHand(momentum)] for _ in range(3)]
    for step, labels in enumerate(LABELS):
        student, teacher = said(10 * step)
        teacher_or_none = None if form == "teacher-free" else teacher
        found = objective(step_of(student, teacher_or_none, batch(labels), PROGRESS, adapters))
        z, v = student.logits_BK.tolist(), teacher.logits_BK.tolist()
        f, g = student.features["s"].flatten(1).tolist(), teacher.features["t"].flatten(1).tolist()
        for rows, kept, right_kept, answers, answers_kept in (
            (f, features[0], of_right[0], z, logits[0]),
            (g, features[1], of_right[1], v, logits[1]),
        ):
            kept.see(rows, labels)
            right_kept.see(rows, right(answers, labels))
            answers_kept.see(answers, labels)
        expected = {}
        if form == "paper":
            intra, inter = residual(f, g, *features, labels), angle(*features)
        if form == "release":
            intra = residual(f, g, *of_right, labels) / D + residual(z, v, *logits, labels) / K
            inter = (angle(*features) + angle(*logits)) / len(logits[0].kept)
        if form != "teacher-free":
            expected = {"structure_intra": 0.3 * intra, "structure_inter": 0.5 * inter}
        if form != "paper":
            expected["structure_compact"] = 0.2 * compactness(z, logits[0], labels)
        if form == "release":
            square = [
                [(a - b) ** 2 for a, b in zip(p, q, strict=True)] for p, q in zip(z, v, strict=True)
            ]
            per_sample = [0.01 * sum(row) / K for row in square]
            assert found["structure_logits"].loss_B.tolist() == pytest.approx(per_sample, rel=1e-9)
        coupled = {name: float(term.loss_B) for name, term in found.items() if term.coupled}
        assert coupled == pytest.approx(expected, rel=1e-9)


def of_release(z: Tensor, v: Tensor, f_BCHW: Tensor, g_BCHW: Tensor, labels: list[int]) -> Tensor:
    """The loss of the authors' code, sample by sample: their weights, divisions and filter.

    Centres of features, where residuals are about them, are of each network's right answers, and a
    sample is its own centre where its class has none; all others are of every sample.
    """

    def mean(rows: Tensor, members: list[int]) -> Tensor:
        return torch.stack([rows[i] for i in members]).mean(dim=0)

    def about(rows: Tensor, kept: list[bool]) -> Tensor:
        centred = []
        for i, label in enumerate(labels):
            members = [j for j, other in enumerate(labels) if other == label and kept[j]]
            centred.append(mean(rows, members) if members else rows[i])
        return torch.stack(centred).detach()

    def cosines(rows: Tensor) -> Tensor:
        present = sorted(set(labels))
        of = [mean(rows, [j for j, k in enumerate(labels) if k == c]).flatten() for c in present]
        return torch.stack(
            [torch.stack([(a @ b) / (a @ a).sqrt() / (b @ b).sqrt() for b in of]) for a in of]
        )

    def square(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b) ** 2).mean()

    channels, height, width = f_BCHW.shape[1:]
    present, every = len(set(labels)), [True] * len(labels)
    z_right, v_right = (
        [int(row.argmax()) == k for row, k in zip(rows, labels, strict=True)] for rows in (z, v)
    )
    teacher_residual = g_BCHW - about(g_BCHW, v_right)
    intra = square(teacher_residual, f_BCHW - about(f_BCHW, z_right)) / channels / height / width
    intra = intra + square(v - about(v, every), z - about(z, every)) / z.shape[1]
    inter = square(cosines(g_BCHW), cosines(f_BCHW)) / present
    inter = inter + square(cosines(v), cosines(z)) / present
    hard = -z.log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()
    compact = 0.1 * square(z, about(z, every))
    return 0.9 * hard + 0.002 * intra + compact + 0.04 * inter + 0.1 * 1e-5 * square(v, z)


def test_the_release_is_the_authors_code() -> None:
    """In fp64, gradients included; some answers wrong, and of two classes all of one network's."""
    generator = torch.Generator().manual_seed(1)
    labels = [0, 1, 2, 0, 3, 1, 0, 2, 2, 3, 1, 0]
    rows, size = len(labels), (2, 3, 4)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=torch.float64)

    hot = torch.nn.functional.one_hot(torch.tensor(labels), K).double()
    z, v = drawn(K) + hot, drawn(K) + 2 * hot
    z[:, 3], v[:, 2] = z[:, 3] - 9, v[:, 2] - 9  # never the student's answer, nor the teacher's
    f_BCHW, g_BCHW = drawn(*size) + 0.3, drawn(*size) + 0.3
    assert 0 < int((z.argmax(dim=1) == torch.tensor(labels)).sum()) < rows - 2
    leaves = [z.requires_grad_(), f_BCHW.requires_grad_()]

    shape = TapShape(channels=2, height=3, width=4)
    same = AdapterContext(class_names=tuple("abcd"), student={"s": shape}, teacher={"t": shape})
    usual = CategoryStructure.info.default_weights
    composed = Composition(
        (
            Weighted(objective=CrossEntropy(), weight=Weight(start=usual.ce)),
            Weighted(
                objective=CategoryStructure(form="release", pairs=PAIRS),
                weight=Weight(start=usual.objective),
            ),
        )
    )
    student = StudentSignals(logits=z, features={"s": f_BCHW})
    teacher = DenseSignals(v, {"t": g_BCHW})
    ours = composed(student, teacher, batch(labels), PROGRESS, composed.adapters(same)).total
    theirs = of_release(z, v, f_BCHW, g_BCHW, labels)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-12)
    for one, two in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
    ):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-15)


def test_weights_are_those_of_the_form() -> None:
    release = CategoryStructure(form="release")
    found = [getattr(release, name) for name in WEIGHTS["release"]]
    assert found == [0.002, 0.04, 0.1, 1e-6], "the authors'"
    assert (release.info.default_weights.ce, release.info.default_weights.objective) == (0.9, 1)
    assert CategoryStructure(form="teacher-free").compact_weight == 0.1
    assert CategoryStructure(intra_weight=3.0).intra_weight == 3.0
    for form, terms in WEIGHTS.items():
        made = CategoryStructure(form=form)
        # What is spelt out makes the same objective, and what a form has not stays none.
        assert CategoryStructure(**vars(made)) == made
        assert {name for name in WEIGHTS["release"] if getattr(made, name) is not None} == {*terms}


def test_without_weights_it_is_cross_entropy() -> None:
    nothing = CategoryStructure(
        form="release",
        pairs=PAIRS,
        **dict.fromkeys(("intra_weight", "inter_weight", "compact_weight", "logit_weight"), 0.0),
    )
    parts = (
        Weighted(objective=CrossEntropy(), weight=Weight(start=0.9)),
        Weighted(objective=nothing, weight=Weight(start=1)),
    )
    composed = Composition(parts)
    student, teacher = said(0)
    adapters = composed.adapters(setting()).double()
    loss = composed(student, teacher, batch(LABELS[0]), PROGRESS, adapters)
    loss.total.backward()
    z = student.logits_BK.detach().requires_grad_()
    plain = 0.9 * cross_entropy(z, batch(LABELS[0]).target_B).sum() / 6
    plain.backward()
    assert float(loss.total - plain) == pytest.approx(0, abs=1e-7)
    assert torch.allclose(student.logits_BK.grad, z.grad, atol=1e-7)


@pytest.mark.parametrize("centres", ["batch", "moving"])
def test_gradients_go_to_the_student_and_its_mapping_alone(centres: str) -> None:
    objective = CategoryStructure(form="release", centres=centres, pairs=PAIRS)
    adapters = made(objective, width=5)
    for labels in LABELS:
        student, teacher = said(1, width=5)
        terms = objective(step_of(student, teacher, batch(labels), PROGRESS, adapters))
        sum(term.loss_B.sum() for term in terms.values()).backward()
        assert student.logits_BK.grad.abs().sum() > 0
        assert student.features["s"].grad.abs().sum() > 0
        assert teacher.logits_BK.grad is None
        assert teacher.features["t"].grad is None
    assert isinstance(adapters[0], Regressor)
    assert all(parameter.grad is not None for parameter in adapters.parameters())
    memories = [module for module in adapters if isinstance(module, MovingCentres)]
    assert len(memories) == (6 if centres == "moving" else 0)
    for memory in memories:
        assert not memory.centre_KD.requires_grad
        assert not list(memory.parameters())


def loss_of(
    objective: CategoryStructure, adapters: nn.Module, feature: Tensor, labels: list[int]
) -> Tensor:
    student, teacher = said(5)
    moved = StudentSignals(logits=student.logits_BK, features={"s": feature[:, :, None, None]})
    terms = objective(step_of(moved, teacher, batch(labels), PROGRESS, copy.deepcopy(adapters)))
    return terms["structure_intra"].loss_B + terms["structure_inter"].loss_B


def seen_one_batch(objective: CategoryStructure) -> nn.Module:
    adapters = made(objective)
    student, teacher = said(3)
    objective(step_of(student, teacher, batch(LABELS[0]), PROGRESS, adapters))
    return adapters


def test_of_moving_centres_the_batchs_share_teaches_the_cosines() -> None:
    objective = CategoryStructure(centres="moving", momentum=0.8, intra_weight=0, pairs=PAIRS)
    adapters, labels = seen_one_batch(objective), LABELS[1]
    feature = values(9, D).requires_grad_()
    loss_of(objective, adapters, feature, labels).backward()
    small = 1e-5
    for row in range(B):
        for column in range(D):
            step = torch.zeros(B, D, dtype=torch.float64)
            step[row, column] = small
            two = [
                loss_of(objective, adapters, feature.detach() + x, labels) for x in (step, -step)
            ]
            slope = float(two[0] - two[1]) / (2 * small)
            assert float(feature.grad[row, column]) == pytest.approx(slope, abs=1e-9)


def test_centres_do_not_follow_what_they_pull() -> None:
    """The gradient of the residuals is that about constants: 2·w·(s − c − (t − d))/(6·D)."""
    objective = CategoryStructure(centres="moving", inter_weight=0, intra_weight=1, pairs=PAIRS)
    adapters, labels = seen_one_batch(objective), LABELS[1]
    feature = values(9, D).requires_grad_()
    loss_of(objective, adapters, feature, labels).backward()
    after = copy.deepcopy(adapters)
    student, teacher = said(5)
    moved = StudentSignals(logits=student.logits_BK, features={"s": feature[:, :, None, None]})
    objective(step_of(moved, teacher, batch(labels), PROGRESS, after))
    about, taught = after[1].centre_KD, after[2].centre_KD
    for row, label in enumerate(labels):
        other = teacher.features["t"][row].flatten()
        residual = (feature[row] - about[label]) - (other - taught[label])
        expected = 2 * residual / (6 * D) if label >= 0 else torch.zeros(D, dtype=torch.float64)
        assert torch.allclose(feature.grad[row], expected, atol=1e-12)


@pytest.mark.parametrize(("form", "batches"), [("paper", 2), ("release", 1)])
def test_without_momentum_moving_centres_are_the_batchs(form: str, batches: int) -> None:
    """Of the release in a first batch: later, a class without right answers has a centre from it."""
    labels = LABELS[2]
    found = []
    for centres in ("batch", "moving"):
        objective = CategoryStructure(centres=centres, momentum=0, form=form, pairs=PAIRS)
        adapters = made(objective)
        for step in range(batches):
            student, teacher = said(step)
            terms = objective(step_of(student, teacher, batch(labels), PROGRESS, adapters))
        found.append({name: float(term.loss_B.sum()) for name, term in terms.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_what_it_remembers_is_in_its_state() -> None:
    objective = CategoryStructure(centres="moving", form="release", pairs=PAIRS)
    one, other = seen_one_batch(objective), made(objective)
    student, teacher = said(4)
    fresh = objective(step_of(student, teacher, batch(LABELS[1]), PROGRESS, copy.deepcopy(other)))
    other.load_state_dict(one.state_dict())
    two = [
        objective(step_of(student, teacher, batch(LABELS[1]), PROGRESS, each))[
            "structure_intra"
        ].loss_B
        for each in (one, other)
    ]
    assert torch.equal(*two)
    assert not torch.equal(two[0], fresh["structure_intra"].loss_B)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_mixed_images_are_of_the_class_of_their_larger_share() -> None:
    labels = LABELS[0]
    other = torch.tensor([1, 1, 0, 0, 0, 0, 2])
    share = torch.tensor([1.0, 0.9, 0.2, 0.8, 0.3, 0.1, 0.4])
    larger = [0, 0, 0, 1, 0, -1, 2]
    objective = CategoryStructure(pairs=PAIRS)
    student, teacher = said(2)
    mixed, plain = (
        objective(step_of(student, teacher, each, PROGRESS, made(objective)))
        for each in (batch(labels, Mixing(share_B=share, target_B=other)), batch(larger))
    )
    for name, term in plain.items():
        assert torch.equal(mixed[name].loss_B, term.loss_B)


def test_what_it_needs_and_wants_goes_by_its_parameters() -> None:
    layers, logits = {Need.TEACHER, Need.FEATURES}, {Need.LOGITS}
    assert needs_of(CategoryStructure()) == layers
    assert needs_of(CategoryStructure(form="release")) == layers | logits
    assert needs_of(CategoryStructure(form="teacher-free")) == set()
    part = Weighted(objective=CategoryStructure(), weight=Weight(start=1))
    assert Composition((part,)).orders == {"category-structure": "balanced"}
    part = Weighted(objective=CategoryStructure(centres="moving"), weight=Weight(start=1))
    assert Composition((part,)).orders == {}


def test_refusals() -> None:
    with pytest.raises(ValueError, match="looks at no layers"):
        TypeAdapter(CategoryStructure).validate_python({"form": "teacher-free", "pairs": PAIRS})
    for form, name in (("paper", "compact_weight"), ("teacher-free", "intra_weight")):
        with pytest.raises(ValueError, match=f"form {form} has no {name}"):
            TypeAdapter(CategoryStructure).validate_python({"form": form, name: 0.1})
    for wrong in ({"form": "own"}, {"momentum": 1}, {"intra_weight": -1}, {"centres": "none"}):
        with pytest.raises(ValidationError):
            TypeAdapter(CategoryStructure).validate_python(wrong)
