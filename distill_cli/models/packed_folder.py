"""Folders of packed weights: how they are written, and how large they would be."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from distill_cli.errors import UsageError
from distill_cli.files import remove, write_bytes, write_json
from distill_cli.models.artifact import CONFIG, WEIGHTS, load_model, model_folder
from distill_cli.models.checksum import KEY as CHECKSUM
from distill_cli.models.checksum import sealed_config, sealed_weights
from distill_cli.models.packed import FORMAT, KEY, PACKED, PackedLayer, packed
from distill_cli.readers.json_values import read_json


@dataclass(frozen=True, kw_only=True)
class PackedModel:
    """A network whose weights were packed.

    Attributes:
        bytes: Size of the packed file.
        plain_bytes: Size of the same weights in fp32.
        layers: Layers that are packed, by name.
    """

    bytes: int
    plain_bytes: int
    layers: Mapping[str, PackedLayer]


def save_packed(folder: Path, out: Path, *, tell: Any = lambda line: None) -> PackedModel:
    """Writes the packed weights of a run or model folder; equal networks give equal bytes.

    Args:
        folder: A run or model folder.
        out: The folder that is written. What was a model in it is none from the first change to the last.
        tell: Is told of weights without a checksum.

    Raises:
        UsageError: No weight of the network is quantised.
        ArtifactError: Something in the folder is damaged, or a weight lies between its levels.
    """
    network = load_model(folder, tell=tell)
    if network.layout is None or not network.layout["layers"]:
        raise UsageError(
            f"{folder} has fp32 weights alone: there is nothing to pack",
            hint="Train it by `distill teacher train --weight-bits 2` (--init goes on from this run), or give --format onnx --int8",
        )
    # Cloned: safetensors refuses tensors that share memory, as tied weights do.
    weights = {name: value.clone() for name, value in network.net.state_dict().items()}
    content, layers = _packed_file(weights, network.layout)
    config = deepcopy(read_json(model_folder(folder) / CONFIG))
    config["distill"].pop(CHECKSUM, None)
    entries = {name: layer.to_json() for name, layer in layers.items()}
    config["distill"][KEY] = {"format_version": FORMAT, "layers": entries}
    remove(out / CONFIG)
    write_bytes(out / PACKED, content)
    write_json(out / CONFIG, sealed_config(config))
    plain = len(sealed_weights(weights))
    return PackedModel(bytes=len(content), plain_bytes=plain, layers=layers)


def few_bits_of(folder: Path) -> dict[str, int | None]:
    """The figures of a saved model that are about its bits, as result.json has them.

    Args:
        folder: A run or model folder, whose weights are plain.
    """
    layout = read_json(model_folder(folder) / CONFIG)["distill"].get("quantised")
    if layout is None:
        return {"weight_bits": None, "act_bits": None, "packed_bytes": None}
    size: int | None = None
    if layout["layers"]:
        size = len(_packed_file(load_file(model_folder(folder) / WEIGHTS), layout)[0])
    bits = {key: layout[key] for key in ("weight_bits", "act_bits")}
    return {**bits, "packed_bytes": size}


def _packed_file(
    weights: Mapping[str, Tensor], layout: Mapping[str, Any]
) -> tuple[bytes, Mapping[str, PackedLayer]]:
    tensors, layers = packed(weights, layout)
    return sealed_weights(tensors), layers
