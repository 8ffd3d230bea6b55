"""FitNets' networks: the paper's sizes and depths, any image, timm's conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from distill_cli.models import (
    InputSpec,
    create_network,
    load_model,
    names,
    network_fingerprint,
    save_model,
)
from distill_cli.models.fitnets import (
    NETWORKS,
    STAGES,
    ConvMaxout,
    Maxout,
    second_moment,
)

# Weights without biases at 10 classes: with two pieces in the fully connected layer, with five.
# Table 5 of the paper has 250 K, 862 K, 1.6 M and 2.5 M.
WEIGHTS = {
    "fitnet_1": (249_576, 345_576),
    "fitnet_2": (861_928, 1_053_928),
    "fitnet_3": (1_503_304, 1_695_304),
    "fitnet_4": (2_544_712, 2_736_712),
}
LAYERS = {"fitnet_1": 11, "fitnet_2": 11, "fitnet_3": 13, "fitnet_4": 19}
# Where the last convolution that the paper guides, and its pooling, end.
GUIDED = {
    "fitnet_1": ("layers.7", 32),
    "fitnet_2": ("layers.7", 80),
    "fitnet_3": ("layers.9", 80),
    "fitnet_4": ("layers.12", 80),
}
CLASSES = ("cat", "dog", "emu")


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter for parameter in net.parameters() if parameter.ndim > 1]


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in weights(net))


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_as_many_as_published(name: str) -> None:
    assert count(timm.create_model(name)) == WEIGHTS[name][0]
    assert count(timm.create_model(name, fc_pieces=5)) == WEIGHTS[name][1]


def test_exact_parameters() -> None:
    def total(**args: Any) -> int:
        return sum(p.numel() for p in timm.create_model("fitnet_1", **args).parameters())

    units = sum(sum(stage) for stage in STAGES["fitnet_1"])
    assert total() == 249_576 + 2 * units + 2 * 500 + 10
    # Batch norm has a scale and a shift in the place of a bias.
    assert total(batch_norm=True) == total() + 2 * units
    halves = (249_576 - 5000) // 2 + 5000
    assert total(pieces=1) == halves + units + 500 + 10


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_layers(name: str, batch_norm: bool) -> None:
    net = timm.create_model(name, batch_norm=batch_norm)
    assert len(weights(net)) == LAYERS[name]
    assert sum(isinstance(m, ConvMaxout) for m in net.layers) == LAYERS[name] - 2
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == (
        LAYERS[name] - 2 if batch_norm else 0
    )


def test_all_are_known() -> None:
    assert set(WEIGHTS) == set(NETWORKS)
    assert set(NETWORKS) <= set(timm.list_models()) & set(names())


@pytest.mark.parametrize("name", NETWORKS)
def test_any_image(name: str) -> None:
    for in_chans, side in ((3, 32), (1, 28), (1, 4)):
        net = timm.create_model(name, num_classes=7, in_chans=in_chans).eval()
        x_BCHW = torch.rand(2, in_chans, side, side)
        feat = net.forward_features(x_BCHW)
        assert feat.shape == (2, net.num_features, side // 4, side // 4)
        pooled = net.forward_head(feat, pre_logits=True)
        assert pooled.shape == (2, net.head_hidden_size) == (2, 500)
        assert torch.equal(net.get_classifier()(pooled), net(x_BCHW))
        assert net(x_BCHW).shape == (2, 7)


@pytest.mark.parametrize("name", GUIDED)
def test_hooks_see_every_layer(name: str) -> None:
    net = timm.create_model(name).eval()
    seen: dict[str, Tensor] = {}
    for key, module in net.named_modules():
        if key.count(".") == 1 and key.startswith("layers."):
            module.register_forward_hook(lambda m, i, out, key=key: seen.__setitem__(key, out))
    x_BCHW = torch.rand(2, 3, 32, 32)
    feat = net.forward_features(x_BCHW)
    assert len(seen) == LAYERS[name]  # two poolings are as many as the two that are no convolution
    guided, channels = GUIDED[name]
    assert seen[guided].shape == (2, channels, 8, 8)
    assert isinstance(net.get_submodule(guided), nn.MaxPool2d)
    assert torch.equal(list(seen.values())[-1], feat)


def test_maxout_by_hand() -> None:
    x_BCHW = torch.randn(2, 6, 3, 3)
    expected = torch.maximum(x_BCHW[:, :3], x_BCHW[:, 3:])
    assert torch.equal(Maxout(2)(x_BCHW), expected)
    assert Maxout(3)(x_BCHW[..., 0, 0]).shape == (2, 2)


def test_one_piece_is_relu() -> None:
    net = timm.create_model("fitnet_1", pieces=1)
    assert not any(isinstance(module, Maxout) for module in net.modules())
    assert net.forward_features(torch.randn(2, 3, 32, 32)).min() >= 0
    mixed = timm.create_model("fitnet_1", pieces=1, fc_pieces=5)
    assert [m.pieces for m in mixed.modules() if isinstance(m, Maxout)] == [5]


@pytest.mark.parametrize("width", [0.01, 0.25, 0.3, 2])
def test_width(width: float) -> None:
    net = timm.create_model("fitnet_4", width=width)
    channels = [m.conv.out_channels // 2 for m in net.layers if isinstance(m, ConvMaxout)]
    wanted = [channels for stage in STAGES["fitnet_4"] for channels in stage]
    assert channels == [max(4, round(width * wide)) for wide in wanted]
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert len(weights(net)) == 19


def test_moments_of_maxima() -> None:
    # By hand: of two, 1; of three, 1 + √3 / 2π.
    assert second_moment(1) == 0.5
    assert second_moment(2) == pytest.approx(1)
    assert second_moment(3) == pytest.approx(1 + 3**0.5 / (2 * torch.pi))


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_activations_and_gradients_reach_the_ends(pieces: int, batch_norm: bool) -> None:
    torch.manual_seed(0)
    net = timm.create_model("fitnet_4", width=0.5, pieces=pieces, batch_norm=batch_norm)
    x_BCHW = torch.randn(8, 3, 32, 32)
    size = net.forward_features(x_BCHW).pow(2).mean().sqrt().item()
    assert 0.1 < size < 10
    nn.functional.cross_entropy(net(x_BCHW), torch.arange(8)).backward()
    first = net.layers[0].conv.weight.grad
    assert first.isfinite().all()
    assert first.norm() > 1e-3
    assert all(weight.grad is not None for weight in net.parameters())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_learns(batch_norm: bool) -> None:
    torch.manual_seed(0)
    net = timm.create_model("fitnet_1", width=0.5, batch_norm=batch_norm, num_classes=2)
    y_B = torch.arange(32) % 2
    x_BCHW = torch.randn(32, 3, 16, 16) + (2.0 * y_B - 1)[:, None, None, None]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(x_BCHW), y_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("fitnet_1", {}),
        ("fitnet_2", {"batch_norm": True}),
        ("fitnet_3", {"pieces": 1, "width": 0.3}),
        ("fitnet_4", {"width": 0.25, "fc_pieces": 5}),
    ],
)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_round_trip(
    tmp_path: Path, name: str, args: dict[str, Any], channels: int, side: int
) -> None:
    view = InputSpec(
        channels=channels,
        height=side,
        width=side,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
    )
    torch.manual_seed(0)
    network = create_network(name, class_names=CLASSES, view=view, args=args, dropout=0.25).eval()
    assert network.input_spec == view
    save_model(network, tmp_path / "model")
    images_BCHW = torch.rand(2, channels, side, side)
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded(images_BCHW), network(images_BCHW))
    assert network_fingerprint(loaded) == network_fingerprint(network)
    assert (loaded.architecture, loaded.class_names) == (name, CLASSES)
    net = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    normalised = (images_BCHW - network.mean) / network.std
    assert torch.equal(net(normalised), network(images_BCHW))
    assert net.pretrained_cfg["label_names"] == list(CLASSES)


def test_timms_conventions() -> None:
    net = timm.create_model("fitnet_1", num_classes=5, drop_rate=0.5)
    modules = dict(net.named_modules())
    assert isinstance(modules[net.pretrained_cfg["first_conv"]], nn.Conv2d)
    assert modules[net.pretrained_cfg["classifier"]] is net.get_classifier()
    x_BCHW = torch.rand(2, *net.pretrained_cfg["input_size"])
    feat = net.forward_features(x_BCHW)
    dropped = net.forward_head(feat, pre_logits=True)
    assert not torch.equal(dropped, net.forward_head(feat, pre_logits=True))
    net.eval()
    assert torch.equal(net(x_BCHW), net(x_BCHW))
    net.reset_classifier(3)
    assert net.num_classes == 3
    assert net(x_BCHW).shape == (2, 3)
    net.reset_classifier(0)
    assert net(x_BCHW).shape == (2, 500)


@pytest.mark.parametrize(
    "args", [{"pieces": 0}, {"fc_pieces": 0}, {"hidden": 0}, {"width": 0}, {"width": -1.0}]
)
def test_impossible_shapes(args: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        timm.create_model("fitnet_1", **args)
