"""Undoing an epoch: weights, buffers and momentum to the bit, learning rates not at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from distill_cli.training.rollback import Rollback


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step + seed)
        optimizer.zero_grad()
        network(torch.randn(8, 4, generator=generator)).square().mean().backward()
        optimizer.step()


def alike(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    return bool(one == two)


MAKERS = pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
        lambda parameters: timm.optim.create_optimizer_v2(parameters, "lamb", lr=0.1),
        lambda parameters: timm.optim.create_optimizer_v2(parameters, "lookahead_sgd", lr=0.1),
    ],
    ids=["sgd", "adamw", "lamb", "lookahead"],
)


@MAKERS
def test_it_goes_back_to_the_bit_and_the_schedule_does_not(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    network = net()
    optimizer = make(network.parameters())
    train(network, optimizer, 3, seed=1)
    rollback = Rollback({"network": network, "optimizer": optimizer})
    rollback.keep()
    weights, moments = deepcopy(network.state_dict()), deepcopy(optimizer.state_dict())
    train(network, optimizer, 4, seed=5)
    assert not alike(network.state_dict(), weights)
    rate = optimizer.param_groups[0]["lr"]
    rollback.go_back()
    assert alike(network.state_dict(), weights)
    assert alike(optimizer.state_dict()["state"], moments["state"])
    assert optimizer.param_groups[0]["lr"] == rate != moments["param_groups"][0]["lr"]
    # What is trained from there does not touch the copy: it is what it was.
    train(network, optimizer, 2, seed=9)
    first = deepcopy(network.state_dict())
    rollback.go_back()
    assert alike(network.state_dict(), weights)
    train(network, optimizer, 2, seed=9)
    assert alike(network.state_dict(), first)


@MAKERS
def test_a_checkpoint_has_the_copy(make: Callable[..., torch.optim.Optimizer]) -> None:
    network = net()
    optimizer = make(network.parameters())
    train(network, optimizer, 3, seed=1)
    rollback = Rollback({"network": network, "optimizer": optimizer})
    rollback.keep()
    weights = deepcopy(network.state_dict())
    train(network, optimizer, 2, seed=2)
    buffer = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "rollback": rollback.state_dict()}, buffer)
    buffer.seek(0)
    content = torch.load(buffer, weights_only=True)
    other = net()
    resumed = make(other.parameters())
    resumed.load_state_dict(content["optimizer"])
    again = Rollback({"network": other, "optimizer": resumed})
    again.load_state_dict(content["rollback"])
    again.go_back()
    rollback.go_back()
    assert alike(other.state_dict(), weights)
    assert alike(resumed.state_dict(), optimizer.state_dict())


def test_before_anything_is_kept_it_keeps_the_start() -> None:
    network = net()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    rollback = Rollback({"network": network, "optimizer": optimizer})
    rollback.keep()
    start = deepcopy(network.state_dict())
    train(network, optimizer, 2, seed=1)
    rollback.go_back()
    assert alike(network.state_dict(), start)
    assert not optimizer.state_dict()["state"]
