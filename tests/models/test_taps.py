"""What a layer puts out, against timm's own account of it and against hooks written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_cli.errors import UsageError
from distill_cli.models import InputSpec, Network, create_network, save_model
from distill_cli.models.taps import (
    Tap,
    last_map,
    middle,
    shape_of,
    signals_of,
    stage_ends,
    taps_of,
)
from distill_cli.types import PENULTIMATE
from tests.conftest import Outcome

SWIN = {
    **{"embed_dim": 8, "depths": (1, 1, 2), "num_heads": (1, 2, 4)},
    **{"patch_size": 2, "window_size": 4},
}
TIMM = {
    "test_resnet": {},
    "test_vit": {},
    "test_vit3": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_mambaout": {},
    "swin_tiny_patch4_window7_224": SWIN,
    "mixer_s32_224": {},
}
OURS = ("cifar_resnet8", "mlp_8x1", "fitnet_1")


def made(name: str, size: tuple[int, int] = (32, 32), seed: int = 0, **args: Any) -> Network:
    view = InputSpec(channels=3, height=size[0], width=size[1], mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.manual_seed(seed)
    given = {**TIMM.get(name, {}), **args}
    return create_network(name, class_names=("a", "b", "c"), view=view, args=given)


def images(rows: int = 2, size: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.rand(rows, 3, *size, generator=torch.Generator().manual_seed(1))


def normalised(network: Network, images_BCHW: Tensor) -> Tensor:
    return (network.fitted(images_BCHW) - network.mean) / network.std


def hooks_of(network: Network) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def all_by_hand(network: Network, images_BCHW: Tensor, names: list[str]) -> dict[str, Tensor]:
    """The outputs of modules, copied when they appear."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, out: Tensor) -> None:
        assert name not in seen
        seen[name] = out.detach().clone()

    handles = [
        network.net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: keep(name, out)
        )
        for name in names
    ]
    with torch.no_grad():
        network(images_BCHW)
    for handle in handles:
        handle.remove()
    return seen


def by_hand(network: Network, images_BCHW: Tensor, name: str) -> Tensor:
    return all_by_hand(network, images_BCHW, [name])[name]


@pytest.mark.parametrize("name", TIMM)
def test_maps_are_timms_intermediates(name: str) -> None:
    network = made(name).eval()
    names = [info["module"] for info in network.net.feature_info]
    with torch.no_grad():
        theirs = network.net.forward_intermediates(
            normalised(network, images()), output_fmt="NCHW", intermediates_only=True, norm=False
        )
        ours = signals_of(network, images(), names).features
    assert len(theirs) == len(names)
    known = {tap.name: tap for tap in taps_of(network)}
    for module, expected in zip(names, theirs, strict=True):
        # swin's stages put out channels-last maps; vits' blocks tokens with a class token.
        assert torch.equal(ours[module], expected), module
        assert (known[module].channels, known[module].height, known[module].width) == tuple(
            expected.shape[1:]
        )


