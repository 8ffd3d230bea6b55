"""Optimisers of timm by name: each one trains, or is refused with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill_cli.errors import UsageError
from distill_cli.training import optim


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("name", ["sgd", "nesterov", "momentum", "sgdw", "nlars", "adamw", "lion"])
def test_it_takes_a_step_with_and_without_momentum(name: str, momentum: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = optim.create_optimizer(
        network, name, rate=0.1, weight_decay=0.01, momentum=momentum
    )
    network(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    after = list(network.parameters())
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_what_cannot_train_here_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="needs second derivatives"):
        optim.check_name("adahessian")
    network = nn.Linear(4, 3)
    # Some want a library or a device that is not here: an error of theirs is one of ours.
    with pytest.raises(UsageError, match="opt: 'sgd' cannot be used here: "):
        optim.create_optimizer(network, "sgd", rate=-1.0, weight_decay=0.0, momentum=0.9)
