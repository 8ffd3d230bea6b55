"""Figures of merit against loops in Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_cli.metrics import (
    Rankings,
    agreement,
    fit_temperature,
    in_groups,
    label_agreement,
    mean_average_precision,
    measure,
    measure_as,
    one_vs_all,
)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [w / sum(weights) for w in weights]


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(2, 7))
def test_measure_equals_a_loop(seed: int, n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator) * 2
    target = torch.randint(-1, k, (n,), generator=generator)
    errors, nll, bins, kept = 0, 0.0, [[0, 0.0, 0] for _ in range(15)], 0
    for row, label in zip(logits.double().tolist(), target.tolist(), strict=True):
        if label < 0:
            continue
        kept += 1
        p = softmax(row)
        guess = max(range(k), key=lambda c: row[c])
        errors += guess != label
        nll -= math.log(p[label])
        cell = bins[min(14, max(0, math.ceil(p[guess] * 15) - 1))]
        cell[0] += 1
        cell[1] += p[guess]
        cell[2] += guess == label
    found = measure(logits, target)
    assert (found.samples, found.errors) == (kept, errors)
    if kept:
        ece = sum(abs(right - confidence) for _, confidence, right in bins) / kept
        assert found.nll == pytest.approx(nll / kept, rel=1e-9)
        assert found.ece == pytest.approx(ece, abs=1e-9)
        assert found.top1 == pytest.approx(1 - errors / kept)


def test_a_sure_and_right_classifier_is_calibrated() -> None:
    found = measure(torch.eye(4) * 100, torch.arange(4))
    assert found.errors == 0
    assert found.ece == pytest.approx(0, abs=1e-12)


def test_agreement_with_oneself() -> None:
    logits = torch.randn(9, 3)
    same, divergence = agreement(logits, logits.log_softmax(-1))
    assert same == 1
    assert divergence == pytest.approx(0, abs=1e-6)


def overconfident(seed: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from softmax(z / scale): the best temperature is near `scale`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(400, 5, generator=generator, dtype=torch.float64) * 2
    target = torch.multinomial(z.softmax(-1), 1, generator=generator)[:, 0]
    return z * scale, target


def with_one_more(logits: torch.Tensor, target: torch.Tensor, temperature: float) -> float:
    """The NLL, and that of one image more whose label the network expects: what is minimised."""
    known = target >= 0
    logits, target = logits[known].double(), target[known]
    log_probs = (logits / temperature).log_softmax(-1)
    given = log_probs.gather(-1, target[:, None]).sum()
    expected = (logits.softmax(-1) * log_probs).sum(-1).mean()
    return -float(given + expected) / len(target)


@settings(max_examples=5)
@given(st.integers(0, 1000), st.floats(0.3, 0.7) | st.floats(1.6, 6))
def test_temperature_is_the_best_of_a_grid(seed: int, scale: float) -> None:
    logits, target = overconfident(seed, scale)
    found = fit_temperature(logits, target).value
    assert found == pytest.approx(scale, rel=0.35)
    grid = [found * 1.01**i for i in range(-40, 41)]
    losses = [with_one_more(logits, target, temperature) for temperature in grid]
    assert min(range(81), key=losses.__getitem__) == 40
    # No other minimum far away.
    for i in range(41):
        assert losses[40] <= with_one_more(logits, target, 0.05 * 400 ** (i / 40)) + 1e-12


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(2, 7), st.floats(1e-3, 1e3))
def test_temperature_never_makes_it_worse(seed: int, n: int, k: int, scale: float) -> None:
    """Labels unrelated to logits, or to few of them: the minimum may lie anywhere, or nowhere."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator, dtype=torch.float64) * scale
    target = torch.randint(-1, k, (n,), generator=generator).index_fill(0, torch.tensor([0]), 0)
    found = fit_temperature(logits, target)
    assert (found.value == 1) == (found.why_not is not None)
    before, after = measure(logits, target).nll, measure(logits / found.value, target).nll
    assert after <= before


def test_temperature_follows_the_scale_of_logits() -> None:
    logits, target = overconfident(7)
    whole = fit_temperature(logits, target).value
    for scale in (1e-3, 0.2, 4.0, 1e3):
        found = fit_temperature(logits * scale, target).value
        assert found == pytest.approx(scale * whole, rel=0.03)
    shifted = logits + torch.randn(400, 1, dtype=torch.float64) * 100
    assert fit_temperature(shifted, target).value == pytest.approx(whole, rel=1e-9)


def test_one_answer_wrong_by_a_hair_is_no_reason_to_be_sure_of_the_others() -> None:
    """59 of 60 right where 47 were expected: surer, but not without end, as likelihood would."""
    z = torch.tensor([[1.0, -1, -1]], dtype=torch.float64).repeat(60, 1)
    z[0, 1] = 1 - 1e-9
    target = torch.zeros(60, dtype=torch.int64).index_fill(0, torch.tensor([0]), 1)
    assert 0.25 < fit_temperature(z, target).value < 1


