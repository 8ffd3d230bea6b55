"""Saved models: bit-equal after loading, by timm too; what is unusable or hostile is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from distill_cli.errors import ArtifactError
from distill_cli.models import (
    InputSpec,
    Network,
    create_network,
    load_model,
    model_bytes,
    network_fingerprint,
    save_model,
)

GREY = InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.2,))
CLASSES = ("cat", "dog", "eel")
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def made(name: str = "mlp_4x1", **more: Any) -> Network:
    torch.manual_seed(0)
    return create_network(name, **{"class_names": CLASSES, "view": GREY, **more}).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model folder."""
    save_model(made(), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize(
    "name",
    [
        *("mlp_4x1", "cifar_resnet8", "cifar_resnet8x4", "cifar_wrn_16_1"),
        *("test_vit", "test_resnet", "test_efficientnet"),
        *("torchvision/mobilenet_v3_small", "torchvision/squeezenet1_1"),
    ],
)
def test_round_trip(tmp_path: Path, name: str) -> None:
    network = made(name, dropout=None if "squeeze" in name else 0.25)
    save_model(network, tmp_path / "run" / "model")
    images_BCHW = torch.rand(2, 1, 8, 8)
    expected = network(images_BCHW)
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        loaded = load_model(folder)
        assert not loaded.training
        assert torch.equal(loaded(images_BCHW), expected)
        assert network_fingerprint(loaded) == network_fingerprint(network)
        assert (loaded.architecture, loaded.class_names) == (network.architecture, CLASSES)
        assert loaded.input_spec == network.input_spec
    if network.library == "timm":
        net = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True).eval()
        assert type(net) is type(network.net)
        assert net.pretrained_cfg["label_names"] == list(CLASSES)
        normalised = (network.fitted(images_BCHW) - network.mean) / network.std
        assert torch.equal(net(normalised), expected)
        assert tuple(net.pretrained_cfg["mean"]) == network.input_spec.mean


def test_a_loaded_model_saves_to_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    save_model(load_model(folder), tmp_path / "again")
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert model_bytes(folder) == (folder / WEIGHTS).stat().st_size
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_extra_is_kept(tmp_path: Path) -> None:
    save_model(made(), tmp_path, extra={"epoch": 3})
    assert json.loads((tmp_path / CONFIG).read_text())["distill"]["extra"] == {"epoch": 3}
    assert network_fingerprint(load_model(tmp_path)) == network_fingerprint(made())


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    network = made("mlp_8x2")
    first, second = network.net.layers[1], network.net.fc
    second.bias = nn.Parameter(first.bias[:3].detach())  # shares memory
    save_model(network, tmp_path)
    assert torch.equal(load_model(tmp_path).net.state_dict()["fc.bias"], second.bias)


def test_the_device_is_the_callers(folder: Path) -> None:
    assert load_model(folder, device=torch.device("cpu")).mean.device.type == "cpu"
    assert load_model(folder, device="meta").mean.device.type == "meta"


