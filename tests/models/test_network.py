"""A network owns its normalisation, its channels and its size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill_cli.models import InputSpec, Network, create_network

GREY = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.2,))
COLOUR = InputSpec(channels=3, height=32, width=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
CLASSES = ("cat", "dog", "eel")


def seen(channels: int, side: int, images_BCHW: Tensor) -> Tensor:
    """What a network of this input is given, normalisation aside."""
    spec = InputSpec(
        channels=channels, height=side, width=side, mean=(0.0,) * channels, std=(1.0,) * channels
    )
    network = Network(
        nn.Identity(),
        architecture="none",
        model_args={},
        library="timm",
        class_names=CLASSES,
        input_spec=spec,
    )
    result: Tensor = network(images_BCHW)
    return result


@pytest.mark.parametrize("view", [GREY, COLOUR])
def test_it_normalises(view: InputSpec) -> None:
    network = create_network("cifar_resnet8", class_names=CLASSES, view=view).eval()
    images_BCHW = torch.rand(3, view.channels, view.height, view.width)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (view.mean, view.std))
    assert torch.equal(network(images_BCHW), network.net((images_BCHW - mean) / std))
    assert network.input_size == (view.channels, view.height, view.width)


def test_normalisation_is_not_among_the_weights() -> None:
    network = create_network("mlp_4x1", class_names=CLASSES, view=GREY)
    assert {name.split(".")[0] for name in network.state_dict()} == {"net"}
    assert network.num_params == 64 * 4 + 4 + 4 * 3 + 3


def test_fp64() -> None:
    network = create_network("cifar_resnet8", class_names=CLASSES, view=COLOUR).eval()
    images_BCHW = torch.rand(2, 3, 32, 32)
    single = network(images_BCHW)
    double = network.double()(images_BCHW.double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)


def test_grey_is_repeated() -> None:
    images_BCHW = torch.rand(2, 1, 8, 8)
    assert torch.equal(seen(3, 8, images_BCHW), images_BCHW.repeat(1, 3, 1, 1))


def test_colour_becomes_luminance() -> None:
    pure_BCHW = torch.eye(3).view(3, 3, 1, 1).repeat(1, 1, 8, 8)
    assert torch.allclose(
        seen(1, 8, pure_BCHW).amax(dim=(1, 2, 3)), torch.tensor([0.299, 0.587, 0.114])
    )


def test_there_and_back_is_the_same_grey() -> None:
    images_BCHW = torch.rand(2, 1, 8, 8)
    assert torch.allclose(seen(1, 8, seen(3, 8, images_BCHW)), images_BCHW, atol=1e-6)


def test_only_another_size_is_resized() -> None:
    images_BCHW = torch.rand(2, 1, 16, 16)
    assert torch.equal(seen(1, 16, images_BCHW), images_BCHW)
    halved = seen(1, 8, images_BCHW)
    assert halved.shape == (2, 1, 8, 8)
    assert torch.allclose(halved.mean(), images_BCHW.mean(), atol=0.02)
    assert torch.allclose(seen(1, 8, torch.full((1, 1, 30, 20), 0.4)), torch.tensor(0.4))


@pytest.mark.parametrize("column", range(8, 12))
def test_no_pixel_falls_through_when_an_image_shrinks(column: int) -> None:
    images_BCHW = torch.zeros(1, 1, 32, 32)
    images_BCHW[..., column] = 1
    assert seen(1, 8, images_BCHW).mean() == pytest.approx(1 / 32, rel=0.01)


def test_a_constant_image_gives_the_same_at_any_size() -> None:
    network = create_network("mlp_4x1", class_names=CLASSES, view=GREY).eval()
    small, large = (network(torch.full((1, 1, side, side), 0.5)) for side in (8, 24))
    assert torch.allclose(small, large, atol=1e-5)
