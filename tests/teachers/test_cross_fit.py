"""The mean of several networks' answers, as logits of one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_cli.teachers.cross_fit import mean_logits
from distill_cli.types import Targets


def drawn(*shape: int) -> Tensor:
    return 6 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def probabilities(logits: Tensor, targets: Targets) -> Tensor:
    return logits.double().sigmoid() if targets == "sigmoid" else logits.double().softmax(dim=-1)


@pytest.mark.parametrize("targets", ["softmax", "sigmoid"])
def test_the_mean_is_of_probabilities(targets: Targets) -> None:
    logits_MBK, asked_MB = drawn(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)
    asked_MB[0, 1] = False
    mean_BK = mean_logits(logits_MBK, asked_MB, targets)
    for row in range(5):
        asked = [network for network in range(3) if asked_MB[network, row]]
        oracle_K = probabilities(logits_MBK[asked, row], targets).mean(dim=0)
        assert torch.allclose(probabilities(mean_BK[row], targets), oracle_K, atol=1e-6)


@pytest.mark.parametrize("targets", ["softmax", "sigmoid"])
def test_one_network_keeps_its_logits_to_the_bit(targets: Targets) -> None:
    logits_MBK, asked_MB = drawn(3, 5, 4), torch.zeros(3, 5, dtype=torch.bool)
    chosen = [2, 0, 1, 1, 2]
    for row, network in enumerate(chosen):
        asked_MB[network, row] = True
    mean_BK = mean_logits(logits_MBK, asked_MB, targets)
    for row, network in enumerate(chosen):
        assert torch.equal(mean_BK[row], logits_MBK[network, row])


@pytest.mark.parametrize("targets", ["softmax", "sigmoid"])
def test_logits_that_all_agree_on_stay_what_they_are(targets: Targets) -> None:
    """Their offset too, which softmax does not see and a loss on logits does."""
    logits_BK = drawn(5, 4) + 30
    mean_BK = mean_logits(torch.stack([logits_BK] * 3), torch.ones(3, 5, dtype=torch.bool), targets)
    assert torch.allclose(mean_BK, logits_BK, rtol=1e-4, atol=1e-4)


def test_answers_that_are_sure_of_different_classes_stay_finite() -> None:
    logits_MBK = torch.tensor([[[500.0, -500.0, 0.0]], [[-500.0, 500.0, 0.0]]])
    everyone_MB = torch.ones(2, 1, dtype=torch.bool)
    for targets in ("softmax", "sigmoid"):
        assert bool(mean_logits(logits_MBK, everyone_MB, targets).isfinite().all())
    halves_BK = mean_logits(logits_MBK, everyone_MB, "softmax").softmax(dim=-1)
    assert torch.allclose(halves_BK, torch.tensor([[0.5, 0.5, 0.0]]))
