from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import distill_cli.objectives as objectives
from distill_cli.errors import UsageError
from distill_cli.losses.cross_entropy import cross_entropy
from distill_cli.losses.kd import distillation
from distill_cli.losses.soft_targets import group_relation
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import AdapterContext, TapShape
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.objectives.cross_entropy import CrossEntropy
from distill_cli.objectives.feature_norm_kd import OF_CLASSIFIERS
from distill_cli.objectives.hint import Hint
from distill_cli.objectives.hooks import SelectsSamples, TapsStudent
from distill_cli.objectives.kd import KnowledgeDistillation
from distill_cli.objectives.label_smoothing import LabelSmoothing
from distill_cli.pipeline.objective.rules import check_parts
from distill_cli.teachers.signals import DenseSignals
from distill_cli.types import BIAS, PENULTIMATE, Batch, Need, Progress, StudentSignals
from tests.objectives.steps import batch_of, step_of

B, K = 8, 4


def batch(target: torch.Tensor | None = None) -> Batch:
    return batch_of(torch.arange(B) % K if target is None else target)


def progress(step: int = 0, total: int = 101) -> Progress:
    return Progress(epoch=0, step=step, total_steps=total)


def student(seed: int = 0) -> StudentSignals:
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(seed))
    return StudentSignals(logits=logits.requires_grad_())


def teacher(seed: int = 1) -> DenseSignals:
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(seed))
    return DenseSignals(logits.requires_grad_())


def part(
    objective: object, start: float = 1.0, end: float = 0.0, schedule: str = "constant"
) -> Weighted:
    return Weighted(objective=objective, weight=Weight(start=start, end=end, schedule=schedule))


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.8, 0.65, 0.5, 0.35, 0.2]),
        ("cosine", [0.8, 0.712132, 0.5, 0.287868, 0.2]),
        ("step", [0.8, 0.8, 0.2, 0.2, 0.2]),
    ],
)
def test_weight_schedules(schedule: str, values: list[float]) -> None:
    weight = Weight(start=0.8, end=0.2, schedule=schedule)
    assert [weight.at(x) for x in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(values, abs=1e-6)


def test_loss_is_the_weighted_sum_and_terms_are_unweighted() -> None:
    composition = Composition((part(CrossEntropy(), 0.1), part(KnowledgeDistillation(), 0.9)))
    s, t = student(), teacher()
    loss = composition(s, t, batch(), progress())
    ce = F.cross_entropy(s.logits_BK, batch().target_B)
    kd = (
        F.kl_div(
            F.log_softmax(s.logits_BK / 4, -1),
            F.log_softmax(t.logits_BK / 4, -1),
            reduction="batchmean",
            log_target=True,
        )
        * 16
    )
    assert torch.allclose(loss.total, 0.1 * ce + 0.9 * kd)
    assert loss.terms["ce"] == pytest.approx(float(ce))
    assert loss.terms["kd"] == pytest.approx(float(kd))
    assert not loss.terms["kd"].requires_grad


def test_weights_follow_progress() -> None:
    composition = Composition((part(CrossEntropy(), 1.0, 0.0, "linear"),))
    s = student()
    first, middle, last = (
        float(composition(s, None, batch(), progress(step)).total) for step in (0, 50, 100)
    )
    assert middle == pytest.approx(first / 2)
    assert last == 0


def test_mean_is_over_labelled_samples_only() -> None:
    target = torch.tensor([0, -1, 1, -1, -1, -1, -1, -1])
    s = student()
    loss = Composition((part(CrossEntropy()),))(s, None, batch(target), progress())
    kept = target >= 0
    assert torch.allclose(loss.total, cross_entropy(s.logits_BK[kept], target[kept]).mean())
    none = Composition((part(CrossEntropy()),))(s, None, batch(torch.full((B,), -1)), progress())
    assert float(none.total) == 0


def test_a_labelled_sample_weighs_the_same_whatever_lies_beside_it() -> None:
    """A mean over the one sample that had a label was taken at the rate for eight of them."""
    target = torch.tensor([0, -1, 1, -1, -1, -1, -1, -1])
    shared = replace(batch(target), labelled_share=0.125)
    s, t = student(), teacher()
    parts = (part(CrossEntropy(), 0.5), part(KnowledgeDistillation(), 0.5))
    loss = Composition(parts)(s, t, shared, progress())
    kept = target >= 0
    ce = cross_entropy(s.logits_BK[kept], target[kept]).sum()
    kd = distillation(s.logits_BK, t.log_probs(4.0), 4.0).mean()
    assert torch.allclose(loss.total, 0.5 * ce / B + 0.5 * kd)
    # The figure is a mean all the same, over batches: of a labelled image in eight there is one here.
    assert loss.terms["ce"] == pytest.approx(float(ce))
    none = replace(batch(torch.full((B,), -1)), labelled_share=0.0)
    assert float(Composition((part(CrossEntropy()),))(s, None, none, progress()).total) == 0


def test_parts_of_a_batch_sum_to_its_loss_whatever_has_labels() -> None:
    target = torch.tensor([0, -1, 1, -1, -1, -1, 2, -1])
    whole = replace(batch(target), labelled_share=0.25)
    s = student()
    composition = Composition((part(CrossEntropy()),))
    parts = [
        composition(
            StudentSignals(logits=s.logits_BK[start : start + 3]),
            None,
            whole.take(slice(start, start + 3)),
            progress(),
        ).total
        for start in (0, 3, 6)
    ]
    assert torch.allclose(sum(parts), composition(s, None, whole, progress()).total)


def test_soft_term_covers_unlabelled_samples() -> None:
    target = torch.full((B,), -1)
    s, t = student(), teacher()
    loss = Composition((part(KnowledgeDistillation(temperature=2.0)),))(
        s, t, batch(target), progress()
    )
    expected = distillation(s.logits_BK, t.log_probs(2.0), 2.0).mean()
    assert torch.allclose(loss.total, expected)


def test_two_owners_of_the_hard_label_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'ce' and 'label-smoothing'.*the hard label"):
        check_parts((part(CrossEntropy()), part(LabelSmoothing())))


def test_one_objective_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="2 times"):
        check_parts((part(KnowledgeDistillation()), part(KnowledgeDistillation(temperature=1.0))))


