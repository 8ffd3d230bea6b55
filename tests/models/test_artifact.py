from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

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

VIEW = InputSpec(channels=1, height=12, width=10, mean=(0.2,), std=(0.3,))
CLASSES = ("cat", "dog", "emu")


def made(name: str = "mlp_8x1") -> Network:
    torch.manual_seed(0)
    return create_network(name, class_names=CLASSES, view=VIEW).eval()


@pytest.mark.parametrize(
    "name",
    ["mlp_8x2", "cifar_resnet8", "cifar_wrn_16_1", "test_vit", "torchvision/squeezenet1_1"],
)
def test_a_saved_model_loads_to_the_same_outputs(tmp_path: Path, name: str) -> None:
    network = made(name)
    save_model(network, tmp_path)
    again = load_model(tmp_path)
    images = torch.rand(2, 1, 12, 10)
    assert torch.equal(network(images), again(images))
    assert again.class_names == CLASSES
    assert again.input_spec == network.input_spec
    assert network_fingerprint(again) == network_fingerprint(network)
    assert model_bytes(tmp_path) == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["mlp_8x2", "cifar_resnet8", "test_vit", "test_resnet"])
def test_timm_loads_it(tmp_path: Path, name: str) -> None:
    network = made(name)
    save_model(network, tmp_path)
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    taken = network.input_spec
    images = torch.rand(2, 1, taken.height, taken.width)
    normalised = (images - taken.mean[0]) / taken.std[0]
    assert torch.equal(net(normalised), network(images))
    assert net.pretrained_cfg["mean"] == list(taken.mean)
    assert net.pretrained_cfg["label_names"] == list(CLASSES)


def test_saving_is_deterministic(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_model(made(), tmp_path / folder)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_fingerprint_sees_everything() -> None:
    one = network_fingerprint(made())
    weights = made()
    with torch.no_grad():
        next(weights.net.parameters()).view(-1)[0] += 1e-3
    names = made()
    names.class_names = ("cat", "emu", "dog")
    norm = made()
    norm.input_spec = replace(norm.input_spec, mean=(0.21,))
    others = [network_fingerprint(network) for network in (weights, names, norm, made("mlp_9x1"))]
    assert len({one, *others}) == 5
    assert one == network_fingerprint(made())


def test_targets_are_kept(tmp_path: Path) -> None:
    network = made()
    save_model(network, tmp_path / "softmax")
    assert (
        "targets" not in json.loads((tmp_path / "softmax" / "config.json").read_text())["distill"]
    )
    assert load_model(tmp_path / "softmax").targets == "softmax"
    before = network_fingerprint(network)
    network.targets = "sigmoid"
    assert network_fingerprint(network) != before
    save_model(network, tmp_path / "sigmoid")
    again = load_model(tmp_path / "sigmoid")
    assert again.targets == "sigmoid"
    assert network_fingerprint(again) == network_fingerprint(network)
    config = tmp_path / "sigmoid" / "config.json"
    config.write_text(config.read_text().replace('"sigmoid"', '"tanh"'))
    with pytest.raises(ArtifactError, match="targets are one of softmax, sigmoid"):
        load_model(tmp_path / "sigmoid")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    save_model(made(), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ArtifactError, match="safetensors"):
        load_model(tmp_path / "m")
    assert not (tmp_path / "pwned").exists()


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: os.truncate(folder / "model.safetensors", 300),
        lambda folder: edit(folder, lambda c: c.update(architecture="nothing_here")),
        lambda folder: edit(folder, lambda c: c["model_args"].update(width=9)),
        lambda folder: edit(folder, lambda c: c["model_args"].update(wdith=9)),
        lambda folder: edit(
            folder, lambda c: [c.pop(key) for key in ("distill", "pretrained_cfg")]
        ),
        lambda folder: edit(folder, lambda c: c["distill"].update(format_version=99)),
        lambda folder: edit(folder, lambda c: c["distill"].update(class_names=["a"])),
    ],
)
def test_what_is_unusable_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save_model(made(), tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        load_model(tmp_path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        load_model(tmp_path / "nowhere")