@pytest.mark.parametrize(
    ("logits", "shift", "why_not"),
    [
        (torch.eye(4), 0, "every held-out image is right"),
        (torch.eye(4) * 1e6, 0, "every held-out image is right"),
        # A network that says the same of every class is right on one of four.
        (torch.zeros(4, 4), 0, "no guide"),
        (torch.eye(4), 1, "no guide"),
        (torch.eye(4) * 1e6, 1, "no guide"),
        (torch.tensor([[2.0, 0, 0]] * 3 + [[0.5, 0, 0]]), 0, "4 held-out images do not tell"),
    ],
)
def test_no_minimum_is_no_temperature(logits: torch.Tensor, shift: int, why_not: str) -> None:
    target = (torch.arange(4) + shift) % 4
    target = target if logits.shape[1] == 4 else torch.tensor([0, 0, 0, 1])
    found = fit_temperature(logits, target)
    assert found.value == 1
    assert why_not in str(found.why_not)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temperature_of_narrow_logits(dtype: torch.dtype) -> None:
    logits, target = overconfident(8)
    found = fit_temperature(logits.to(dtype), target.index_fill(0, torch.tensor([0]), -1))
    assert found.value == pytest.approx(fit_temperature(logits, target).value, rel=0.02)


def test_scaling_calibrates() -> None:
    logits, target = overconfident(9)
    scaled = measure(logits / fit_temperature(logits, target).value, target)
    assert scaled.ece < measure(logits, target).ece / 2
    assert scaled.errors == measure(logits, target).errors


def digits_logits(width: int, steps: int) -> torch.Tensor:
    """fp64 logits on 800 digits of a network trained on the others, by gradient descent."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16), torch.tensor(classes)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(64, width, generator=generator, dtype=torch.float64) / 8
    last = torch.randn(width, 10, generator=generator, dtype=torch.float64) / width**0.5
    for _ in range(steps):
        first.requires_grad_(), last.requires_grad_()
        loss = torch.nn.functional.cross_entropy((x[:997] @ first).relu() @ last, y[:997])
        slopes = torch.autograd.grad(loss, (first, last))
        first, last = first.detach() - slopes[0], last.detach() - slopes[1]
    return (x[997:] @ first).relu() @ last


@pytest.fixture(scope="module")
def trained() -> list[torch.Tensor]:
    """Of networks that are right on 47, 91 and 93 % of them."""
    return [digits_logits(8, 40), digits_logits(16, 80), digits_logits(32, 150)]


def drawn(z: torch.Tensor, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of n images, and labels drawn from their softmax: T = 1 is right."""
    generator = torch.Generator().manual_seed(seed)
    logits = z[torch.randint(len(z), (n,), generator=generator)]
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize(
    "n", [150, *(pytest.param(n, marks=pytest.mark.slow) for n in (100, 1000))]
)
def test_a_fitted_temperature_rarely_costs_other_draws(trained: list[torch.Tensor], n: int) -> None:
    """At most 0.01 nats worse than T = 1 on fresh draws, of which this is the expectation."""
    for z in trained:
        log_probs = z.log_softmax(-1)
        worse = 0
        for seed in range(500):
            found = fit_temperature(*drawn(z, n, seed)).value
            assert 0.05 < found < 20
            if found != 1:
                cost = log_probs.exp() * (log_probs - (z / found).log_softmax(-1))
                worse += float(cost.sum(-1).mean()) > 0.01
        assert worse <= 25


def test_doubled_logits_have_twice_the_temperature(trained: list[torch.Tensor]) -> None:
    """From 1,000 labels, as well as likelihood can: its standard error is √(1/(N·E Var z))."""
    for z in trained:
        found = []
        for seed in range(100):
            logits, target = drawn(z, 1000, seed)
            found.append(fit_temperature(2 * logits, target).value)
        assert sum(abs(value - 2) <= 0.2 for value in found) >= 90
        assert sum(found) / 100 == pytest.approx(2, rel=0.02)


def labels(seed: int, n: int, k: int, *, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator) * 2
    return logits.round() if ties else logits, torch.randint(0, 2, (n, k), generator=generator)


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 6), st.booleans())
def test_average_precision_and_f1_are_scikit_learns(seed: int, n: int, k: int, ties: bool) -> None:
    from sklearn.metrics import average_precision_score, f1_score

    logits, target = labels(seed, n, k, ties=ties)
    target[0] = 1
    found = measure_as("sigmoid", logits, torch.full((n,), -1), target)
    each = [average_precision_score(target[:, c], logits[:, c]) for c in range(k)]
    assert found.map == pytest.approx(sum(each) / k)
    said = (logits > 0).int()
    micro, macro = (
        f1_score(target.flatten(), said.flatten(), zero_division=0),
        sum(f1_score(target[:, c], said[:, c], zero_division=0) for c in range(k)) / k,
    )
    assert found.f1 == pytest.approx(micro)
    assert found.macro_f1 == pytest.approx(macro)


