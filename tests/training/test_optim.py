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


@pytest.mark.parametrize("name", ["sgd", "nesterov", "momentum", "adam", "adamw"])
def test_state_that_is_made_before_changes_no_step(name: str) -> None:
    """fp32 on the CPU: zeros are what the first step starts from anyway, to the bit."""
    nets = []
    for made_before in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
        optimizer = optim.create_optimizer(net, name, rate=0.1, weight_decay=0.01, momentum=0.9)
        if made_before:
            optim.materialise(optimizer)
            assert all(optimizer.state[parameter] for parameter in net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(4, 5)).square().mean().backward()
            optimizer.step()
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])


def test_a_first_step_that_a_scaler_skips_leaves_no_momentum_from_anywhere() -> None:
    """The fused SGD took memory for its first momentum, and left it unfilled where it skipped."""
    net = nn.Linear(64, 64)
    optimizer = optim.create_optimizer(net, "sgd", rate=0.1, weight_decay=0.0, momentum=0.9)
    optim.materialise(optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    scaler.scale(net(torch.ones(2, 64)).sum() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    for parameter in net.parameters():
        assert not optimizer.state[parameter]["momentum_buffer"].any()


def test_which_optimisers_a_graph_can_hold() -> None:
    net = nn.Linear(2, 2)

    def reason(name: str) -> str | None:
        made = optim.create_optimizer(net, name, rate=0.1, weight_decay=0.0, momentum=0.9)
        return optim.uncapturable(made)

    assert [reason(name) for name in ("sgd", "nesterov", "adam", "adamw")] == [None] * 4
    assert "Lamb counts its steps on the host" in str(reason("lamb"))
