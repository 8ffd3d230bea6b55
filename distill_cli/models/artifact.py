"""Saved models: config.json and model.safetensors, loadable without any flag, by timm too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import torch

from distill_cli.errors import ArtifactError
from distill_cli.files import real_path, write_bytes, write_json, writes
from distill_cli.models.build import TORCHVISION, build, explain
from distill_cli.models.checksum import check_config, sealed_config, sealed_weights
from distill_cli.models.config_checks import (
    built_within,
    check_ranges,
    is_whole,
    parsed_input_spec,
    parsed_layout,
    parsed_temperature,
    try_out,
)
from distill_cli.models.network import InputSpec, Library, Network
from distill_cli.models.packed import PACKED, packing_of, plain_bytes
from distill_cli.models.quantised import layout_of, saved_tensors
from distill_cli.models.timm_folder import read_config
from distill_cli.models.weights import fill
from distill_cli.readers.json_values import read_json
from distill_cli.sharding import whole
from distill_cli.types import PlainView, Targets

CONFIG, WEIGHTS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
FORMAT = 1


def save_model(network: Network, folder: Path, *, extra: Mapping[str, Any] | None = None) -> None:
    """Writes weights, then config, each atomically and with its checksum; equal networks give equal bytes.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it where the architecture is
    timm's, and ours after `import distill_cli.models`.

    Args:
        network: Network to save, without the wrapper: tensors have the plain network's names. Where
            its weights lie in parts, every rank calls at once.
        folder: Model folder, created where absent.
        extra: Plain JSON values to keep under `distill.extra`; this module does not read them.
    """
    weights = {}
    for name, value in saved_tensors(network.net).items():
        # Gathered one at a time, and kept by the rank that writes.
        gathered = whole(value.detach())
        if writes():
            # Cloned: safetensors refuses tensors that share memory, as tied weights do.
            weights[name] = gathered.cpu().clone(memory_format=torch.contiguous_format)
    write_bytes(folder / WEIGHTS, sealed_weights(weights))
    write_json(folder / CONFIG, sealed_config(config_of(network, extra)))


def config_of(network: Network, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of config.json: timm's keys, and ours under `distill`."""
    input_spec = network.input_spec
    published_cfg: dict[str, Any] = dict(getattr(network.net, "pretrained_cfg", {}))
    kept = ("pool_size", "fixed_input_size", "first_conv", "classifier", "license")
    size = [input_spec.channels, input_spec.height, input_spec.width]
    return {
        "architecture": network.architecture,
        "num_classes": len(network.class_names),
        "num_features": getattr(network.net, "num_features", None),
        "label_names": list(network.class_names),
        "model_args": network.model_args,
        "pretrained_cfg": {
            "num_classes": len(network.class_names),
            "input_size": size,
            # As the images were made that it learnt from, whatever its authors did.
            "crop_pct": 1.0,
            "crop_mode": "center",
            "interpolation": "bilinear",
            "mean": list(input_spec.mean),
            "std": list(input_spec.std),
            **{key: published_cfg[key] for key in kept if published_cfg.get(key) is not None},
        },
        "distill": {
            "format_version": FORMAT,
            "library": network.library,
            "class_names": list(network.class_names),
            "input_size": size,
            "mean": list(input_spec.mean),
            "std": list(input_spec.std),
            **({} if network.view is None else {"view": network.view.to_json()}),
            **_probabilities(network),
            **({} if (layout := layout_of(network)) is None else {"quantised": layout}),
            **({"extra": dict(extra)} if extra else {}),
        },
    }


def _probabilities(network: Network) -> dict[str, Any]:
    """How logits z become probabilities, and what that takes."""
    if network.targets == "sigmoid":
        return {"targets": "sigmoid", "probabilities": "sigmoid(z)"}
    if network.temperature == 1:
        return {"probabilities": "softmax(z)"}
    return {"temperature": network.temperature, "probabilities": "softmax(z / temperature)"}


def save_temperature(network: Network, folder: Path, temperature: float) -> None:
    """Writes a fitted temperature into the config of a saved model."""
    network.temperature = temperature
    write_json(model_folder(folder) / CONFIG, sealed_config(config_of(network)))


def model_folder(path: Path) -> Path:
    """The model folder of a run, or the folder itself."""
    return path / "model" if (path / "model" / CONFIG).is_file() else path


def model_bytes(folder: Path) -> int:
    """Size of the weights file.

    Raises:
        ArtifactError: The file is missing.
    """
    return _file(folder, _weights_name(folder)).stat().st_size


