"""A saved model: config.json and model.safetensors, loadable without any flag, by timm too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models import is_model
from torch import Tensor, nn

from distill_cli.errors import ArtifactError
from distill_cli.files import read_json, write_atomically, write_json
from distill_cli.models.network import InputSpec, Network
from distill_cli.models.zoo import TORCHVISION

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


def save_model(network: Network, folder: Path) -> None:
    """Writes weights, then config, each atomically.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it where the architecture is
    timm's, and ours after `import distill_cli.models`.
    """
    # Cloned: safetensors refuses tensors that share memory, as tied weights do.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.net.state_dict().items()
    }
    content = save(weights, metadata={"format": "pt"})
    write_atomically(folder / WEIGHTS, lambda path: path.write_bytes(content))
    write_json(folder / CONFIG, config_of(network))


def config_of(network: Network) -> dict[str, Any]:
    """config.json: timm's keys, and ours in `distill`."""
    taken = network.taken
    own: dict[str, Any] = dict(getattr(network.net, "pretrained_cfg", {}))
    kept = ("pool_size", "fixed_input_size", "interpolation", "first_conv", "classifier", "license")
    size = [taken.channels, taken.height, taken.width]
    return {
        "architecture": network.architecture,
        "num_classes": len(network.class_names),
        "num_features": getattr(network.net, "num_features", None),
        "label_names": list(network.class_names),
        "model_args": network.model_args,
        "pretrained_cfg": {
            "num_classes": len(network.class_names),
            "input_size": size,
            "crop_pct": 1.0,
            "mean": list(taken.mean),
            "std": list(taken.std),
            **{key: own[key] for key in kept if own.get(key) is not None},
        },
        "distill": {
            "format_version": FORMAT,
            "library": network.library,
            "class_names": list(network.class_names),
            "input_size": size,
            "mean": list(taken.mean),
            "std": list(taken.std),
        },
    }


def model_folder(path: Path) -> Path:
    """The model folder of a run, or the folder itself."""
    return path / "model" if (path / "model" / CONFIG).is_file() else path


def model_bytes(folder: Path) -> int:
    """Size of the weights file."""
    return (model_folder(folder) / WEIGHTS).stat().st_size


def load_model(folder: Path) -> Network:
    """The network of a run or model folder, on the CPU.

    Raises:
        ArtifactError: Something is missing, damaged, or not ours; nothing in it is executed.
    """
    folder = model_folder(folder)
    config = read_json(folder / CONFIG)
    try:
        net, network = _build(config)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ArtifactError(
            f"{folder / CONFIG} does not describe a network that can be built: "
            f"{type(error).__name__} {reason}"
        ) from None
    weights = _weights(folder / WEIGHTS)
    expected = net.state_dict()
    for name, value in expected.items():
        if name not in weights or weights[name].shape != value.shape:
            raise ArtifactError(f"{folder / WEIGHTS} does not fit {network.architecture}: {name}")
    net.load_state_dict({name: weights[name] for name in expected})
    return network.eval()


def _build(config: Mapping[str, Any]) -> tuple[nn.Module, Network]:
    ours = config["distill"]
    if ours["format_version"] != FORMAT:
        raise ValueError(f"format {ours['format_version']}, this version reads {FORMAT}")
    architecture, args = config["architecture"], dict(config["model_args"])
    names = tuple(str(name) for name in ours["class_names"])
    if ours["library"] == "torchvision":
        import torchvision

        name = architecture.removeprefix(TORCHVISION)
        net = torchvision.models.get_model(name, weights=None, num_classes=len(names), **args)
    else:
        if not is_model(architecture):
            raise ValueError(f"unknown architecture '{architecture}'")
        net = timm.create_model(architecture, num_classes=len(names), **args)
    assert isinstance(net, nn.Module)
    channels, height, width = ours["input_size"]
    network = Network(
        net,
        architecture=architecture,
        model_args=args,
        library=ours["library"],
        class_names=names,
        taken=InputSpec(
            channels=channels,
            height=height,
            width=width,
            mean=tuple(ours["mean"]),
            std=tuple(ours["std"]),
        ),
    )
    return net, network


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is no intact safetensors file: {error}", hint="Copy or train the model again"
        ) from None


def fingerprint(network: Network) -> str:
    """Identifies a network by architecture, normalisation, classes and weights."""
    taken = network.taken
    head: list[Any] = [network.architecture, network.model_args, list(network.class_names)]
    head += [[taken.channels, taken.height, taken.width], list(taken.mean), list(taken.std)]
    whole = blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(network.net.state_dict().items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        whole.update(flat.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
