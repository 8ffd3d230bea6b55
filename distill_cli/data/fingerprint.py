"""Fingerprints of sets of images: ids, labels and contents, hashed."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from distill_cli.data.split_images import Images
from distill_cli.types import UNREAD


def fingerprint_of(table: Images, digests: Sequence[bytes] | None) -> str:
    """blake2b of the ids, labels and contents of a split; `UNREAD` without the contents."""
    if digests is None:
        return UNREAD
    whole = blake2b(digest_size=16)
    labels: list[Any] = table.label_N.tolist()
    if table.label_NK is not None:
        labels = [row_K.nonzero()[:, 0].tolist() for row_K in table.label_NK]
    for name, label, content in zip(table.sample_ids, labels, digests, strict=True):
        whole.update(f"{name}\0{label}\0".encode() + content)
    return whole.hexdigest()
