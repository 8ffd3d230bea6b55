"""Shards of a cache folder: which of its plan are whole, and their statistics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distill_cli.cache.codec import codec_of, layout_fault
from distill_cli.cache.figures import PRECISION_ERROR
from distill_cli.cache.folder import EVAL, refuse_links_out
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.quality import TruncationError
from distill_cli.cache.safetensors_header import read_header
from distill_cli.cache.sums import Statistics
from distill_cli.errors import ArtifactError

# Metadata key: sha256 of the other metadata and of the data behind the header.
HASH = "sha256"


class Shards:
    """The shards of a plan as they lie in a folder; nothing is written.

    Args:
        folder: A cache, finished or not.
        plan: The plan whose shards it should hold.

    Raises:
        UsageError: The plan's codec does not exist.
        ArtifactError: A link in the folder leads out of it.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        refuse_links_out(folder, [shard.file for shard in plan.shards()])
        self.folder, self.plan = folder, plan
        self.codec = codec_of(plan)
        self.digest, self.digests = plan.digest, plan.digests

    def missing(self, among: Iterable[ShardKey] | None = None) -> list[ShardKey]:
        """The shards that are still to be committed, in order; all are looked at by default."""
        keys = self.plan.shards() if among is None else among
        return [key for key in keys if not self.holds(key)]

    def holds(self, shard: ShardKey) -> bool:
        """Whether a shard is there and whole: length, layout, plan and the hash of its data agree.

        A dump makes any other again, so that a flipped bit heals itself.
        """
        return self.statistics(shard) is not None and self._hashes_well(shard.file)

    def holds_file(self, file: str) -> bool:
        """Whether a file beside the shards (evaluation rows, ids) is whole and under this plan."""
        try:
            plan = read_header(self.folder / file).metadata.get("plan")
        except ArtifactError:
            return False
        return plan in self.digests and self._hashes_well(file)

    def precision_error(self) -> TruncationError | None:
        """What the teacher's arithmetic costs, beside its evaluation rows; None where not measured."""
        values = read_header(self.folder / EVAL).metadata.get(PRECISION_ERROR)
        return None if values is None else TruncationError.from_json(values)

    def statistics(self, shard: ShardKey) -> Statistics | None:
        """The statistics of a committed shard; None where it is missing, truncated or misplaced."""
        path = self.folder / shard.file
        if path.is_symlink():
            return None
        try:
            header = read_header(path)
            metadata = dict(header.metadata)
            statistics = Statistics.from_json(metadata.pop("statistics"))
            del metadata[HASH]
            tied = metadata.pop("plan")
        except (ArtifactError, KeyError, TypeError, AttributeError, ValueError):
            return None
        fault = layout_fault(header, self.codec.layout(shard.rows))
        expected = shard_identity(self.digest, shard)
        same = tied in self.digests and {**metadata, "plan": self.digest} == expected
        return statistics if same and fault is None else None

    def _hashes_well(self, file: str) -> bool:
        path = self.folder / file
        header = read_header(path)
        metadata = dict(header.metadata)
        expected = metadata.pop(HASH, None)
        hashed = hashlib.sha256(as_text(metadata).encode())
        _hash_data(path, header.data, hashed)
        return bool(hashed.hexdigest() == expected)


def shard_identity(digest: str, shard: ShardKey) -> dict[str, Any]:
    """The metadata that tie a shard to its plan, by the plan's digest, its view and its rows."""
    return {"plan": digest, "view": shard.view, "start": shard.start, "stop": shard.stop}


def content_digest(path: Path) -> str:
    """sha256 of a cache file's data and metadata without its plan, hexadecimal."""
    header = read_header(path)
    metadata = {key: header.metadata[key] for key in header.metadata if key not in (HASH, "plan")}
    hashed = hashlib.sha256(as_text(metadata).encode())
    _hash_data(path, header.data, hashed)
    return hashed.hexdigest()


def _hash_data(path: Path, start: int, hashed: hashlib._Hash) -> None:
    with path.open("rb") as handle:
        handle.seek(start)
        while block := handle.read(1 << 20):
            hashed.update(block)


def as_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as they are stored: sorted JSON."""
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)