def test_two_objectives_with_a_term_of_one_name_are_refused() -> None:
    info = replace(KnowledgeDistillation.info, name="other", terms=frozenset({"other", "kd"}))
    other = type("Other", (KnowledgeDistillation,), {"info": info})
    with pytest.raises(UsageError, match="'kd' and 'other' cannot be combined: both report a term"):
        check_parts((part(KnowledgeDistillation()), part(other())))
    s, t = student(), teacher()
    with pytest.raises(AssertionError, match="terms of one name"):
        Composition((part(KnowledgeDistillation()), part(other())))(s, t, batch(), progress())


def test_terms_share_a_name_only_where_both_define_the_hard_label() -> None:
    """No composition is refused for its terms alone, and no figure stands for another."""
    for one, other in combinations([cls.info for cls in OBJECTIVES.values()], 2):
        assert not one.terms & other.terms or one.owns & other.owns
    # These are the epoch's.
    figures = {"loss", "top1", "labelled", "accepted", "accepted_entropy"}
    assert not figures & {term for cls in OBJECTIVES.values() for term in cls.info.terms}


# What holds for every objective there is.


def test_every_file_is_registered() -> None:
    folder = Path(objectives.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "hooks",
        "base",
        "compose",
    }
    assert {cls.__module__.rsplit(".", 1)[1] for cls in OBJECTIVES.values()} == files


def selects(cls: type) -> bool:
    return issubclass(cls, SelectsSamples)