def test_labels_that_apply_to_nothing_are_left_out_of_the_mean() -> None:
    logits = torch.tensor([[1.0, 5.0], [2.0, 6.0], [0.0, 1.0]])
    target = torch.tensor([[1, 0], [0, 0], [0, 0]])
    assert mean_average_precision(logits, target > 0) == pytest.approx(1 / 2)
    assert mean_average_precision(logits, target < 0) == 0


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 5))
def test_figures_of_labels_equal_a_loop(seed: int, n: int, k: int) -> None:
    logits, target = labels(seed, n, k)
    nll, wrong, bins = 0.0, 0, [[0.0, 0] for _ in range(15)]
    for row, truth in zip(logits.double().tolist(), target.tolist(), strict=True):
        wrong += any((z > 0) != t for z, t in zip(row, truth, strict=True))
        for z, t in zip(row, truth, strict=True):
            p = 1 / (1 + math.exp(-z))
            nll -= math.log(p if t else 1 - p)
            sure = max(p, 1 - p)
            cell = bins[min(14, max(0, math.ceil(sure * 15) - 1))]
            cell[0] += sure
            cell[1] += (z > 0) == t
    found = measure_as("sigmoid", logits, torch.full((n,), -1), target)
    assert (found.samples, found.errors) == (n, wrong)
    assert found.nll == pytest.approx(nll / n, rel=1e-9)
    ece = sum(abs(right - sure) for sure, right in bins) / (n * k)
    assert found.ece == pytest.approx(ece, abs=1e-9)


def test_one_class_by_sigmoids_has_the_accuracy_of_the_largest() -> None:
    logits, target = torch.randn(20, 4), torch.arange(20) % 5 - 1
    found = measure_as("sigmoid", logits, target)
    assert (found.samples, found.errors) == (16, measure(logits, target).errors)
    rows = one_vs_all(target, 4)
    assert rows[target < 0].eq(-1).all()
    assert rows[target >= 0].argmax(-1).equal(target[target >= 0])
    assert rows[target >= 0].sum(-1).eq(1).all()
    assert measure_as("softmax", logits, target) == measure(logits, target)


def test_rankings_serve_many_labellings() -> None:
    logits, target = labels(0, 30, 3, ties=True)
    ranked = Rankings(logits)
    for seed in range(5):
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        again = mean_average_precision(logits, target[order] > 0)
        assert ranked.mean_average_precision(target[order] > 0) == again


def test_agreement_of_labels() -> None:
    logits, _ = labels(0, 9, 3)
    assert label_agreement(logits, logits) == (1.0, 0.0)
    half, two = torch.zeros(1, 2), torch.tensor([[math.log(3), math.log(3)]])
    same, divergence = label_agreement(half, two)
    assert same == 0
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence == pytest.approx(2 * kl, rel=1e-6)


def test_groups_of_classes_are_measured_by_their_mass() -> None:
    """Against plain Python: a group's probability is a sum, though another group has the likeliest class."""
    generator = torch.Generator().manual_seed(5)
    logits_NK = torch.randn(40, 5, generator=generator)
    target_N = torch.randint(-1, 5, (40,), generator=generator)
    group_K = torch.tensor([0, 1, 0, 2, 1])
    right, losses, moved = 0, [], 0
    for logits_K, target in zip(logits_NK.double().tolist(), target_N.tolist(), strict=True):
        if target < 0:
            continue
        weights = [math.exp(value) for value in logits_K]
        mass = [0.0, 0.0, 0.0]
        for weight, group in zip(weights, group_K.tolist(), strict=True):
            mass[group] += weight / sum(weights)
        wanted = group_K.tolist()[target]
        right += mass.index(max(mass)) == wanted
        moved += mass.index(max(mass)) != group_K.tolist()[weights.index(max(weights))]
        losses.append(-math.log(mass[wanted]))
    metrics = measure(*in_groups(logits_NK, target_N, group_K))
    assert moved, "by the mass, and not by the likeliest class"
    assert metrics.samples == len(losses)
    assert metrics.top1 == right / len(losses)
    assert metrics.nll == pytest.approx(sum(losses) / len(losses), abs=1e-12)
    alone = measure(*in_groups(logits_NK, target_N, torch.arange(5)))
    plain = measure(logits_NK, target_N)
    assert (alone.top1, alone.nll) == (plain.top1, pytest.approx(plain.nll, abs=1e-12))
    one = measure(*in_groups(logits_NK, target_N, torch.zeros(5, dtype=torch.int64)))
    assert (one.top1, one.nll) == (1.0, pytest.approx(0.0, abs=1e-12))
