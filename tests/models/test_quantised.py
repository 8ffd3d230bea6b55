"""Networks of few bits: which layers, what is saved, and what is read back."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill_cli.models import InputSpec, Network, create_network, load_model, save_model
from distill_cli.models.heads import classifier_of
from distill_cli.models.quantised import bits_of_layers, layers_of, quantised, saved_tensors
from distill_cli.models.quantisers import Bits, LsqActivation
from distill_cli.recipe.earlier import steps_by_entry_then

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


# Windows of 2 × 2 tokens: four of each image lie in the first axis, behind one another.
SWIN = {"patch_size": 2, "window_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
FEATURES = {
    **{f"layers.0.blocks.0.{name}": 16 * 8 for name in ("attn.qkv", "attn.proj", "mlp.fc1")},
    "layers.0.blocks.0.mlp.fc2": 16 * 32,
    "layers.1.downsample.reduction": 4 * 32,
    **{f"layers.1.blocks.0.{name}": 4 * 16 for name in ("attn.qkv", "attn.proj", "mlp.fc1")},
    "layers.1.blocks.0.mlp.fc2": 4 * 64,
}


def loop_of_a_step(x: Tensor, grad: Tensor, quantiser: LsqActivation, features: float) -> float:
    """The gradient of a step, equations 3 and 5 of LSQ, value by value."""
    low, high, total = quantiser.low.item(), quantiser.high.item(), 0.0
    # In fp32, as the network divides: no value is on the other side of a half by its rounding.
    ratios = (x / quantiser.step.detach()).flatten().tolist()
    for ratio, change in zip(ratios, grad.flatten().tolist(), strict=True):
        slope = low if ratio <= low else high if ratio >= high else round(ratio) - ratio
        total += change * slope
    return total / math.sqrt(features * high)


@pytest.mark.parametrize("count", [3, 5])
def test_steps_of_windows_against_a_loop(count: int) -> None:
    """N of the gradient's scale is an image's values in all windows, however many images there are."""
    torch.manual_seed(0)
    args = {**SWIN, "img_size": [8, 8]}
    name, bits = "swin_tiny_patch4_window7_224", Bits(quantizer="lsq", activations=4)
    network = create_network(name, class_names=CLASSES, view=GREY, args=args)
    network = quantised(network, bits, images())
    steps = {
        key.removesuffix(".input_quantiser"): module
        for key, module in network.net.named_modules()
        if isinstance(module, LsqActivation)
    }
    assert {key: module.features for key, module in steps.items()} == FEATURES
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        out.retain_grad()
        seen[module] = args[0].detach(), out

    for module in steps.values():
        module.register_forward_hook(note)
    network(images(count)).square().mean().backward()
    for key, module in steps.items():
        x, out = seen[module]
        assert out.grad is not None
        assert module.step.grad is not None
        exact = loop_of_a_step(x, out.grad, module, x.numel() / count)
        assert float(module.step.grad) == pytest.approx(exact, rel=0.01, abs=1e-6), key


class Twice(nn.Module):
    """A layer that sees two maps of different size in a forward, and one that sees no image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Linear(4, 4), nn.Linear(4, 4)
        self.positions, self.fc = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("table", torch.ones(5, 4))
        self.num_features = 4

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(x.flatten(2).view(len(x), -1, 4))
        tokens = self.shared(tokens) + 3 * self.shared(tokens[:, :2] * 8).mean(1, keepdim=True)
        return self.fc(tokens.mean(1) + self.positions(self.table).mean(0))


def test_a_step_of_several_calls_is_of_all_of_them() -> None:
    torch.manual_seed(0)
    network = Network(
        Twice(),
        architecture="mlp_4x1",
        model_args={},
        library="timm",
        class_names=CLASSES,
        input_spec=GREY,
    )
    into: list[Tensor] = []
    handle = network.net.shared.register_forward_pre_hook(lambda _, args: into.append(args[0]))
    with torch.no_grad():
        network(images())
    handle.remove()
    made = quantised(network, Bits(quantizer="lsq", activations=4), images())
    shared = made.net.get_submodule("shared.input_quantiser")
    positions = made.net.get_submodule("positions.input_quantiser")
    assert isinstance(shared, LsqActivation)
    assert isinstance(positions, LsqActivation)
    size = torch.cat([x.flatten() for x in into]).abs().mean().item()
    assert shared.step.item() == pytest.approx(2 * size / math.sqrt(7), rel=1e-5)
    assert (shared.features, positions.features) == (16 * 4 + 2 * 4, 5 * 4)


def test_steps_of_earlier_versions_stay_as_they_were() -> None:
    """A run that 0.8.0 began goes on to the same bits."""
    assert (steps_by_entry_then("0.8.0"), steps_by_entry_then("0.9.0")) == (True, False)
    bits = Bits(quantizer="lsq", activations=4)
    network = quantised(plain("cifar_resnet8"), bits, images(), by_entry=True)
    known = {m.features for m in network.net.modules() if isinstance(m, LsqActivation)}
    assert known == {None}


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
