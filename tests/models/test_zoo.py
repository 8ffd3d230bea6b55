from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.models import InputSpec, create_network, pretrained_teacher, suggested, zoo
from distill_cli.models.small import NETWORKS

GREY = InputSpec(channels=1, height=28, width=28, mean=(0.13,), std=(0.31,))
COLOUR = InputSpec(channels=3, height=32, width=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
CLASSES = ("cat", "dog", "emu")

# At 100 classes, as the distillation literature counts them.
PUBLISHED = {
    "cifar_resnet8": 0.08,
    "cifar_resnet14": 0.18,
    "cifar_resnet20": 0.278324,
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    net = timm.create_model(name, num_classes=100)
    millions = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    decimals = len(str(PUBLISHED[name]).split(".")[1])
    assert round(millions, decimals) == PUBLISHED[name]


def test_hintons_networks() -> None:
    for name, expected in (
        ("mlp_1200x2", 2_395_210),
        ("mlp_800x2", 1_276_810),
        ("mlp_30x2", 24_790),
    ):
        net = create_network(name, class_names=tuple("0123456789"), view=GREY)
        assert net.num_params == expected
        assert net.architecture == "distill_mlp"


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [8, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_our_networks_take_any_size_and_colour(name: str, side: int, channels: int) -> None:
    if name in ("cifar_resnet110", "cifar_resnet32x4", "cifar_resnet44"):
        pytest.skip("the same code as its smaller sisters")
    view = InputSpec(
        channels=channels,
        height=side,
        width=side + 1,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    network = create_network(name, class_names=CLASSES, view=view)
    assert network(torch.rand(2, channels, side, side + 1)).shape == (2, 3)
    assert timm.is_model(name)


def test_timms_conventions() -> None:
    net = timm.create_model("cifar_resnet8", num_classes=7, drop_rate=0.3)
    features = net.forward_features(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, 64, 8, 8)
    assert net.forward_head(features, pre_logits=True).shape == (2, net.num_features)
    net.reset_classifier(4)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    assert isinstance(net.get_classifier(), nn.Linear)
    assert {"cifar_resnet20", "distill_mlp"} <= set(timm.list_models())


def test_dropout_reaches_the_network() -> None:
    network = create_network("mlp_64x2", class_names=CLASSES, view=GREY, dropout=0.5).train()
    images = torch.rand(4, 1, 28, 28)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_a_network_owns_its_normalisation() -> None:
    network = create_network("cifar_resnet8", class_names=CLASSES, view=COLOUR).eval()
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    assert torch.allclose(network(images), network.net((images - mean) / std))
    assert not any(key.startswith(("mean", "std")) for key in network.net.state_dict())


def test_it_computes_in_fp64() -> None:
    network = create_network("mlp_16x1", class_names=CLASSES, view=GREY).eval()
    images = torch.rand(2, 1, 28, 28)
    single, double = network(images), network.double()(images.double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)


def test_grey_and_colour_convert() -> None:
    grey_network = create_network("mlp_8x1", class_names=CLASSES, view=GREY).eval()
    grey = torch.rand(2, 1, 28, 28)
    # Equal channels have the luminance of any of them.
    assert torch.allclose(grey_network(grey), grey_network(grey.expand(-1, 3, -1, -1)), atol=1e-5)
    colour_network = create_network("cifar_resnet8", class_names=CLASSES, view=COLOUR).eval()
    small = torch.rand(2, 1, 32, 32)
    assert torch.allclose(colour_network(small), colour_network(small.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("test_resnet", (3, 32, 32)),
        ("test_vit", (3, 32, 32)),
        ("timm/test_resnet", (3, 32, 32)),
        ("torchvision/squeezenet1_1", (3, 32, 32)),
        ("squeezenet1_1", (3, 32, 32)),
    ],
)
def test_timm_and_torchvision_names(name: str, taken: tuple[int, int, int]) -> None:
    network = create_network(name, class_names=CLASSES, view=COLOUR)
    used = network.input_spec
    assert (used.channels, used.height, used.width) == taken
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_a_size_that_does_not_fit_is_resized_to() -> None:
    """test_vit has 16-pixel patches: it cannot be built for 28 pixels, and keeps its own 160."""
    network = create_network("test_vit", class_names=CLASSES, view=GREY)
    assert (network.input_spec.channels, network.input_spec.height) == (1, 160)
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 3)


def test_weights_come_from_the_seed() -> None:
    def made(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = create_network("test_vit", class_names=CLASSES, view=GREY)
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet1888", "resnet18"),
        ("mlp_0x2", "at least one"),
        ("torchvision/nothing", "no network"),
        ("", "no network"),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        zoo.resolve(name)


def test_unknown_argument() -> None:
    with pytest.raises(UsageError, match="'widht'"):
        create_network("mlp_8x1", class_names=CLASSES, view=GREY, args={"widht": 3})


def test_suggestions_exist() -> None:
    for channels, side in ((1, 8), (1, 28), (3, 32), (3, 224), (1, 200)):
        zoo.resolve(suggested(channels, side, side))


def test_pretrained_weights_from_a_file(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub cannot be reached from tests: a made checkpoint stands in for it."""
    saved = timm.create_model("test_resnet", num_classes=1000)
    path = f"{tmp_path}/weights.pth"
    torch.save(saved.state_dict(), path)
    real = timm.create_model

    def from_file(name: str, **kwargs: object) -> nn.Module:
        if kwargs.get("pretrained"):
            kwargs["pretrained_cfg_overlay"] = {"file": path, "num_classes": 1000}
        return real(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", from_file)
    network = create_network("test_resnet", class_names=CLASSES, view=GREY, pretrained=True)
    own, given = network.net.state_dict(), saved.state_dict()
    head = network.net.pretrained_cfg["classifier"]
    for key, value in own.items():
        if not key.startswith(head):
            assert torch.equal(value, given[key]), key
    assert own[f"{head}.weight"].shape[0] == 3
    assert network.input_spec.channels == 3
    assert network(torch.rand(1, 1, 28, 28)).shape == (1, 3)
    teacher = pretrained_teacher("test_resnet", tuple(map(str, range(1000))))
    assert len(teacher.class_names) == 1000
    other = pretrained_teacher("test_resnet", CLASSES)
    assert len(other.class_names) == 1000, "its own outputs, whatever the data has"


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, **kwargs: object) -> nn.Module:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(ArtifactError, match="no route") as caught:
        create_network("test_resnet", class_names=CLASSES, view=GREY, pretrained=True)
    assert "\n" not in str(caught.value)