def test_a_fingerprint_sees_all() -> None:
    seen = {network_fingerprint(made())}
    one_weight = made()
    one_weight.net.state_dict()["fc.bias"][0] += 1e-6
    seen.add(network_fingerprint(one_weight))
    seen.add(network_fingerprint(made(class_names=("cat", "dog", "fox"))))
    seen.add(network_fingerprint(made(view=replace(GREY, mean=(0.31,)))))
    seen.add(network_fingerprint(made(view=replace(GREY, std=(0.21,)))))
    seen.add(network_fingerprint(made(dropout=0.5)))
    seen.add(network_fingerprint(made().double()))
    assert len(seen) == 7
    assert network_fingerprint(made()) in seen


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", ["pickle", "torch"])
@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin"])
def test_a_pickle_is_never_opened(folder: Path, write: str, name: str) -> None:
    mark = folder.parent / "executed"
    (folder / WEIGHTS).unlink()
    if write == "torch":
        torch.save({"state_dict": Payload(mark)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ArtifactError, match="safetensors") as caught:
        load_model(folder)
    assert caught.value.exit_code == 3
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # the payload does work
    assert mark.exists()


def config(**changes: Any) -> Callable[[Path], object]:
    """Changes config.json: own keys are given as `distill__KEY`."""

    def change(folder: Path) -> None:
        value = json.loads((folder / CONFIG).read_text())
        for key, new in changes.items():
            part = value["distill"] if key.startswith("distill__") else value
            part[key.removeprefix("distill__")] = new
        (folder / CONFIG).write_text(json.dumps(value))

    return change


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return rewrite


def raw(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def outside(name: str) -> Callable[[Path], object]:
    def move(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return move


def fifo(folder: Path) -> None:
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)  # opening it would wait for ever


BROKEN: dict[str, Callable[[Path], object]] = {
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "config is a list": raw(CONFIG, b"[]"),
    "config is no JSON": raw(CONFIG, b"{"),
    "config is binary": raw(CONFIG, b"\xff\xfe"),
    "config is nested without end": raw(CONFIG, b"[" * 100_000),
    "config of another tool": raw(CONFIG, b'{"architecture": "resnet18"}'),
    "config is a pipe": fifo,
    "newer format": config(distill__format_version=99),
    "unknown architecture": config(architecture="resnet_of_tomorrow"),
    "architecture on the hub": config(architecture="hf-hub:timm/resnet18"),
    "architecture in a folder": config(architecture="local-dir:/somewhere"),
    "architecture is null": config(architecture=None),
    "arguments are a list": config(model_args=[1]),
    "unknown argument": config(model_args={"foo": 1}),
    "argument that downloads": config(model_args={"pretrained": True}),
    "argument that opens a file": config(model_args={"checkpoint_path": "evil.pth"}),
    "argument that names a file": config(model_args={"pretrained_cfg_overlay": {"file": "x"}}),
    "argument that divides by zero": config(architecture="test_vit", model_args={"patch_size": 0}),
    "argument beyond memory": config(model_args={"width": 10**12}),
    "network that downloads": config(
        architecture="torchvision/deeplabv3_resnet50", distill__library="torchvision", model_args={}
    ),
    "another library": config(distill__library="torchvision"),
    "no class": config(distill__class_names=[]),
    "classes are a text": config(distill__class_names="abc"),
    "too many classes": config(distill__class_names=["a", "b", "c", "d"]),
    "size of texts": config(distill__input_size=["a", 8, 8]),
    "size of nothing": config(distill__input_size=[1, 0, 8]),
    "two channels": config(distill__input_size=[2, 8, 8]),
    "mean of three": config(distill__mean=[0.1, 0.2, 0.3]),
    "mean of nothing": config(distill__mean=None),
    "mean that is no number": config(distill__mean=[float("nan")]),
    "std of zero": config(distill__std=[0]),
    "view of two channels": config(distill__view={"channels": 2, "height": 8, "width": 8}),
    "view of a text": config(distill__view="large"),
    "view without a size": config(distill__view={"channels": 3}),
    "view of another kind": config(
        distill__view={"channels": 3, "height": 8, "width": 8, "resize": "ceil"}
    ),
    "empty weights": raw(WEIGHTS, b""),
    "noise for weights": raw(WEIGHTS, bytes(range(256)) * 4),
    "truncated weights": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-3]),
    "a tensor is missing": weights(lambda tensors: tensors.pop("fc.bias")),
    "a tensor too many": weights(lambda tensors: tensors.update(more=torch.ones(1))),
    "a tensor of another shape": weights(lambda t: t.update({"fc.bias": torch.ones(4)})),
    "a tensor of another type": weights(lambda t: t.update({"fc.bias": t["fc.bias"].half()})),
    "config leads out": outside(CONFIG),
    "weights lead out": outside(WEIGHTS),
    "weights are a folder": lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()),
}


@pytest.mark.parametrize("case", BROKEN)
def test_unusable(folder: Path, case: str) -> None:
    BROKEN[case](folder)
    with pytest.raises(ArtifactError) as caught:
        load_model(folder)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_a_config_opens_no_file(folder: Path) -> None:
    # Weights that would fit: refused for the argument, not for what the file holds.
    config(model_args={**made().model_args, "checkpoint_path": str(folder / WEIGHTS)})(folder)
    with pytest.raises(ArtifactError, match="'checkpoint_path' may not be set"):
        load_model(folder)


def test_a_model_that_leads_out_of_its_run(tmp_path: Path, folder: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(folder)
    with pytest.raises(ArtifactError, match="no plain file of its folder"):
        load_model(run)


def test_a_link_to_a_whole_run_is_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    assert load_model(tmp_path / "latest").class_names == CLASSES


@pytest.mark.parametrize("read", [load_model, model_bytes])
def test_no_folder(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        read(tmp_path / "nothing")
