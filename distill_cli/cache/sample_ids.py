"""ids.safetensors: the sample id of every row, so that another reader knows which image it is of.

Ids are sorted, so that neighbours begin alike: each is stored as the number of bytes that it shares
with the one before, and the rest of its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from distill_cli.cache.plan import Plan
from distill_cli.cache.safetensors_header import read_header
from distill_cli.errors import ArtifactError
from distill_cli.types import digest_of_ids

# Tensors of the file: counts of shared bytes, U8 (N); the other bytes, U8, a NUL after each id's.
SHARED, REST = "shared", "rest"
MOST_SHARED = 255


def front_coded(sample_ids: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the file; the same ids make the same bytes."""
    shared, rest, last = bytearray(), bytearray(), b""
    for sample_id in sample_ids:
        spelled = sample_id.encode()
        count = min(_in_common(last, spelled), MOST_SHARED)
        shared.append(count)
        rest += spelled[count:] + b"\0"
        last = spelled
    return {
        name: torch.frombuffer(content, dtype=torch.uint8)
        for name, content in ((SHARED, shared), (REST, rest))
    }


def _in_common(left: bytes, right: bytes) -> int:
    """Number of bytes with which both begin."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))


def read_ids(path: Path, plan: Plan) -> list[str]:
    """The sample ids of the rows, in order.

    Raises:
        ArtifactError: The file is missing, malformed, or has other ids than the plan was made of.
    """
    header = read_header(path)
    if header.spans.keys() != {SHARED, REST} or any(
        span.dtype != "U8" or len(span.shape) != 1 for span in header.spans.values()
    ):
        raise ArtifactError(f"{path} holds no sample ids")
    with safe_open(path, framework="np") as file:
        shared, rest = (file.get_tensor(name).tobytes() for name in (SHARED, REST))
    pieces = rest.split(b"\0")
    sample_ids, last = [], b""
    try:
        for count, piece in zip(shared, pieces[:-1], strict=True):
            last = last[:count] + piece
            sample_ids.append(last.decode())
    except ValueError as error:
        raise ArtifactError(f"{path} is malformed: {error}") from None
    dataset = plan.dataset
    if (
        len(sample_ids) != dataset.rows
        or digest_of_ids(sample_ids[: dataset.samples]) != dataset.ids_digest
    ):
        raise ArtifactError(f"{path} names other samples than the plan's")
    return sample_ids
