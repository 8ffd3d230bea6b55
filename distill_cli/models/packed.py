"""Packed weights: codes at their bit width and scales in the place of fp32. The layout is docs/packed-weights.md.

Shapes: a weight of any shape whose first axis is its outputs; N codes, which lie in a stream of bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.errors import ArtifactError
from distill_cli.models.config_checks import is_whole, parsed_layout
from distill_cli.models.quantisers import QuantiserName, levels_of

# The file of packed weights, beside config.json, whose `distill` says under KEY what is packed.
PACKED, KEY = "packed.safetensors", "packed"
FORMAT = 1
CODES, SCALE = ".weight.codes", ".weight.scale"
# Bytes of a weight in fp32.
FULL = 4
# Codes that are packed at a time: their bits lie apart meanwhile. Eight codes fill whole bytes.
CHUNK = 1 << 20
AXES = 8


@dataclass(frozen=True, kw_only=True)
class PackedLayer:
    """A layer whose weight is packed.

    Attributes:
        quantizer: The name of its quantiser.
        bits: Bits of a code.
        shape: Shape of the weight.
    """

    quantizer: QuantiserName
    bits: int
    shape: tuple[int, ...]

    @property
    def first(self) -> int:
        """The code that is stored as 0."""
        return levels_of(self.quantizer, self.bits)[0]

    @property
    def step(self) -> int:
        """The distance of codes that are stored as neighbours: a binary weight has no 0."""
        return 2 if self.quantizer == "binary" else 1

    @property
    def levels(self) -> int:
        """How many codes there are; fewer than the bits can say, or as many."""
        first, last = levels_of(self.quantizer, self.bits)
        return (last - first) // self.step + 1

    @property
    def weights(self) -> int:
        """How many weights the layer has."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its codes: the last one may have bits to spare, which are 0."""
        return -(-self.weights * self.bits // 8)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scale, which broadcasts over the weight: of each filter where it is binary."""
        return (self.shape[0], *[1] * (len(self.shape) - 1)) if self.quantizer == "binary" else ()

    def to_json(self) -> dict[str, Any]:
        """What a reader needs to know."""
        return {
            "bits": self.bits,
            "first": self.first,
            "step": self.step,
            "shape": list(self.shape),
        }


Packing = Mapping[str, PackedLayer]


def packing_of(ours: Mapping[str, Any], stored: Path) -> Packing | None:
    """What is packed in a weights file; None where it is a plain one.

    Args:
        ours: The values below `distill` of its config.
        stored: The file.

    Raises:
        Exception: Any kind, where the config is not as this version writes it, or is of another file.
    """
    packing = None if KEY not in ours else _parsed(ours[KEY], parsed_layout(ours))
    if (packing is not None) != (stored.name == PACKED):
        raise ValueError(f"its weights are {'plain' if packing is None else 'packed'}")
    needed = sum(layer.bytes for layer in (packing or {}).values())
    if needed > stored.stat().st_size:
        raise ValueError(f"its packed layers need {needed:,} bytes, more than {stored.name} has")
    return packing


def plain_bytes(stored: Path, packing: Packing | None) -> int:
    """Bytes of a weights file, those of packed weights as they are in memory."""
    return stored.stat().st_size + sum(FULL * layer.weights for layer in (packing or {}).values())


def _parsed(packed: Mapping[str, Any], layout: Mapping[str, Any] | None) -> Packing:
    version, entries = packed["format_version"], packed["layers"]
    if not is_whole(version, FORMAT):
        raise ValueError(f"packed weights of format {version!r:.20}, this version reads {FORMAT}")
    quantised = {} if layout is None else layout["layers"]
    if entries.keys() != quantised.keys():
        raise ValueError("packed.layers are not those of quantised.layers")
    layers = {}
    for name, entry in entries.items():
        quantizer, shape = quantised[name]["quantizer"], entry["shape"]
        if not 0 < len(shape) <= AXES or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"packed.layers.{name:.80} has no shape")
        layer = PackedLayer(quantizer=quantizer, bits=quantised[name]["bits"], shape=tuple(shape))
        numbers = (entry.get(key) for key in ("bits", "first", "step"))
        if entry != layer.to_json() or not all(type(number) is int for number in numbers):
            raise ValueError(f"packed.layers.{name:.80} does not agree with quantised.layers")
        layers[name] = layer
    return layers


