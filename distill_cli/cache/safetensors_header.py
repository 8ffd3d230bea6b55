"""Headers of safetensors files, read without loading the data. Torch-free.

A safetensors file is: 8 bytes, the header's length (little-endian); the header, JSON; the data.
Reading the header ourselves gives the position of each tensor in the file (to map it) and detects a
truncated file at the cost of one small read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError, counted

# The one metadata key of our files: safetensors writes several in random order.
METADATA = "distill"

_PREFIX = 8
_LONGEST = 1 << 20


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
        header = json.loads(handle.read(length))
    metadata = header.pop("__metadata__", {}).get(METADATA, "{}")
    data = _PREFIX + length
    spans = {name: _span(entry, data) for name, entry in header.items()}
    end = max((span.stop for span in spans.values()), default=data)
    if end != size:
        raise ValueError(f"{counted(size, 'byte')}, its header says {end}")
    return Header(spans=spans, metadata=dict(json.loads(metadata)), data=data, size=size)


def _span(entry: Mapping[str, Any], data: int) -> Span:
    start, stop = (int(offset) for offset in entry["data_offsets"])
    if not 0 <= start <= stop:
        raise ValueError(f"offsets {start} to {stop}")
    return Span(
        dtype=str(entry["dtype"]),
        shape=tuple(int(size) for size in entry["shape"]),
        start=data + start,
        stop=data + stop,
    )
