"""Scores of doubt, against closed forms and a rule written anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_cli.doubt import (
    confidently_others,
    disagreement,
    entropies,
    margin_of_label,
    margin_of_two,
    votes_against,
)


def random_probs(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(dim=-1)


def test_margins() -> None:
    probs_NK = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(
        margin_of_two(probs_NK), torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64)
    )
    margin_N = margin_of_label(probs_NK, torch.tensor([1, 2, 0]))
    torch.testing.assert_close(margin_N, torch.tensor([-0.5, -0.2, 1.0], dtype=torch.float64))
    # Of the likeliest class the margin of the label is that of the two likeliest.
    probs_NK = random_probs(50, 6)
    torch.testing.assert_close(
        margin_of_label(probs_NK, probs_NK.argmax(dim=-1)), margin_of_two(probs_NK)
    )


def test_entropy_and_disagreement() -> None:
    assert entropies(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx(
        [0, math.log(2)]
    )
    same_MNK = random_probs(1, 20, 4).expand(3, -1, -1)
    assert float(disagreement(same_MNK).abs().max()) < 1e-12
    # Networks that are sure of classes of their own: as much as which of them answers.
    sure_MNK = torch.eye(3)[:, None]
    assert disagreement(sure_MNK).tolist() == pytest.approx([math.log(3)])
    # The mean divergence of the answers from their mean.
    probs_MNK = random_probs(4, 30, 5)
    mean_NK = probs_MNK.mean(dim=0)
    kl_N = (probs_MNK * (probs_MNK / mean_NK).log()).sum(dim=-1).mean(dim=0)
    torch.testing.assert_close(disagreement(probs_MNK), kl_N)


def test_votes() -> None:
    answer_MN = torch.tensor([[0, 1, 2], [0, 2, 1]])
    assert votes_against(answer_MN, torch.tensor([0, 1, 0])).tolist() == [0, 1, 2]


def test_confidently_another_class() -> None:
    """Northcutt et al., equation 1, sample by sample; labels of −1 count nowhere."""
    probs_NK = random_probs(300, 5)
    label_N = torch.tensor(np.random.default_rng(0).integers(-1, 4, 300))
    probs, label = probs_NK.numpy(), label_N.numpy()
    threshold = [probs[label == k, k].mean() if (label == k).any() else np.inf for k in range(5)]
    expected = []
    for p, y in zip(probs, label, strict=True):
        over = [k for k in range(5) if p[k] >= threshold[k]]
        expected.append(y >= 0 and bool(over) and max(over, key=lambda k: p[k]) != y)
    assert (label == 4).sum() == 0
    assert 20 < sum(expected) < 250
    assert confidently_others(probs_NK, label_N).tolist() == expected


def test_a_class_that_the_network_is_seldom_sure_of_has_a_lower_bar() -> None:
    """0.4 for class 1 is more than it has on average, and 0.6 for class 0 is less."""
    sure, unsure = [0.9, 0.1, 0.0], [0.6, 0.3, 0.1]
    probs_NK = torch.tensor([sure, sure, unsure, unsure, [0.6, 0.4, 0.0]])
    label_N = torch.tensor([0, 0, 1, 1, 0])
    assert confidently_others(probs_NK, label_N).tolist() == [False] * 4 + [True]