@pytest.mark.parametrize("name", [*TIMM, *OURS])
def test_every_tap_is_what_its_module_put_out(name: str) -> None:
    network = made(name).eval()
    taps = taps_of(network)
    assert taps[-1].name == PENULTIMATE
    assert len({tap.name for tap in taps}) == len(taps)
    with torch.no_grad():
        plain = network(images())
        said = signals_of(network, images(), [tap.name for tap in taps])
    assert torch.equal(said.logits_BK, plain)
    seen = all_by_hand(network, images(), [tap.name for tap in taps[:-1]])
    probed = all_by_hand(network, noise(network), [tap.name for tap in taps[:-1]])
    for tap in taps[:-1]:
        expected = seen[tap.name]
        got = said.features[tap.name]
        assert got.shape == (2, tap.channels, tap.height, tap.width)
        # The same numbers, whatever the layout; a token or two may be left out.
        if expected.numel() == got.numel():
            assert torch.equal(expected.flatten().sort().values, got.flatten().sort().values)
        else:
            tokens = expected[:, int(network.net.num_prefix_tokens) :]
            assert torch.equal(tokens.transpose(1, 2), got.flatten(2))
        assert tap.rectified == (probed[tap.name].min() >= 0)
    assert [tap.depth for tap in taps] == sorted(tap.depth for tap in taps)
    assert taps[-1].depth == 1
    for tap in (taps[0], taps[len(taps) // 2]):
        with torch.no_grad():
            stopped = signals_of(network, images(), [tap.name], stop=True)
        assert torch.equal(stopped.features[tap.name], said.features[tap.name])
        assert shape_of(network, tap.name) == Tap(**{**vars(tap), "depth": 0.0})


def noise(network: Network) -> Tensor:
    return torch.rand(2, *network.input_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*TIMM, "test_byobnet", "test_nfnet", "mobilenetv4_conv_small"])
def test_penultimate_is_what_timm_calls_pre_logits(name: str) -> None:
    network = made(name).eval()
    with torch.no_grad():
        features = network.net.forward_features(normalised(network, images()))
        expected = network.net.forward_head(features, pre_logits=True)
        got = signals_of(network, images(), [PENULTIMATE]).features[PENULTIMATE]
        stopped = signals_of(network, images(), [PENULTIMATE], stop=True)
    assert torch.equal(got[:, :, 0, 0], expected.flatten(1))
    assert torch.equal(stopped.features[PENULTIMATE], got)
    assert stopped.logits is None


@pytest.mark.parametrize("name", OURS)
def test_penultimate_gives_the_logits_of_our_networks(name: str) -> None:
    network = made(name).eval()
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        said = signals_of(network, images(), [PENULTIMATE])
        assert torch.equal(last(said.features[PENULTIMATE].flatten(1)), said.logits_BK)


@pytest.mark.parametrize("name", ["test_mambaout", "test_convnext", "torchvision/alexnet"])
def test_logits_are_no_tap(name: str) -> None:
    network = made(name, (64, 64)).eval()
    with torch.no_grad():
        logits = network(noise(network))
    names = [tap.name for tap in taps_of(network)[:-1]]
    for name, seen in all_by_hand(network, noise(network), names).items():
        assert seen.shape != logits.shape or not torch.equal(seen, logits), name


@pytest.mark.parametrize(
    ("args", "prefix"),
    [
        ({}, 1),
        ({"dynamic_img_size": False}, 1),
        ({"reg_tokens": 2}, 3),
        ({"class_token": False, "global_pool": "avg"}, 0),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (16, 40), (48, 32)])
def test_class_and_register_tokens_are_dropped(
    args: dict[str, Any], prefix: int, size: tuple[int, int]
) -> None:
    """16×40 has a grid of 2×5 patches: ten, which without one are a square."""
    network = made("test_vit", size, **args, patch_size=8).eval()
    grid = (size[0] // 8, size[1] // 8)
    tokens = by_hand(network, images(size=size), "blocks.1")
    assert tokens.shape[1] == prefix + grid[0] * grid[1]
    with torch.no_grad():
        said = signals_of(network, images(size=size), ["blocks.1", "patch_embed"]).features
    for row in range(grid[0]):
        for column in range(grid[1]):
            token = tokens[:, prefix + row * grid[1] + column]
            assert torch.equal(said["blocks.1"][:, :, row, column], token)
    patches = by_hand(network, images(size=size), "patch_embed")
    assert said["patch_embed"].shape[2:] == grid
    assert torch.equal(said["patch_embed"].flatten(2), patches.flatten(1, -2).transpose(1, 2))


@pytest.mark.parametrize("size", [(32, 16), (16, 8), (24, 40)])
def test_maps_that_are_not_square_keep_their_layout(size: tuple[int, int]) -> None:
    """On images of 16×8 the first maps of cifar_resnet8 have 16 channels and 16 rows."""
    network = made("cifar_resnet8", size).eval()
    for tap in taps_of(network)[:-1]:
        expected = by_hand(network, images(size=size), tap.name)
        with torch.no_grad():
            got = signals_of(network, images(size=size), [tap.name]).features[tap.name]
        assert torch.equal(got, expected)
        assert (tap.channels, tap.height, tap.width) == tuple(expected.shape[1:])


def test_channels_last_maps_that_are_not_square() -> None:
    network = made("test_mambaout", (64, 128)).eval()
    for name, channels, height, width in (("stages.0", 16, 16, 32), ("stages.2", 48, 4, 8)):
        expected = by_hand(network, images(size=(64, 128)), name).permute(0, 3, 1, 2)
        with torch.no_grad():
            got = signals_of(network, images(size=(64, 128)), [name]).features[name]
        assert got.shape == (2, channels, height, width)
        assert torch.equal(got, expected)


def buffers(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.net.named_buffers()}


def test_stop_leaves_what_lies_behind_untouched() -> None:
    network = made("cifar_resnet8").train()
    before = buffers(network)
    said = signals_of(network, images(), ["stages.0", "stages.1"], stop=True)
    assert said.logits is None
    assert set(said.features) == {"stages.0", "stages.1"}
    sum(map_BCHW.sum() for map_BCHW in said.features.values()).backward()
    after = buffers(network)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("stages.2")}.isdisjoint(moved)
    wanted = {n for n in before if n.startswith(("bn1", "stages.0", "stages.1"))}
    assert moved == wanted, "running means, variances and counts before it have all moved"
    for name, parameter in network.net.named_parameters():
        reached = name.startswith(("conv1", "bn1", "stages.0", "stages.1"))
        assert (parameter.grad is not None) == reached, name


def test_without_stop_everything_is_reached() -> None:
    network = made("cifar_resnet8").train()
    before = buffers(network)
    assert signals_of(network, images(), ["stages.0"]).logits is not None
    assert all(not torch.equal(before[n], now) for n, now in buffers(network).items())


def test_features_are_differentiable_and_wide() -> None:
    network = made("mlp_8x1")
    with torch.autocast("cpu", torch.bfloat16):
        said = signals_of(network, images(), ["layers.0", PENULTIMATE])
    assert {f.dtype for f in (*said.features.values(), said.logits_BK)} == {torch.float32}
    assert all(f.requires_grad for f in said.features.values())


def test_an_in_place_rectifier_does_not_change_what_was_seen() -> None:
    network = made("resnet18").eval()
    assert isinstance(network.net.act1, nn.ReLU)
    assert network.net.act1.inplace
    with torch.no_grad():
        said = signals_of(network, images(), ["bn1", "act1", "layer1.0.bn2"])
    assert said.features["bn1"].min() < 0
    assert torch.equal(said.features["bn1"].relu(), said.features["act1"])
    assert torch.equal(said.features["layer1.0.bn2"], by_hand(network, images(), "layer1.0.bn2"))
    taps = {tap.name: tap for tap in taps_of(network)}
    assert not taps["bn1"].rectified
    assert taps["act1"].rectified


def test_no_hooks_remain() -> None:
    network = made("cifar_resnet8")
    taps_of(network)
    signals_of(network, images(), ["stages.0", PENULTIMATE])
    signals_of(network, images(), ["stages.0"], stop=True)
    assert hooks_of(network) == 0
    for name in ("stages.9", "fc.nothing"):
        with pytest.raises(UsageError):
            signals_of(network, images(), ["stages.0", name])
    with pytest.raises(RuntimeError):
        signals_of(network, torch.rand(2, 7, 32, 32), ["stages.0", PENULTIMATE])
    assert hooks_of(network) == 0


@pytest.mark.parametrize(
    ("architecture", "name", "nearest"),
    [
        ("cifar_resnet8", "stages.3", "stages.2"),
        ("cifar_resnet8", "stage.0", "stages.0"),
        ("test_vit", "block.3", "blocks.3"),
        ("fitnet_1", "layer.4", "layers.4"),
    ],
)
def test_an_unknown_layer_is_answered_with_the_nearest(
    architecture: str, name: str, nearest: str
) -> None:
    network = made(architecture)
    for ask in (
        lambda: signals_of(network, images(), [name]),
        lambda: shape_of(network, name),
    ):
        with pytest.raises(UsageError, match=f"no layer '{name}'") as raised:
            ask()
        assert f"'{nearest}'" in str(raised.value)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("mlp_8x1", "layers"),  # a list: it is never called
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.qkv"),  # a row a window
    ],
)
@pytest.mark.parametrize("stop", [False, True])
def test_a_layer_without_features_is_refused(architecture: str, name: str, stop: bool) -> None:
    network = made(architecture)
    with pytest.raises(UsageError, match="puts out no features"):
        signals_of(network, images(), [name], stop=stop)
    with pytest.raises(UsageError, match="puts out no features"):
        shape_of(network, name)
    assert network.training
    assert hooks_of(network) == 0


