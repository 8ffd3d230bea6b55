"""Networks by name: ours, timm's, torchvision's; what cannot be built is refused in one line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import _registry

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.models import (
    InputSpec,
    Network,
    build,
    create_network,
    names,
    suggested,
    weights_at_hand,
)
from distill_cli.models.zoo import pretrained_teacher, resolve

GREY = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.2,))
COLOUR = InputSpec(channels=3, height=32, width=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
CLASSES = ("cat", "dog", "eel")


def made(name: str, view: InputSpec = GREY, **more: Any) -> Network:
    return create_network(name, class_names=CLASSES, view=view, **more)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("mlp_30x2", "distill_mlp"),
        ("cifar_resnet8", "cifar_resnet8"),
        ("test_resnet", "test_resnet"),
        ("timm/test_resnet", "test_resnet"),
        ("test_resnet.r160_in1k", "test_resnet"),
        ("torchvision/mobilenet_v3_small", "torchvision/mobilenet_v3_small"),
        ("squeezenet1_1", "torchvision/squeezenet1_1"),
    ],
)
@pytest.mark.parametrize("view", [GREY, COLOUR])
def test_names(name: str, architecture: str, view: InputSpec) -> None:
    network = made(name, view).eval()
    assert network.architecture == architecture
    assert network.class_names == CLASSES
    images_BCHW = torch.rand(2, view.channels, view.height, view.width)
    assert network(images_BCHW).shape == (2, 3)
    expected = view.mean * 3 if network.library == "torchvision" and len(view.mean) == 1 else None
    assert network.input_spec.mean == (expected or view.mean)


def test_mlp_arguments() -> None:
    network = made("mlp_30x2", COLOUR, args={"input_dropout": 0.1}, dropout=0.3)
    assert network.model_args == {
        **{"width": 30, "depth": 2, "in_chans": 3, "img_size": [32, 32]},
        **{"input_dropout": 0.1, "drop_rate": 0.3},
    }


def test_all_names_resolve() -> None:
    every = names()
    assert len(every) == len(set(every)) > 1000
    for name in every[::50]:
        resolve(name)


def test_fixed_size_networks_are_built_for_the_view_where_they_can() -> None:
    assert made("test_vit", COLOUR).input_size == (3, 32, 32)
    assert made("test_vit", GREY).input_size == (1, 160, 160)
    assert made("mlp_4x1", args={"img_size": [16, 16]}).input_size == (1, 16, 16)


def test_a_network_that_fails_oddly_on_a_size_keeps_its_own() -> None:
    # Dividing by its zero windows, this one raises ZeroDivisionError at 8 pixels.
    network = made("maxvit_nano_rw_256")
    assert network.input_size == (1, 256, 256)


def test_googlenet_gives_plain_logits_in_training() -> None:
    network = made("googlenet").train()
    logits_BK = network(torch.rand(2, 1, 8, 8))
    assert isinstance(logits_BK, torch.Tensor)
    again = made("googlenet", args=network.model_args)
    assert again.model_args == network.model_args


def test_torchvisions_own_arguments() -> None:
    half = made("torchvision/mobilenet_v3_small", args={"width_mult": 0.5}, dropout=0.1)
    assert half.num_params < made("torchvision/mobilenet_v3_small").num_params
    assert half.model_args == {"width_mult": 0.5, "dropout": 0.1}


def test_weights_follow_the_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(made("test_vit").net.state_dict())
    same, other = ([torch.equal(states[0][k], s[k]) for k in s] for s in states[1:])
    assert all(same)
    assert not all(other)


def test_a_size_tried_in_vain_leaves_no_trace_in_the_weights() -> None:
    torch.manual_seed(5)
    network = made("torchvision/squeezenet1_1")  # built at 8 pixels first, where it cannot run
    assert network.input_size == (3, 224, 224)
    torch.manual_seed(5)
    plain = torchvision.models.squeezenet1_1(num_classes=3).state_dict()
    assert all(torch.equal(plain[key], value) for key, value in network.net.state_dict().items())


@pytest.mark.parametrize(
    ("channels", "side", "name"),
    [
        (1, 8, "mlp_64x1"),
        (1, 28, "mlp_256x2"),
        (3, 32, "cifar_resnet20"),
        (1, 64, "cifar_resnet20"),
        (3, 224, "resnet18"),
    ],
)
def test_suggested(channels: int, side: int, name: str) -> None:
    assert suggested(channels, side, side) == name
    resolve(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnt18", "Did you mean 'resnet18'?"),
        ("cifar_resnet21", "no network 'cifar_resnet21'"),
        ("torchvision/resnet", "no network"),
        ("torchvision/deeplabv3_resnet50", "no network"),
        ("hf-hub:timm/resnet18", "no network"),
        ("local-dir:somewhere", "no network"),
        ("resnet18.nope", "no weights tagged"),
        ("mlp_0x2", "at least one layer"),
        ("", "no network"),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("?", r"\?")) as caught:
        made(name)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("test_resnet", {"foo": 1}),
        ("test_resnet", {"block": "x"}),
        ("test_resnet", {"features_only": True}),
        ("test_resnet", {"num_classes": 4}),
        ("test_resnet", {"checkpoint_path": "weights.pth"}),
        ("test_resnet", {"pretrained_cfg_overlay": {"file": "weights.pth"}}),
        ("test_resnet", {"act_layer": torch.nn.ReLU}),
        ("test_resnet", {"drop_rate": float("nan")}),
        ("googlenet", {"aux_logits": True}),
        ("torchvision/mobilenet_v3_small", {"weights": "DEFAULT"}),
        ("torchvision/mobilenet_v3_small", {"foo": 1}),
        ("torchvision/convnext_tiny", {"foo": 1}),
        ("distill_mlp", {"width": "x"}),
        ("distill_mlp", {"width": -3}),
        ("distill_mlp", {"img_size": [8]}),
        ("distill_mlp", {"img_size": "8"}),
        ("distill_mlp", {"img_size": 0}),
        ("distill_mlp", {"drop_rate": 2}),
    ],
)
def test_bad_arguments(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        made(name, args=args)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arg", sorted(build.RESERVED))
def test_reserved_arguments_reach_no_library(arg: str) -> None:
    for architecture in ("test_resnet", "torchvision/squeezenet1_1"):
        with pytest.raises(ValueError, match=f"'{arg}' may not be set"):
            build.build(architecture, 3, {arg: None})


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fasterrcnn_resnet50_fpn", "nothing"])
def test_only_classifiers_are_built(name: str) -> None:
    with pytest.raises(ValueError, match="unknown architecture"):
        build.build(f"torchvision/{name}", 3, {})


@pytest.fixture
def published(tmp_path: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Weights of test_resnet on disk, in the place of timm's hub; gives them."""
    torch.manual_seed(3)
    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        offer(patch, tmp_path / "weights.safetensors")
        yield weights