def pack_bits(codes_N: Tensor, bits: int) -> Tensor:
    """A stream of codes, the lowest bit of the first one in the lowest bit of the first byte.

    Args:
        codes_N: uint8, below 2^bits.
        bits: Bits of a code.

    Returns:
        uint8, as many bytes as the bits take.
    """
    eight, each = _shifts(8), _shifts(bits)
    parts = []
    for part in codes_N.split(CHUNK):
        stream = ((F.pad(part, (0, -len(part) % 8))[:, None] >> each) & 1).view(-1, 8)
        parts.append((stream << eight).sum(dim=1, dtype=torch.uint8))
    return torch.cat(parts)[: -(-len(codes_N) * bits // 8)]


def unpack_bits(stream: Tensor, bits: int, count: int) -> Tensor:
    """The codes of a stream, uint8 (N,).

    Raises:
        ValueError: A bit behind the last code is set.
    """
    eight, each = _shifts(8), _shifts(bits)
    parts = []
    for part in stream.split(CHUNK // 8 * bits):
        ones = ((part[:, None] >> eight) & 1).flatten()
        whole = ones[: len(ones) // bits * bits].view(-1, bits)
        parts.append((whole << each).sum(dim=1, dtype=torch.uint8))
    used = count * bits % 8
    if used and int(stream[-1]) >> used:
        raise ValueError("bits behind its last code are set")
    return torch.cat(parts)[:count]


def _shifts(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.uint8)


def packed(
    weights: Mapping[str, Tensor], layout: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, PackedLayer]]:
    """The tensors of a packed file, and what is packed in them.

    Args:
        weights: The state dict of a quantised network, on the CPU.
        layout: Its `quantised` of config.json.

    Raises:
        ArtifactError: A weight lies between the levels that the config names, or is not there.
    """
    tensors, layers = dict(weights), {}
    for name, entry in layout["layers"].items():
        weight = tensors.pop(f"{name}.weight", None)
        if weight is None or weight.ndim == 0:
            raise ArtifactError(
                f"config.json names weights of a layer {name:.80}, which the network does not have",
                hint="Something changed it after training: export the run that quantised them",
            )
        layer = PackedLayer(
            quantizer=entry["quantizer"], bits=entry["bits"], shape=tuple(weight.shape)
        )
        tensors[f"{name}{CODES}"], tensors[f"{name}{SCALE}"] = _encoded(
            name, weight, layer, entry["scale"]
        )
        layers[name] = layer
    return tensors, layers


def _encoded(
    name: str, weight: Tensor, layer: PackedLayer, scale: float | None
) -> tuple[Tensor, Tensor]:
    """The stream of codes and the scale of a weight, which they are equal to as the file is read."""
    if layer.quantizer == "binary":
        codes = (weight >= 0).to(torch.uint8)
        step = weight.flatten(1).abs().amax(dim=1).view(layer.scale_shape)
    else:
        step = torch.tensor(scale, dtype=torch.float32)
        # Where the scale is 0, so is the weight.
        level = torch.where(weight == 0, 0.0, weight / step).round() - layer.first
        codes = level.clamp(0, layer.levels - 1).to(torch.uint8)
    stream = pack_bits(codes.flatten(), layer.bits)
    if not torch.equal(_decoded(stream, step, layer), weight):
        raise ArtifactError(
            f"weights of layer {name} lie between the levels that config.json names",
            hint="Something changed them after training: export the run that quantised them",
        )
    return stream, step


def _decoded(stream: Tensor, scale: Tensor, layer: PackedLayer) -> Tensor:
    """The fp32 weight of a stream of codes.

    Raises:
        ValueError: A code is of no level, or bits are set behind the last one.
    """
    codes = unpack_bits(stream, layer.bits, layer.weights)
    if int(codes.max()) >= layer.levels:
        raise ValueError(f"a code of it is {int(codes.max())}, of {layer.levels} levels")
    return (layer.first + layer.step * codes.float()).view(layer.shape) * scale


def forms(tensors: Mapping[str, Tensor], packing: Packing) -> dict[str, Tensor]:
    """The tensors as they are once unpacked, by type and shape alone.

    Raises:
        ValueError: They are not as the config describes them.
    """
    plain = dict(tensors)
    for name, layer in packing.items():
        codes, scale = plain.pop(f"{name}{CODES}", None), plain.pop(f"{name}{SCALE}", None)
        if f"{name}.weight" in plain or codes is None or scale is None:
            raise ValueError(f"layer {name} has not codes and a scale alone")
        if codes.dtype != torch.uint8 or codes.shape != (layer.bytes,):
            raise ValueError(f"codes of layer {name} are not {layer.bytes:,} bytes")
        if scale.dtype != torch.float32 or scale.shape != layer.scale_shape:
            raise ValueError(f"the scale of layer {name} has not the shape {layer.scale_shape}")
        plain[f"{name}.weight"] = torch.empty(layer.shape, device="meta")
    return plain


def unpacked(tensors: Mapping[str, Tensor], packing: Packing) -> dict[str, Tensor]:
    """The state dict of a packed file whose forms fit.

    Raises:
        ValueError: A code is of no level, or bits are set behind the last one.
    """
    plain = dict(tensors)
    for name, layer in packing.items():
        stream, scale = plain.pop(f"{name}{CODES}"), plain.pop(f"{name}{SCALE}")
        try:
            plain[f"{name}.weight"] = _decoded(stream, scale, layer)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from None
    return plain
