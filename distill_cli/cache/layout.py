"""Where a shard's tensors lie in its file: the safetensors header, read without the tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_cli.cache.manifest import UNFINISHED
from distill_cli.errors import ArtifactError

# Our headers hold one or a few tensors and a string of statistics.
LONGEST_HEADER = 1_000_000


@dataclass(frozen=True)
class Place:
    """One tensor of a file: its type, as safetensors spells it, shape and byte offset."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """What a shard's header says.

    Attributes:
        places: By tensor name.
        payload: Byte at which the tensors begin.
        statistics: What the writer found, or None.
    """

    places: dict[str, Place]
    payload: int
    statistics: dict[str, Any] | None


def read_header(path: Path) -> Header:
    """The header of a shard, checked against the file's length.

    Raises:
        ArtifactError: The file is missing, truncated, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size):
                raise ValueError("it has no header")
            values = json.loads(handle.read(length))
        metadata = values.pop("__metadata__", {})
        places = {
            str(name): Place(
                str(entry["dtype"]),
                tuple(int(side) for side in entry["shape"]),
                8 + length + int(entry["data_offsets"][0]),
            )
            for name, entry in values.items()
        }
        end = max(int(entry["data_offsets"][1]) for entry in values.values())
        if size != 8 + length + end:
            raise ValueError(f"it has {size} bytes instead of {8 + length + end}")
        statistics = json.loads(metadata["statistics"]) if "statistics" in metadata else None
    except FileNotFoundError:
        raise ArtifactError(f"shard {path} is missing", hint=UNFINISHED) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArtifactError(
            f"shard {path} is damaged: {error}",
            hint="Run the same cache-soft-labels command again to make it anew",
        ) from None
    return Header(places, 8 + length, statistics)
