"""Biases that match a prior: beside Newton's method on all of them at once, and shifts that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_cli import class_bias
from distill_cli.class_bias import NoBiasError, matched_bias, mean_masses


def logits(samples: int, classes: int, seed: int, scale: float = 3.0) -> Tensor:
    """Answers that are sure of a class, of each equally often, and now and then of a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale / 2
    drawn[torch.arange(samples), torch.arange(samples) % classes] += scale
    return drawn


def shares(classes: int, seed: int) -> Tensor:
    drawn = torch.rand(classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn + 0.2) / (drawn + 0.2).sum()


def by_newton(logits_NK: Tensor, prior_K: Tensor, chosen: list[int]) -> Tensor:
    """The oracle: all biases at once, by the whole matrix of how masses follow biases; of sum 0."""
    # Where all are chosen, one of them stays where it is.
    free = chosen if len(chosen) < len(prior_K) else chosen[1:]
    bias_K = torch.zeros_like(prior_K)
    for _ in range(300):
        probs = [row.exp() / row.exp().sum() for row in (logits_NK + bias_K)]
        mean_K = sum(probs) / len(probs)
        slope_KK = sum(row.diag() - row.outer(row) for row in probs) / len(probs)
        step = torch.linalg.solve(slope_KK[free][:, free], (prior_K - mean_K)[free])
        bias_K[free] += step * min(1.0, 0.5 / float(step.abs().max()))
        if float(step.abs().max()) < 1e-12:
            break
    return bias_K - bias_K.mean()


@pytest.mark.parametrize("chosen", [[2], [0, 3], [1, 2, 3, 4], [0, 1, 2, 3, 4]])
def test_the_biases_are_those_of_newtons_method(chosen: list[int]) -> None:
    answers, prior_K = logits(60, 5, 1, scale=2.0), shares(5, 2)
    expected = by_newton(answers, prior_K, chosen)
    matched = matched_bias(answers, prior_K, torch.tensor(chosen))
    torch.testing.assert_close(matched.bias_K, expected, rtol=0, atol=1e-6)
    assert float(matched.bias_K.sum()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(matched.after_K[chosen], prior_K[chosen], rtol=0, atol=1e-6)
    torch.testing.assert_close(matched.before_K, mean_masses(answers))
    torch.testing.assert_close(matched.after_K, mean_masses(answers + matched.bias_K))
    others = [k for k in range(5) if k not in chosen]
    assert len(set(matched.bias_K[others].tolist())) <= 1


@pytest.mark.parametrize("chosen", [[3], [0, 7], list(range(10))])
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_a_known_shift_is_recovered(chosen: list[int], scale: float) -> None:
    """Logits whose masses are the shares, but for a shift of the chosen classes, which is found."""
    answers = logits(400, 10, 3, scale)
    prior_K = mean_masses(answers)
    shift_K = torch.zeros(10, dtype=torch.float64)
    shift_K[chosen] = torch.linspace(-4, 3, len(chosen), dtype=torch.float64)
    matched = matched_bias(answers + shift_K, prior_K, torch.tensor(chosen))
    torch.testing.assert_close(matched.bias_K, shift_K.mean() - shift_K, rtol=0, atol=1e-5)


def test_a_larger_share_takes_a_larger_bias() -> None:
    """Against the bias that the other classes share; and its mass follows."""
    answers, found = logits(200, 4, 4), []
    for share in (1e-6, 0.01, 0.2, 0.5, 0.9, 1 - 1e-6):
        prior_K = torch.full((4,), (1 - share) / 3, dtype=torch.float64)
        prior_K[1] = share
        matched = matched_bias(answers, prior_K, torch.tensor([1]))
        assert float(matched.after_K[1]) == pytest.approx(share, abs=1e-6)
        found.append(float(matched.bias_K[1] - matched.bias_K[0]))
    assert found == sorted(set(found))


@pytest.mark.parametrize("every", [1, 3])
def test_many_classes_at_once(every: int) -> None:
    answers, prior_K = logits(600, 60, 5, scale=4.0), shares(60, 6)
    answers += 5 * torch.randn(60, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    chosen = torch.arange(0, 60, every)
    matched = matched_bias(answers, prior_K, chosen)
    torch.testing.assert_close(matched.after_K[chosen], prior_K[chosen], rtol=0, atol=1e-6)


def test_answers_that_are_surer_than_any_number() -> None:
    """Logits a thousand apart, whose probabilities are 0 and 1 to all digits, and of no class but one."""
    answers = torch.tensor([[1000.0, 0.0, -1000.0]] * 4 + [[0.0, -1000.0, 3.0]])
    prior_K = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    matched = matched_bias(answers, prior_K, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(matched.after_K, prior_K, rtol=0, atol=1e-6)


def test_where_the_turns_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_bias, "SWEEPS", 1)
    with pytest.raises(NoBiasError, match="from its share"):
        matched_bias(logits(200, 5, 8), shares(5, 9), torch.arange(5))