@pytest.mark.parametrize("ask", [taps_of, lambda net: shape_of(net, "stages.1")])
def test_modes_are_restored(ask: Callable[[Network], object]) -> None:
    network = made("cifar_resnet8")
    for training in (True, False):
        network.train(training)
        # A part that is frozen in eval mode stays so.
        network.net.bn1.train(not training)
        modes = [module.training for module in network.modules()]
        before, state = buffers(network), torch.get_rng_state()
        ask(network)
        assert [module.training for module in network.modules()] == modes
        assert all(torch.equal(before[n], now) for n, now in buffers(network).items())
        assert torch.equal(torch.get_rng_state(), state)
    network.train()
    with pytest.raises(UsageError):
        shape_of(network, "nothing")
    assert network.training


def tap(name: str, side: int, depth: float) -> Tap:
    return Tap(name=name, channels=4, height=side, width=side, depth=depth, rectified=True)


def test_middle() -> None:
    assert middle([tap("a", 8, 0.4), tap("b", 8, 0.6), tap("penultimate", 1, 1.0)]).name == "b"
    assert middle([tap("a", 8, 0.1), tap("v", 1, 0.5), tap("penultimate", 1, 1.0)]).name == "a"
    assert middle([tap("v", 1, 0.3), tap("penultimate", 1, 1.0)]).name == "v"
    assert middle([tap("penultimate", 1, 1.0)]).name == "penultimate"
    # Of equals the later: a rectifier counts as deep as the layer before it.
    assert middle([tap("conv", 8, 0.5), tap("act", 8, 0.5)]).name == "act"
    assert middle(taps_of(made("cifar_resnet8"))).name == "stages.1"
    assert middle(taps_of(made("test_vit3"))).name == "blocks.4"


