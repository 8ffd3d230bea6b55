"""Networks of few bits: which layers, what is saved, and what is read back."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill_cli.models import InputSpec, Network, create_network, load_model, save_model
from distill_cli.models.heads import classifier_of
from distill_cli.models.quantised import bits_of_layers, layers_of, quantised, saved_tensors
from distill_cli.models.quantisers import Bits

GREY = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.2,))
CLASSES = ("cat", "dog", "eel")
BASES = ("mlp_16x3", "cifar_resnet8", "test_vit", "torchvision/mobilenet_v3_small")


def plain(base: str) -> Network:
    torch.manual_seed(0)
    return create_network(base, class_names=CLASSES, view=GREY)


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("activations", [None, 4], ids=["weights", "activations too"])
def test_any_network_learns_and_is_read_back_to_the_bit(
    tmp_path: Path, base: str, activations: int | None
) -> None:
    network = quantised(
        plain(base), Bits(quantizer="lsq", weights=2, activations=activations), images()
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        network(images()).square().mean().backward()
        optimizer.step()
    network.eval()
    save_model(network, tmp_path)
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(images()), network(images()))
    kept, used = again.net.state_dict(), saved_tensors(network.net)
    assert kept.keys() == used.keys()
    assert all(torch.equal(kept[name], used[name]) for name in kept)
    assert again.layout is not None
    assert (again.architecture == "distill_quantised") == (activations is not None)
    # What is read and saved once more says the same of itself.
    save_model(again, tmp_path / "again")
    layouts = [
        json.loads((folder / "config.json").read_text())["distill"]["quantised"]
        for folder in (tmp_path, tmp_path / "again")
    ]
    assert layouts[0] == layouts[1]


def test_the_first_and_the_last_layer_stay() -> None:
    net = plain("cifar_resnet8").net
    names = list(layers_of(net))
    inner = bits_of_layers(net, Bits(quantizer="lsq", weights=2))
    assert list(inner) == names[1:-1]
    assert names[0] == "conv1"
    assert net.get_submodule(names[-1]) is classifier_of(net)
    every = bits_of_layers(net, Bits(quantizer="lsq", weights=2, everything=True))
    assert list(every) == names
    last = bits_of_layers(net, Bits(quantizer="ternary", weights=2, last=8))
    assert last == {**inner, names[-1]: 8}


def test_an_average_is_of_the_weights_behind_the_levels() -> None:
    network = quantised(plain("mlp_16x3"), Bits(quantizer="lsq", weights=2), images())
    copy = deepcopy(network)
    learnt = dict(network.net.named_parameters())
    with torch.no_grad():
        learnt["layers.1.parametrizations.weight.original"].add_(1.0)
    layer, other = network.net.get_submodule("layers.1"), copy.net.get_submodule("layers.1")
    assert isinstance(layer, nn.Linear)
    assert isinstance(other, nn.Linear)
    assert not torch.equal(layer.weight, other.weight), "a copy has weights of its own"


def test_a_config_that_says_nonsense_of_bits_is_refused(tmp_path: Path) -> None:
    from distill_cli.errors import ArtifactError

    network = quantised(plain("mlp_16x3"), Bits(quantizer="lsq", weights=2), images())
    save_model(network, tmp_path)
    path = tmp_path / "config.json"
    for wrong in ({"layers": 3}, {"layers": {"a": {"bits": 99, "scale": 0.1}}}, {}):
        config = json.loads(path.read_text())
        config["distill"]["quantised"] = wrong
        config["distill"].pop("checksum", None)
        path.write_text(json.dumps(config))
        with pytest.raises(ArtifactError, match="does not describe"):
            load_model(tmp_path)
