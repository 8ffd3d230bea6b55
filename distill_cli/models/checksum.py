"""Checksums of saved models: that of the weights in their file's metadata, that of a config in it.

safetensors keeps none, so that a flipped bit would load. Other readers skip what they do not know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

# The checksum stands under this key and begins with this mark. Either without the other is damage.
KEY, MARK = "checksum", "distill-sha256:"
METADATA = "__metadata__"
# A safetensors file is: 8 bytes, the header's length (little-endian); the header, JSON, padded to
# a multiple of 8 bytes; the data.
_PREFIX, _ALIGNED = 8, 8


def sealed_weights(weights: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of tensors, with the sha256 of its header and data in its metadata."""
    plain = memoryview(save(dict(weights), metadata={"format": "pt"}))
    start = _PREFIX + int.from_bytes(plain[:_PREFIX], "little")
    header, data = json.loads(bytes(plain[_PREFIX:start])), plain[start:]
    hashed = hashlib.sha256(_text(header))
    hashed.update(data)
    # safetensors writes several metadata keys in random order.
    header[METADATA][KEY] = MARK + hashed.hexdigest()
    text = _text(header)
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(_PREFIX, "little") + text + data


def check_weights(path: Path) -> bool:
    """Checks a safetensors file that a reader has found to be well-formed.

    Returns:
        Whether it has a checksum.

    Raises:
        ValueError: Its bytes are not those that the checksum was made of.
    """
    with path.open("rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(_PREFIX), "little")))
        stored = _taken(header.get(METADATA, {}))
        if stored is None:
            return False
        hashed = hashlib.sha256(_text(header))
        while block := handle.read(1 << 20):
            hashed.update(block)
    _require(stored, hashed.hexdigest())
    return True


def sealed_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the sha256 of its values below `distill`, whatever the order of its keys."""
    sealed = deepcopy(dict(config))
    sealed["distill"][KEY] = MARK + _digest(sealed)
    return sealed


def check_config(config: Mapping[str, Any]) -> None:
    """Checks the values of a config that has a checksum.

    Raises:
        ValueError: They are not those that the checksum was made of.
    """
    rest = deepcopy(dict(config))
    # Under any key, lest damage to `distill` make it the config of another library.
    stored = [_taken(part) for part in rest.values() if isinstance(part, dict)]
    for checksum in stored:
        if checksum is not None:
            _require(checksum, _digest(rest))


def _taken(values: dict[str, Any]) -> tuple[str, str] | None:
    """The key and text of a checksum, which is removed from the values; None where there is none."""
    for key, value in values.items():
        if isinstance(value, str) and (key == KEY or value.startswith(MARK)):
            del values[key]
            return key, value
    return None


def _require(stored: tuple[str, str], digest: str) -> None:
    if stored != (KEY, MARK + digest):
        raise ValueError("its checksum does not agree")


def _text(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
