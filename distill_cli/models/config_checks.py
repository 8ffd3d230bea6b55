"""Whether a config.json describes a network that can be built and asked, and one of its weights' size.

A config may come from anybody. What is looked at: types and ranges of its fields; how much is built,
beside the file of weights that is to fill it; and whether an image of its size goes through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import module as registration

from distill_cli.models.network import InputSpec, Network
from distill_cli.models.quantisers import QuantiserName
from distill_cli.models.timm_folder import MOST_OUTPUTS

# Bounds of what is saved: characters of a name, pixels of a side.
NAME, SIDE = 1000, 4096
# Bounds of arguments: a number, entries of a list, lists in each other.
NUMBER, ENTRIES, DEPTH = 1 << 24, 10_000, 4
# Means and deviations of pixels in [0, 1]; temperatures.
MEAN, STD, TEMPERATURE = 100.0, (1e-6, 100.0), (1e-4, 1e4)
# While a network is built it may hold layers that it replaces: so many times what is saved of it, and
# so many bytes and tensors more.
TIMES, BYTES, TENSORS = 4, 64 << 20, 2000
# Bytes of a tensor's entry in the header of its file, at least.
ENTRY = 50
# Pixels of an image that is sent through in earnest.
TRIED = 512 * 512


def check_ranges(config: Mapping[str, Any]) -> None:
    """Refuses fields of a config that no network of ours has.

    Raises:
        Exception: Any kind, with the reason; a field may be missing.
    """
    names, args = config["distill"]["class_names"], config["model_args"]
    if not isinstance(names, list) or not 0 < len(names) <= MOST_OUTPUTS:
        raise ValueError("class_names is a list of texts")
    for name in (config["architecture"], *names):
        if not isinstance(name, str) or len(name) > NAME:
            raise ValueError("architecture and class_names are texts of a line at most")
    if not isinstance(args, dict):
        raise TypeError("model_args is a mapping")
    for key, value in args.items():
        _check_argument(f"model_args.{key:.40}", value)


def _check_argument(key: str, value: Any, depth: int = 0) -> None:
    if isinstance(value, dict | list):
        if depth == DEPTH or len(value) > ENTRIES:
            raise ValueError(f"{key} is nested too deep, or too long")
        items = value.items() if isinstance(value, dict) else ((key, item) for item in value)
        for name, item in items:
            _check_argument(
                f"{key}.{name:.40}" if isinstance(value, dict) else key, item, depth + 1
            )
    elif value is None or isinstance(value, bool):
        return
    elif "drop" in key:
        if isinstance(value, str) or not 0 <= value < 1:
            raise ValueError(f"{key} is a share from 0 to below 1, not {value!r:.40}")
    elif isinstance(value, str):
        if len(value) > NAME:
            raise ValueError(f"{key} has {len(value):,} characters")
    elif not -NUMBER <= value <= NUMBER:
        raise ValueError(f"{key} is {value:g}")


def is_whole(value: Any, *known: int) -> bool:
    """Whether a value is one of these numbers: `true` and 1.0 of JSON are not, which Python takes for 1."""
    return type(value) is int and value in known


def parsed_layout(ours: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a config says that its network was quantised; None where it was not.

    Raises:
        ValueError: It is not as this version writes it.
    """
    layout = ours.get("quantised")
    if layout is None:
        return None
    layers = layout["layers"]
    if not isinstance(layers, dict):
        raise ValueError("quantised.layers is no mapping")
    for name, layer in layers.items():
        scale, quantizer = layer["scale"], layer["quantizer"]
        if not is_whole(layer["bits"], *range(1, 9)) or quantizer not in get_args(QuantiserName):
            raise ValueError(f"quantised.layers.{name:.80} has no bits or no quantizer")
        # Weights that are all 0 have a scale of 0, and binary ones a scale of each filter.
        if not (
            scale is None
            if quantizer == "binary"
            else type(scale) is float and scale >= 0 and isfinite(scale)
        ):
            raise ValueError(f"quantised.layers.{name:.80} has no scale")
    return dict(layout)


def parsed_temperature(ours: Mapping[str, Any]) -> float:
    """The fitted temperature of a config; 1 where none was.

    Raises:
        ValueError: It is none.
    """
    temperature = ours.get("temperature", 1.0)
    least, most = TEMPERATURE
    if type(temperature) not in (int, float) or not least <= temperature <= most:
        raise ValueError(f"temperature is a number from {least:g} to {most:g}")
    return float(temperature)


def parsed_input_spec(ours: Mapping[str, Any]) -> InputSpec:
    """The images that the network of a config takes.

    Raises:
        Exception: Any kind, where there are none such.
    """
    channels, height, width = ours["input_size"]
    mean, std = tuple(ours["mean"]), tuple(ours["std"])
    if not all(type(side) is int and 0 < side <= SIDE for side in (channels, height, width)):
        raise ValueError(f"input_size is channels, height and width in pixels, {SIDE:,} at most")
    if channels not in (1, 3) or not channels == len(mean) == len(std):
        raise ValueError("1 or 3 channels, each with its mean and std")
    if not all(type(value) in (int, float) and isfinite(value) for value in (*mean, *std)):
        raise ValueError("mean and std are finite numbers")
    if max(map(abs, mean)) > MEAN or not STD[0] <= min(std) <= max(std) <= STD[1]:
        raise ValueError("mean and std are those of pixels from 0 to 1")
    return InputSpec(channels=channels, height=height, width=width, mean=mean, std=std)


@contextmanager
def built_within(file: str, size: int) -> Iterator[None]:
    """Stops the building of a network that is far larger than its file of weights.

    Layers are counted as they are entered into a module, before they are filled: until then their
    memory is only promised.

    Args:
        file: Its name.
        size: Its bytes, or those that it would have, were its weights not packed.

    Raises:
        ValueError: Inside, where it is.
    """
    most_bytes, most_tensors = TIMES * size + BYTES, TIMES * size // ENTRY + TENSORS
    built = {"bytes": 0, "tensors": 0}

    def count(owner: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            built["bytes"] += tensor.numel() * tensor.element_size()
            built["tensors"] += 1
        if built["bytes"] > most_bytes or built["tensors"] > most_tensors:
            raise ValueError(f"it is far larger than {file}, which has {size:,} bytes")

    hooks = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def try_out(network: Network) -> None:
    """Sends an image of the network's size through it, without its arithmetic where that can be.

    Raises:
        Exception: Any kind that the network raises on it.
        ValueError: Its answer is not a number for each class.
    """
    spec, network = network.input_spec, network.eval()
    image_BCHW = torch.zeros(1, spec.channels, spec.height, spec.width, device="meta")
    tensors = (*network.named_parameters(), *network.named_buffers())
    with torch.no_grad():
        try:
            meta = {name: tensor.to("meta") for name, tensor in tensors}
            logits_BK = functional_call(network, meta, (image_BCHW,))
        except Exception:
            # Some networks look into their tensors, which a meta tensor does not allow.
            if spec.height * spec.width > TRIED:
                raise
            logits_BK = network(torch.zeros(image_BCHW.shape))
    if logits_BK.shape != (1, len(network.class_names)):
        raise ValueError(f"its answer has the shape {tuple(logits_BK.shape)}")