def load_model(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    weights: bool = True,
    class_names: Sequence[str] | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Network:
    """The network of a run or model folder, in eval mode.

    Nothing in the folder is executed: the architecture must be a registered name, weights are
    read from safetensors only, and no link is followed out of the folder.

    Args:
        folder: Run folder or model folder.
        device: Device that the network is put on.
        weights: Read the weights; otherwise they stay fresh, and only the file's header is checked.
        class_names: Names of as many outputs, where timm saved the model and it has none.
        tell: Is told of weights that have no checksum.

    Raises:
        ArtifactError: Something is missing, damaged, or neither ours nor timm's, or a weight is NaN
            or infinite.
    """
    config, stored = _file(folder, CONFIG), _file(folder, _weights_name(folder))
    with _ours(config):
        content = read_config(config, FORMAT, class_names)
        packing = packing_of(content["distill"], stored)
        with built_within(stored.name, plain_bytes(stored, packing)):
            network = _network(content)
    fill(network, stored, packing, copy=weights, tell=tell)
    # Last: what else is wrong says more than that something is.
    _check_config(config)
    return network.to(device).eval()


def input_spec(folder: Path) -> InputSpec:
    """The input spec of a run or model folder's network, which is not built.

    Raises:
        ArtifactError: The config is missing, damaged, or not ours.
    """
    config = _file(folder, CONFIG)
    with _ours(config):
        spec = parsed_input_spec(read_config(config, FORMAT)["distill"])
    _check_config(config)
    return spec


def _check_config(config: Path) -> None:
    """Refuses a config that is not as it was saved; one without a checksum is believed."""
    try:
        check_config(read_json(config))
    except ValueError as error:
        raise ArtifactError(
            f"{config} is damaged: {error}",
            hint="Restore it, or take the line `checksum` out of it where the change is meant",
        ) from None


@contextmanager
def _ours(config: Path) -> Iterator[None]:
    """Turns every exception that a foreign config causes into one error."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        # A config from elsewhere may hold anything, and the libraries raise any exception on it.
        raise ArtifactError(
            f"{config} does not describe a network that can be built: "
            f"{type(error).__name__}: {explain(error)}",
            hint="Save the model again with this version",
        ) from None


def _weights_name(folder: Path) -> str:
    """Name of the weights file of a model folder; the plain one's where there is none."""
    packed = model_folder(folder) / PACKED
    return PACKED if packed.exists() and not packed.with_name(WEIGHTS).exists() else WEIGHTS


def _file(folder: Path, name: str) -> Path:
    """A file of the model folder, which must lie in `folder` itself."""
    path = model_folder(folder) / name
    if name == WEIGHTS and not path.exists() and path.with_name(PICKLED).exists():
        raise ArtifactError(
            f"{path} is missing, and {PICKLED} is not read: a pickle can run code",
            hint="Save the weights as safetensors, with timm by save_for_hf(…, safe_serialization=True)",
        )
    if not path.exists():
        raise ArtifactError(f"{path} is missing", hint="Give a run folder or a model folder")
    if not path.is_file() or not real_path(path).is_relative_to(real_path(folder)):
        raise ArtifactError(
            f"{path} is no plain file of its folder", hint="Copy the file itself into it"
        )
    return path


def _network(config: Any) -> Network:
    """The network that a config describes, with fresh weights.

    Raises:
        Exception: Any kind, where the config is not one of ours.
    """
    check_ranges(config)
    ours, architecture, args = config["distill"], config["architecture"], config["model_args"]
    if not is_whole(ours["format_version"], FORMAT):
        raise ValueError(f"format {ours['format_version']!r:.20}, this version reads {FORMAT}")
    names = ours["class_names"]
    library: Library = "torchvision" if architecture.startswith(TORCHVISION) else "timm"
    if ours["library"] != library:
        raise ValueError(f"{architecture} is not of {ours['library']}")
    targets = ours.get("targets", "softmax")
    if targets not in get_args(Targets):
        raise ValueError(f"targets are one of {', '.join(get_args(Targets))}")
    network = Network(
        build(architecture, len(names), args),
        architecture=architecture,
        model_args=args,
        library=library,
        class_names=tuple(names),
        input_spec=parsed_input_spec(ours),
        targets=targets,
        temperature=parsed_temperature(ours),
        view=PlainView.from_json(ours["view"]) if "view" in ours else None,
    )
    network.layout = parsed_layout(ours)
    try_out(network)
    return network


def network_fingerprint(network: Network) -> str:
    """A digest of a network's architecture, normalisation, classes, targets and weights."""
    input_spec = network.input_spec
    head: list[Any] = [network.architecture, network.model_args, list(network.class_names)]
    head += [] if network.targets == "softmax" else [network.targets]
    head += [
        [input_spec.channels, input_spec.height, input_spec.width],
        list(input_spec.mean),
        list(input_spec.std),
    ]
    whole = blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(network.net.state_dict().items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        whole.update(flat.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
