"""Frozen parts: one fixed function of an image, whatever mode the network is in."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.errors import UsageError
from distill_cli.models import InputSpec, Network, create_network
from distill_cli.models.frozen import BACKBONE, freeze
from distill_cli.models.gated import gated
from distill_cli.models.heads import classifier_names, classifier_of
from distill_cli.training.optim import create_optimizer

GREY = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.2,))
CLASSES = ("cat", "dog", "eel")
BASES = ("mlp_16x1", "cifar_resnet8", "test_vit", "torchvision/mobilenet_v3_small")
EVERY = pytest.mark.parametrize("base", BASES)


def plain(base: str) -> Network:
    torch.manual_seed(0)
    return create_network(base, class_names=CLASSES, view=GREY, dropout=0.5)


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def steps(network: Network, count: int = 3) -> None:
    """Steps of SGD with weight decay, in training mode."""
    optimizer = create_optimizer(network.net, "sgd", rate=0.1, weight_decay=0.1, momentum=0.9)
    network.train()
    for _ in range(count):
        optimizer.zero_grad()
        network(images()).square().mean().backward()
        optimizer.step()


@EVERY
def test_a_frozen_backbone_stays_to_the_bit(base: str) -> None:
    network = plain(base)
    before = {key: value.clone() for key, value in network.net.state_dict().items()}
    frozen = freeze(network, [BACKBONE])
    head = [f"{name}." for name in classifier_names(network.net)]
    assert head
    assert frozen.of == network.num_params
    assert frozen.of - frozen.params == sum(
        weight.numel() for weight in classifier_of(network.net).parameters()
    )
    steps(network)
    after = network.net.state_dict()
    same = {key for key, value in before.items() if torch.equal(value, after[key])}
    assert same == {key for key in before if not key.startswith(tuple(head))}


def test_a_frozen_part_is_one_function_in_every_mode() -> None:
    """Batch norm by its statistics, and no dropout; what is not frozen trains as ever."""
    network = plain("cifar_resnet8")
    freeze(network, ["conv1", "bn1", "stages.0"])
    net = network.net
    seen: list[Tensor] = []
    net.get_submodule("stages.0").register_forward_hook(lambda m, i, out: seen.append(out.detach()))
    for mode in (True, False):
        network.train(mode)
        network(images())
    assert torch.equal(*seen)
    network.train()
    norms = {name: m for name, m in net.named_modules() if isinstance(m, _BatchNorm)}
    assert {name for name, norm in norms.items() if not norm.training} == {
        name for name in norms if name.startswith(("bn1", "stages.0."))
    }
    copy = deepcopy(network).eval().train()
    assert not copy.net.get_submodule("stages.0").training
    assert copy.net.get_submodule("stages.1").training
    assert copy.frozen[0] is not network.frozen[0], "a copy's frozen parts are its own"


def test_the_head_learns_as_one_on_fixed_features() -> None:
    """Oracle: the same steps of a linear layer alone, on the features of the network in eval mode."""
    network = plain("cifar_resnet8").double()
    freeze(network, [BACKBONE])
    head = classifier_of(network.net)
    assert isinstance(head, nn.Linear)
    alone, feats = deepcopy(head), []
    hook = head.register_forward_pre_hook(lambda m, args: feats.append(args[0].detach()))
    network.eval()(images().double())
    hook.remove()
    # The dropout before the classifier belongs to the part that learns.
    network.net.drop_rate = 0.0
    for module in network.net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = create_optimizer(alone, "sgd", rate=0.1, weight_decay=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        alone(feats[0]).square().mean().backward()
        optimizer.step()
    optimizer = create_optimizer(network.net, "sgd", rate=0.1, weight_decay=0.1, momentum=0.9)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        network(images().double()).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(head.weight, alone.weight, rtol=1e-9, atol=1e-12)


def test_parameters_have_names_too() -> None:
    network = plain("test_vit")
    frozen = freeze(network, ["pos_embed", "blocks"])
    still = {name for name, weight in network.net.named_parameters() if not weight.requires_grad}
    assert "pos_embed" in still
    assert still == {"pos_embed"} | {
        name for name, _ in network.net.named_parameters() if name.startswith("blocks.")
    }
    assert frozen.params < frozen.of


def test_gates_learn_over_a_frozen_backbone() -> None:
    network = gated(plain("mlp_16x1"))
    freeze(network, [BACKBONE])
    assert all(weight.requires_grad for weight in classifier_of(network.net).parameters())
    assert sum(not weight.requires_grad for weight in network.net.parameters()) == 2


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["stage"], "no part 'stage'. "),
        (["backbone", "fc"], "nothing would be left to learn"),
        ([""], "no part ''"),
    ],
)
def test_refusals(names: list[str], text: str) -> None:
    network = plain("cifar_resnet8")
    if names[-1] == "fc":
        names = [BACKBONE, *classifier_names(network.net)]
    with pytest.raises(UsageError) as caught:
        freeze(network, names)
    assert text in str(caught.value)
    assert all(weight.requires_grad for weight in network.net.parameters())
