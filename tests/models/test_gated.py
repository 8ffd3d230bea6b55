"""Gated classifiers: plain before training, whole when saved, and no way round the locked door."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.losses.dropmax import dropmax_inference
from distill_cli.models import InputSpec, Network, create_network, load_model, names, save_model
from distill_cli.models.build import RESERVED, build
from distill_cli.models.gated import NAME, base_of, gated, is_gated
from distill_cli.models.heads import GatedClassifier, classifier_of
from distill_cli.models.taps import signals_of, taps_of
from distill_cli.training import optim
from distill_cli.types import GATED_PARTS

GREY = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.2,))
CLASSES = ("cat", "dog", "eel")
BASES = ("mlp_16x1", "cifar_resnet8", "test_vit", "test_convnext", "torchvision/mobilenet_v3_small")
EVERY = pytest.mark.parametrize("base", BASES)


def plain(base: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return create_network(base, class_names=CLASSES, view=GREY)


def trained(base: str) -> Network:
    """With gates that say something."""
    network = gated(plain(base))
    head = classifier_of(network.net)
    assert isinstance(head, GatedClassifier)
    for layer in (head.prior, head.posterior):
        nn.init.normal_(layer.weight)
    return network.eval()


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@EVERY
@torch.no_grad()
def test_before_training_it_is_the_network_without_gates(base: str) -> None:
    one = plain(base)
    after = torch.get_rng_state()
    two = gated(plain(base))
    assert torch.equal(torch.get_rng_state(), after), "gates draw no number"
    assert (two.architecture, base_of(two)) == (NAME, one.architecture)
    assert is_gated(two)
    assert not is_gated(one)
    own = classifier_of(two.net)
    assert isinstance(own, GatedClassifier)
    assert torch.equal(own.logits.weight, classifier_of(one.net).weight)
    said = [each.eval()(images()).log_softmax(-1) for each in (one, two)]
    assert torch.allclose(*said, atol=1e-6)
    assert [tap.name for tap in taps_of(one)] == [tap.name for tap in taps_of(two)]


@EVERY
def test_it_answers_by_what_its_gates_keep(base: str) -> None:
    network = trained(base)
    said = signals_of(network, images(), GATED_PARTS)
    logits, prior, posterior = (said.features[part].flatten(1) for part in GATED_PARTS)
    assert not torch.allclose(prior, posterior)
    assert torch.equal(said.logits_BK, dropmax_inference(logits, prior))
    expected = (prior.sigmoid() * logits.softmax(-1)).double()
    found = said.logits_BK.softmax(-1).double()
    assert torch.allclose(found, expected / expected.sum(-1, keepdim=True), atol=1e-6)


def test_in_training_it_answers_as_at_test() -> None:
    network = trained("mlp_16x1")
    assert torch.equal(network.train()(images()), network.eval()(images()))


def test_nobody_who_does_not_listen_pays_for_the_posterior() -> None:
    network, calls = trained("mlp_16x1"), []
    head = classifier_of(network.net)
    assert isinstance(head, GatedClassifier)
    original = head.posterior.forward
    head.posterior.forward = lambda x: (calls.append(1), original(x))[1]
    network(images())
    assert not calls
    signals_of(network, images(), GATED_PARTS)
    assert calls


@EVERY
@torch.no_grad()
def test_a_saved_one_says_the_same_to_the_bit_and_in_timm_too(base: str, tmp_path: Path) -> None:
    network = trained(base)
    save_model(network, tmp_path)
    loaded = load_model(tmp_path)
    said = network(images())
    assert torch.equal(loaded(images()), said)
    assert loaded.model_args == network.model_args
    assert loaded.net.no_weight_decay() == network.net.no_weight_decay()
    taken = (loaded.fitted(images()) - loaded.mean) / loaded.std
    assert torch.equal(
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(taken), said
    )
    # A head for other classes is fresh, as of every network in timm.
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
    assert other(taken).shape == (4, 7)
    trunk = next(iter(network.net.state_dict()))
    assert torch.equal(other.state_dict()[trunk], network.net.state_dict()[trunk])


@EVERY
@torch.no_grad()
def test_an_export_has_the_gates_folded_in(base: str) -> None:
    network = trained(base)
    program = torch.export.export(network, (images(2),))
    assert torch.allclose(program.module()(images(2)), network(images(2)), atol=1e-6)
    read = {
        name
        for node, name in program.graph_signature.inputs_to_parameters.items()
        if next(n for n in program.graph.nodes if n.name == node).users
    }
    assert any(name.endswith("prior.weight") for name in read)
    assert not any("posterior" in name for name in read), "no prediction needs it"


def test_neither_gate_is_decayed_and_what_the_base_exempts_stays_so() -> None:
    for base, layer_decay in (("test_vit", None), ("test_vit", 0.5), ("cifar_resnet8", None)):
        net = gated(plain(base)).net
        optimizer = optim.create_optimizer(
            net, "adamw", rate=1.0, weight_decay=0.1, momentum=0.9, layer_decay=layer_decay
        )
        decay = {
            id(p): group["weight_decay"]
            for group in optimizer.param_groups
            for p in group["params"]
        }
        head: Any = classifier_of(net)
        assert decay[id(head.logits.weight)] == 0.1
        for layer in (head.prior, head.posterior):
            assert decay[id(layer.weight)] == decay[id(layer.bias)] == 0
        if base == "test_vit":
            assert decay[id(net.pos_embed)] == 0


def test_layer_decay_counts_the_gates_to_the_classifier() -> None:
    for base in ("test_vit", "cifar_resnet8"):
        net = gated(plain(base)).net
        optimizer = optim.create_optimizer(
            net, "adamw", rate=1.0, weight_decay=0.1, momentum=0.9, layer_decay=0.5
        )
        scale = {
            id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]
        }
        head: Any = classifier_of(net)
        for layer in (head.logits, head.prior, head.posterior):
            assert scale[id(layer.weight)] == 1


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("torchvision/squeezenet1_1", "Conv2d"),
        ("levit_128s", "NormLinear"),
        ("deit_tiny_distilled_patch16_224", "several layers"),
    ],
)
def test_what_does_not_end_in_one_linear_layer_is_refused(base: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        gated(plain(base))
    assert base in str(caught.value)


def test_an_output_that_is_changed_behind_the_classifier_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.fc(x.flatten(1))

    network = plain("mlp_16x1")
    network.net = Scaled()
    with pytest.raises(UsageError, match="not what its last linear layer says"):
        gated(network)


def test_by_its_name_it_needs_a_base() -> None:
    made = create_network(NAME, class_names=CLASSES, view=GREY, args={"base": "mlp_16x1"})
    assert made.model_args["base"] == "distill_mlp"
    assert is_gated(made)
    assert NAME not in names()
    for args in ({}, {"base": NAME}, {"base": 3}, {"base": f"timm/{NAME}"}):
        with pytest.raises(UsageError, match="needs the name of another network"):
            create_network(NAME, class_names=CLASSES, view=GREY, args=args)
    with pytest.raises(UsageError, match="no network"):
        create_network(NAME, class_names=CLASSES, view=GREY, args={"base": "local-dir:x"})


@pytest.mark.parametrize(
    "base", [None, 3, ["cifar_resnet8"], NAME, f"{NAME}.x", "local-dir:here", "hf-hub:a/b", "nope"]
)
def test_a_strangers_base_is_a_registered_network(base: object, tmp_path: Path) -> None:
    save_model(trained("cifar_resnet8"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["base"] = base
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="does not describe a network") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arg", sorted(RESERVED))
@pytest.mark.parametrize("base", ["test_resnet", "torchvision/squeezenet1_1"])
def test_no_reserved_argument_hides_behind_the_base(arg: str, base: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="may not be set"):
        build(NAME, 3, {"base": base, arg: True})
    save_model(trained("cifar_resnet8"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] |= {"base": base, arg: True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="may not be set"):
        load_model(tmp_path)


def test_a_base_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    save_model(trained("cifar_resnet8"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["base"] = "cifar_resnet14"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="tensor"):
        load_model(tmp_path)


def test_a_copy_has_its_own_weights() -> None:
    network = trained("test_vit")
    copied = deepcopy(network)
    assert copied.net.no_weight_decay() == network.net.no_weight_decay()
    assert torch.equal(copied(images()), network(images()))
    with torch.no_grad():
        classifier_of(copied.net).prior.bias += torch.tensor([0.0, 1.0, 2.0])
    assert not torch.equal(copied(images()), network(images()))


def test_its_bias_is_that_of_the_logits() -> None:
    network = trained("mlp_16x1")
    said = signals_of(network, images(), ("classifier/bias",)).features["classifier/bias"]
    assert torch.equal(said.flatten(1)[0], classifier_of(network.net).logits.bias)


def test_targets_and_normalisation_are_the_plain_networks() -> None:
    network = plain("mlp_16x1")
    network.targets = "sigmoid"
    made = gated(network)
    assert made.targets == "sigmoid"
    assert made.input_spec == network.input_spec
