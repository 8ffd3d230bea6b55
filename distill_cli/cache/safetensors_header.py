"""Headers of safetensors files, read without loading the data. Torch-free.

A safetensors file is: 8 bytes, the header's length (little-endian); the header, JSON; the data.
Reading the header ourselves gives the position of each tensor in the file (to map it) and detects a
truncated file at the cost of one small read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError, counted
from distill_cli.readers.json_values import json_value

# The one metadata key of our files: safetensors writes several in random order.
METADATA = "distill"

_PREFIX = 8
_LONGEST = 1 << 20
_AXES = 16
# Bytes of a number by its type, of those types that anyone's cache holds.
_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


@dataclass(frozen=True, kw_only=True)
class Span:
    """The position of a tensor in its file.

    Attributes:
        dtype: Type as safetensors spells it: F32, F16, BF16, I64.
        shape: Shape of the tensor.
        start: First byte, from the start of the file.
        stop: One past the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """A shard file without its data.

    Attributes:
        spans: Positions of the tensors by name.
        metadata: Our metadata, parsed; empty where the file has none.
        data: First byte of the data.
        size: Size of the file, bytes.
    """

    spans: Mapping[str, Span]
    metadata: Mapping[str, Any]
    data: int
    size: int


def read_header(path: Path) -> Header:
    """Reads and checks the header of a safetensors file, and none of its data.

    Raises:
        ArtifactError: It is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing")
    try:
        return _parse(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is truncated or no safetensors file ({error})") from None


def _parse(path: Path) -> Header:
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(_PREFIX), "little")
        if not 0 < length <= min(_LONGEST, size - _PREFIX):
            raise ValueError(f"a header of {counted(length, 'byte')} in a file of {size}")
        header = json_value(handle.read(length))
    text = header.pop("__metadata__", {}).get(METADATA, "{}")
    metadata = json_value(text.encode("utf-8"))
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are no JSON object")
    data = _PREFIX + length
    spans = {name: _span(entry, data) for name, entry in header.items()}
    end = data
    for span in sorted(spans.values(), key=lambda span: (span.start, span.stop)):
        if span.start != end:
            raise ValueError("its tensors overlap, or leave a gap")
        end = span.stop
    if end != size:
        raise ValueError(f"{counted(size, 'byte')}, its header says {end}")
    return Header(spans=spans, metadata=metadata, data=data, size=size)


def _span(entry: Mapping[str, Any], data: int) -> Span:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
        raise ValueError(f"a shape {shape!r:.40} with offsets {offsets!r:.40}")
    start, stop = offsets
    # The numbers are below 2^64 and few: their product cannot take long.
    if len(shape) > _AXES or prod(shape) * _BYTES[dtype] != stop - start:
        raise ValueError(f"{dtype} {shape!r:.80} in {counted(stop - start, 'byte')}")
    return Span(dtype=dtype, shape=tuple(shape), start=data + start, stop=data + stop)