def both(layer: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """A layer by its name, and as what enters the classifier."""
    return {name: layer, PENULTIMATE: layer}


def rows_of(features: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: each[rows] for name, each in features.items()}


def filled(
    cls: type, **values: object
) -> tuple[object, StudentSignals, DenseSignals, nn.ModuleDict]:
    """An objective with layers named, signals that have them, and its adapters."""
    looks = Need.FEATURES in cls.info.needs
    named = OF_CLASSIFIERS if cls.info.rule == "classifier" else (("s", "t"),)
    # One that selects keeps every label here: beside it stands nothing for the others.
    given = {"pairs": named} if looks else {"margin": -1.0} if selects(cls) else {}
    # Takes every answer of a teacher that is sure of none.
    given |= {"threshold": 0.0} if cls.info.rows == "unlabelled" else {}
    objective = cls(**{**given, **values})
    generator = torch.Generator().manual_seed(3)
    maps = {
        name: torch.randn(B, channels, side, side, generator=generator).requires_grad_()
        for name, channels, side in (("s", 3, 4), ("t", 5, 2))
    }
    if cls.info.rule in ("penultimate", "classifier"):
        maps = {name: each.mean(dim=(2, 3), keepdim=True) for name, each in maps.items()}
        maps = {name: each.detach().requires_grad_() for name, each in maps.items()}
    sizes = {name: tuple(each.shape[1:]) for name, each in maps.items()}
    tapped = {
        name: TapShape(channels=channels, height=height, width=width)
        for name, (channels, height, width) in sizes.items()
    }
    shapes = AdapterContext(
        class_names=tuple("abcd"),
        rule_KK=group_relation(torch.tensor([0, 1, 0, 1])),
        group_K=torch.tensor([0, 1, 0, 1]),
        noise_KK=0.6 * torch.eye(K) + 0.1,
        student={"s": tapped["s"]},
        teacher={"t": tapped["t"]},
    )
    bias = {BIAS: torch.randn(B, K, 1, 1, generator=generator)}
    adapters = Composition((part(objective),)).adapters(shapes)
    parts = objective.taps if isinstance(objective, TapsStudent) else ()
    heard = {name: torch.randn(B, K, 1, 1, generator=generator).requires_grad_() for name in parts}
    own = {**bias, **both(maps["s"], "s"), **heard}
    said = StudentSignals(logits=student().logits, features=own)
    taught = DenseSignals(teacher().logits_BK, {**bias, **both(maps["t"], "t")})
    return objective, said, taught, adapters


EVERY = pytest.mark.parametrize("cls", OBJECTIVES.values(), ids=OBJECTIVES)
LATER = progress(50)


@EVERY
def test_gradients_reach_the_student_and_not_the_teacher(cls: type) -> None:
    objective, s, t, adapters = filled(cls)
    said = t if Need.TEACHER in cls.info.needs else None
    loss = Composition((part(objective),))(s, said, multi_label(cls), LATER, adapters)
    loss.total.backward()
    learns = s.features["s"] if Need.FEATURES in cls.info.needs else s.logits_BK
    if isinstance(objective, TapsStudent):
        learns = s.features[objective.taps[0]]
    assert learns.grad is not None
    assert learns.grad.abs().sum() > 0
    assert t.logits_BK.grad is None
    assert t.features["t"].grad is None
    for parameter in adapters.parameters():
        assert parameter.grad is not None


def multi_label(cls: type) -> Batch:
    """A batch, with labels of several classes, or of half of the samples, where the objective is for those."""
    if cls.info.rows == "unlabelled":
        return batch((torch.arange(B) % K).masked_fill(torch.arange(B) % 2 == 1, -1))
    if "softmax" in cls.info.targets:
        return batch()
    return replace(batch(), target_BK=F.one_hot(torch.arange(B) % K, K).float())


@EVERY
def test_declares_what_it_is(cls: type) -> None:
    assert cls.__doc__
    assert cls.info.summary
    assert cls.info.paper
    assert all(field.name.isidentifier() for field in fields(cls))
    assert (Need.FEATURES in cls.info.needs) == (cls.info.rule is not None)
    with pytest.raises(AttributeError):
        cls().name = "x"  # frozen


@EVERY
def test_one_loss_a_sample_or_a_declared_one_of_all(cls: type) -> None:
    objective, s, t, adapters = filled(cls)
    own = dict(adapters.items()).get(cls.info.name)
    terms = objective(step_of(s, t, multi_label(cls), LATER, own))
    assert terms.keys() <= cls.info.terms
    for term in terms.values():
        assert term.loss_B.shape == (() if term.coupled else (B,))
        assert term.loss_B.dtype == torch.float32
    assert any(term.coupled for term in terms.values()) == cls.info.coupled


@EVERY
def test_declares_what_it_learns_from(cls: type) -> None:
    """What is said to need labels learns nothing from the rest, and what is for the rest from no label."""
    values = {"centres": "batch"} if cls.info.name == "category-structure" else {}
    objective, s, t, adapters = filled(cls, **values)
    if selects(cls):
        adapters = nn.ModuleDict()
    given = multi_label(cls)
    hidden = torch.arange(B) % 2 == 1
    some = replace(
        given,
        target_B=given.target_B.masked_fill(hidden, -1),
        target_BK=None
        if given.target_BK is None
        else given.target_BK.masked_fill(hidden[:, None], -1),
    )
    own = dict(adapters.items()).get(cls.info.name)
    terms = objective(step_of(s, t, some, LATER, own))
    assert {term.rows for term in terms.values()} <= {cls.info.rows, "labelled"}
    assert all(term.rows == "labelled" for term in terms.values()) == (cls.info.rows == "labelled")
    sum(term.loss_B.sum() for term in terms.values()).backward()
    read = [s.logits_BK, *(each for each in s.features.values() if each.requires_grad)]
    for rows, kind in ((hidden, "labelled"), (~hidden, "unlabelled")):
        moved = sum(float(each.grad[rows].abs().sum()) for each in read if each.grad is not None)
        assert (moved == 0) == (cls.info.rows == kind)


def test_a_weight_of_0_asks_for_no_image() -> None:
    hard, soft = CrossEntropy(), KnowledgeDistillation()
    for parts, alone in (
        ((part(hard),), True),
        ((part(hard), part(soft, 0.0)), True),
        ((part(hard), part(soft)), False),
        ((part(hard), part(soft, 0.0, 0.5, "linear")), False),
        ((part(hard), part(soft, 0.5, 0.0, "step")), False),
        ((part(soft),), False),
    ):
        assert Composition(parts).learns_from_labels == alone


FORMS: dict[str, list[dict[str, object]]] = {
    "category-structure": [{"form": form} for form in ("release", "teacher-free")],
    "pseudo-label": [{"fairness": 0.001}],
}


@EVERY
def test_every_declared_term_is_returned_in_some_form(cls: type) -> None:
    returned: set[str] = set()
    for values in ({}, *FORMS.get(cls.info.name, [])):
        layers = {"pairs": ()} if values.get("form") == "teacher-free" else {}
        objective, s, t, adapters = filled(cls, **values, **layers)
        own = dict(adapters.items()).get(cls.info.name)
        returned |= objective(step_of(s, t, multi_label(cls), LATER, own)).keys()
    assert returned == cls.info.terms


@EVERY
def test_a_sample_alone_has_the_loss_that_it_has_in_a_batch(cls: type) -> None:
    """Unless it is coupled: then it must not be cut up, and compositions say so."""
    objective, s, t, adapters = filled(cls)
    if cls.info.coupled:
        assert Composition((part(objective),)).coupled == (cls.info.name,)
        return
    if cls is Hint:
        # Its batch norm looks at the whole batch, as it says; without it samples are apart.
        assert objective.whole_batch
        objective, s, t, adapters = filled(cls, normalised=False)
        assert not objective.whole_batch
    own = dict(adapters.items()).get(cls.info.name)
    whole = objective(step_of(s, t, multi_label(cls), LATER, own))
    for row in range(B):
        some = slice(row, row + 1)
        one = StudentSignals(logits=s.logits_BK[some], features=rows_of(s.features, some))
        other = DenseSignals(t.logits_BK[some], rows_of(t.features, some))
        alone = objective(step_of(one, other, multi_label(cls).take(some), LATER, own))
        for name, term in alone.items():
            assert torch.allclose(term.loss_B[0], whole[name].loss_B[row], atol=1e-5)


# One that defines the hard label has a test of its neutral setting of its own.
@pytest.mark.parametrize(
    "cls",
    [cls for cls in OBJECTIVES.values() if not cls.info.owns],
    ids=lambda cls: cls.info.name,
)
def test_at_weight_0_beside_cross_entropy_it_is_cross_entropy(cls: type) -> None:
    objective, s, t, adapters = filled(cls)
    if selects(cls):
        adapters = nn.ModuleDict()
        objective = cls(margin=2.0)
    beside = Composition((part(CrossEntropy()), part(objective, 0.0)))
    total = beside(s, t, multi_label(cls), LATER, adapters).total
    plain = student()
    alone = Composition((part(CrossEntropy()),))(plain, None, multi_label(cls), LATER).total
    assert torch.allclose(total, alone, atol=1e-7)
    total.backward()
    alone.backward()
    assert torch.allclose(s.logits_BK.grad, plain.logits_BK.grad, atol=1e-7)
