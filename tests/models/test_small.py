"""Our own networks: the literature's sizes, any image, timm's conventions."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from distill_cli.models.small import NETWORKS

# Millions at 100 classes, as the distillation literature prints them.
MILLIONS = {
    "cifar_resnet8": 0.08,
    "cifar_resnet14": 0.18,
    "cifar_resnet20": 0.28,
    "cifar_resnet32": 0.47,
    "cifar_resnet44": 0.67,
    "cifar_resnet56": 0.86,
    "cifar_resnet110": 1.74,
    "cifar_resnet8x4": 1.23,
    "cifar_resnet32x4": 7.43,
    "cifar_wrn_16_1": 0.18,
    "cifar_wrn_16_2": 0.70,
    "cifar_wrn_28_1": 0.38,
    "cifar_wrn_28_2": 1.48,
    "cifar_wrn_40_1": 0.57,
    "cifar_wrn_40_2": 2.26,
}


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items())
def test_parameters_as_published(name: str, millions: float) -> None:
    assert round(count(timm.create_model(name, num_classes=100)) / 1e6, 2) == millions


def test_every_residual_network_is_counted() -> None:
    assert set(MILLIONS) == set(NETWORKS) - {"distill_mlp"}
    assert set(NETWORKS) <= set(timm.list_models())


def test_exact_parameters() -> None:
    assert count(timm.create_model("cifar_resnet20", num_classes=100)) == 278_324
    mlp = timm.create_model("distill_mlp", width=800, depth=2, img_size=28, in_chans=1)
    assert count(mlp) == 785 * 800 + 801 * 800 + 801 * 10


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_any_image(name: str, in_chans: int) -> None:
    for side in (8, 28, 32) if name != "cifar_resnet110" else (8,):
        sized = {"img_size": side} if name == "distill_mlp" else {}
        net = timm.create_model(name, num_classes=7, in_chans=in_chans, **sized).eval()
        x_BCHW = torch.rand(2, in_chans, side, side)
        feat = net.forward_features(x_BCHW)
        assert feat.shape[:2] == (2, net.num_features)
        pooled = net.forward_head(feat, pre_logits=True)
        assert pooled.shape == (2, net.num_features)
        assert torch.equal(net.get_classifier()(pooled), net(x_BCHW))
        assert net(x_BCHW).shape == (2, 7)


def test_mlp_of_an_oblong_image() -> None:
    net = timm.create_model("distill_mlp", width=5, depth=1, img_size=(8, 12), in_chans=3)
    assert net(torch.rand(2, 3, 8, 12)).shape == (2, 10)


@pytest.mark.parametrize("name", ["distill_mlp", "cifar_resnet8", "cifar_wrn_16_1"])
def test_timms_conventions(name: str) -> None:
    net = timm.create_model(name, num_classes=5)
    modules = dict(net.named_modules())
    assert isinstance(modules[net.pretrained_cfg["first_conv"]], nn.Conv2d | nn.Linear)
    assert modules[net.pretrained_cfg["classifier"]] is net.get_classifier()
    net.reset_classifier(3)
    assert net.num_classes == 3
    assert net.get_classifier().out_features == 3
    net.reset_classifier(0)
    x_BCHW = torch.rand(2, *net.pretrained_cfg["input_size"])
    assert net(x_BCHW).shape == (2, net.num_features)


@pytest.mark.parametrize("name", ["distill_mlp", "cifar_resnet8", "cifar_wrn_16_1"])
def test_dropout_in_training_only(name: str) -> None:
    net = timm.create_model(name, drop_rate=0.5)
    x_BCHW = torch.rand(4, *net.pretrained_cfg["input_size"])
    pooled = net.eval().forward_features(x_BCHW)
    dropped: Tensor = net.train().forward_head(pooled, pre_logits=True)
    again = net.forward_head(pooled, pre_logits=True)
    assert not torch.equal(dropped, again)
    net.eval()
    assert torch.equal(net(x_BCHW), net(x_BCHW))


def test_mlp_drops_out_between_its_layers() -> None:
    net = timm.create_model("distill_mlp", width=32, depth=2, drop_rate=0.5).train()
    x_BCHW = torch.rand(2, 1, 28, 28)
    assert not torch.equal(net.forward_features(x_BCHW), net.forward_features(x_BCHW))


def test_hooks_see_an_mlps_activated_layers() -> None:
    net = timm.create_model("distill_mlp", width=16, depth=3).eval()
    assert set(net.state_dict()) == {
        f"{layer}.{kind}"
        for layer in ("layers.0", "layers.1", "layers.2", "fc")
        for kind in ("weight", "bias")
    }
    seen: list[Tensor] = []
    for activation in net.activations:
        activation.register_forward_hook(lambda module, inputs, out: seen.append(out))
    x = torch.rand(2, 1, 28, 28)
    feat = net.forward_features(x)
    assert [out.shape for out in seen] == [(2, 16)] * 3
    assert torch.equal(seen[0], net.layers[0](x.flatten(1)).clamp(min=0))
    assert torch.equal(seen[1], net.layers[1](seen[0]).clamp(min=0))
    assert torch.equal(seen[2], feat)


def test_input_dropout_reaches_the_pixels() -> None:
    net = timm.create_model("distill_mlp", width=4, depth=1, input_dropout=0.2).train()
    x_BCHW = torch.rand(2, 1, 28, 28)
    assert not torch.equal(net(x_BCHW), net(x_BCHW))


def test_convolutions_start_as_he_says() -> None:
    net = timm.create_model("cifar_resnet8x4")
    conv = net.stages[2][0].conv1
    assert conv.weight.shape[:2] == (256, 128)
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("distill_mlp", {"width": 0}),
        ("distill_mlp", {"depth": 0}),
        ("cifar_resnet20", {"depth": 21}),
        ("cifar_wrn_16_1", {"depth": 18}),
        ("cifar_wrn_16_1", {"widen": 0}),
    ],
)
def test_impossible_shapes(name: str, args: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|depth is"):
        timm.create_model(name, **args)