def offer(patch: pytest.MonkeyPatch, weights: Path, network: str = "test_resnet") -> None:
    for name in (network, f"{network}.r160_in1k"):
        if name in _registry._model_pretrained_cfgs:
            cfg = _registry._model_pretrained_cfgs[name]
            local = replace(cfg, file=str(weights), hf_hub_id=None, url="")
            patch.setitem(_registry._model_pretrained_cfgs, name, local)


@pytest.mark.parametrize("name", ["test_resnet", "timm/test_resnet.r160_in1k"])
def test_pretrained_keeps_its_input_and_gets_a_head(
    published: dict[str, torch.Tensor], name: str
) -> None:
    network = made(name, pretrained=True).eval()
    assert network.input_size == (3, 160, 160)
    assert network.input_spec.mean != GREY.mean
    state = network.net.state_dict()
    assert torch.equal(state["conv1.0.weight"], published["conv1.0.weight"])
    assert state["fc.weight"].shape[0] == 3
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_pretrained_at_another_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "weights.safetensors")
    offer(monkeypatch, tmp_path / "weights.safetensors", "test_vit")
    assert made("test_vit", pretrained=True).input_size == (3, 160, 160)
    small = made("test_vit", COLOUR, pretrained=True, args={"img_size": 32}).eval()
    assert small.input_size == (3, 32, 32)
    assert small(torch.rand(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("name", ["test_resnet", "timm/test_resnet", "test_resnet.r160_in1k"])
def test_a_pretrained_teacher_keeps_its_head(published: dict[str, torch.Tensor], name: str) -> None:
    teacher = pretrained_teacher(name)
    assert torch.equal(teacher.net.state_dict()["fc.weight"], published["fc.weight"])
    assert len(teacher.class_names) == 1000
    assert teacher.class_names[7] == "output 7"
    same = tuple(f"class {index}" for index in range(1000))
    assert pretrained_teacher(name, same).class_names == same
    assert len(pretrained_teacher(name, CLASSES).class_names) == 1000


def test_weights_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, tmp_path / "nothing.safetensors")
    with pytest.raises(ArtifactError, match="could not be") as caught:
        made("test_resnet", pretrained=True)
    assert caught.value.exit_code == 3


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known\nand more")

    monkeypatch.setattr(build.timm, "create_model", fail)
    for attempt in (
        lambda: made("test_resnet", pretrained=True),
        lambda: pretrained_teacher("test_resnet"),
    ):
        with pytest.raises(ArtifactError, match="must be downloaded and could not be") as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cifar_resnet20", "mlp_8x1", "torchvision/googlenet"])
def test_no_weights_are_published(name: str) -> None:
    with pytest.raises(UsageError, match="weights"):
        made(name, pretrained=True)
    with pytest.raises(UsageError, match=r"no network|no pretrained weights"):
        pretrained_teacher(name)


def test_weights_are_at_hand_where_the_hub_has_kept_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in the hub's own folder, by file or by link, and nothing is asked of the network."""

    def unreachable(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not weights_at_hand("test_resnet")
    kept = tmp_path / "models--timm--test_resnet.r160_in1k"
    (kept / "snapshots/abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text("abc")
    assert not weights_at_hand("test_resnet")
    (kept / "snapshots/abc/model.safetensors").write_bytes(b"")
    for name in ("test_resnet", "test_resnet.r160_in1k", "timm/test_resnet"):
        assert weights_at_hand(name)
    for name in ("test_vit", "mlp_8x1", "torchvision/resnet18", "nothing", "a b/c"):
        assert not weights_at_hand(name)


def test_weights_are_at_hand_where_timm_names_a_file(
    published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert weights_at_hand("test_resnet")
    (tmp_path / "weights.safetensors").unlink()
    assert not weights_at_hand("test_resnet")


def test_weights_are_at_hand_where_torch_has_downloaded_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = _registry._model_pretrained_cfgs["test_resnet"]
    remote = replace(cfg, file=None, hf_hub_id=None, url="https://example.org/a/weights-1.pth?x=1")
    monkeypatch.setitem(_registry._model_pretrained_cfgs, "test_resnet", remote)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert not weights_at_hand("test_resnet")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/weights-1.pth").write_bytes(b"")
    assert weights_at_hand("test_resnet")


def test_published_weights_that_are_no_numbers(
    published: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published["conv1.0.weight"].view(-1)[0] = float("nan")
    save_file(published, tmp_path / "bad.safetensors")
    offer(monkeypatch, tmp_path / "bad.safetensors")
    with pytest.raises(ArtifactError, match=r"test_resnet: tensor conv1\.0\.weight holds NaN"):
        pretrained_teacher("test_resnet")