def test_stage_ends() -> None:
    names = [tap.name for tap in stage_ends(taps_of(made("cifar_resnet8")))]
    assert names == ["stages.0", "stages.1", "stages.2"]
    names = [tap.name for tap in stage_ends(taps_of(made("test_vit3", img_size=64)))]
    assert names == ["blocks.2", "blocks.6", "norm"]
    flat = [tap("a", 4, 0.5), tap("b", 4, 0.9), tap(PENULTIMATE, 1, 1.0)]
    assert [t.name for t in stage_ends(flat)] == ["a", "b"]
    assert [t.name for t in stage_ends([tap("v", 1, 0.5), tap(PENULTIMATE, 1, 1.0)])] == ["v"]


def test_last_map() -> None:
    assert last_map(taps_of(made("cifar_resnet8"))).name == "stages.2"
    assert last_map(taps_of(made("mlp_8x1"))).name == PENULTIMATE


def test_the_command_lists_them(tmp_path: Path, distill: Callable[..., Outcome]) -> None:
    network = made("cifar_resnet8")
    save_model(network, tmp_path / "m")
    for args in (("cifar_resnet8",), (tmp_path / "m",)):
        outcome = distill("models", "taps", *args, "--json")
        assert outcome.code == 0, outcome.err
        said = json.loads(outcome.out)
        assert said["middle"] == "stages.1"
        assert [t["name"] for t in said["taps"]] == [t.name for t in taps_of(network)]
        assert said["taps"][0]["shape"] == [16, 32, 32]
    outcome = distill("models", "taps", "cifar_resnet8", "--size", 16, "--channels", 1)
    assert "← middle" in outcome.out
    assert "16 × 16 × 16" in outcome.out
    assert distill("models", "taps", "cifar_resnet8", "--channels", 2).code == 2
    assert distill("models", "taps", "resnet5000").code == 2
    assert distill("models", "taps", tmp_path).code == 3
