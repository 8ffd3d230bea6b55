"""Decoded images and content digests kept in the user's cache, so that they are read only once.

The cache can be deleted at any time. An entry is valid as long as size, modification and
status-change time of every file that was read for it stay the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import PIL
import torch

from distill_cli.counters import sample_key
from distill_cli.data.class_folders import SPLITS
from distill_cli.data.decode import Decoded
from distill_cli.data.inventory import Left
from distill_cli.data.pillow_io import Size
from distill_cli.data.rules import TODAY, DataRules
from distill_cli.data.source import FileSource, ItemSource, Splits
from distill_cli.data.split_images import ImageTable
from distill_cli.errors import DistillError
from distill_cli.files import by_every_rank, created, move, real_path, remove, write_json
from distill_cli.readers.bounds import LISTS
from distill_cli.readers.json_values import read_json
from distill_cli.types import EARLIER_FRAMING, Framing

FORMAT = 2
INDEX = "index.json"
# A file that changed this recently may change again within the clock's tick, unseen.
RACY_SECONDS = 2.0
# Decoded images kept in all; the longest unused go first.
LIMIT_BYTES = 20_000_000_000
# Mark in the name of a folder that is being filled, and the age at which it counts as abandoned.
MAKING, ORPHAN_SECONDS = ".making-", 3600.0

Stat = tuple[int, int, int]


def cache_folder() -> Path:
    """$DISTILL_CACHE, else distill below $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("DISTILL_CACHE"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "distill"


def stat_of(path: Path) -> Stat:
    """Size and times of a file in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(stat: Stat) -> bool:
    """Whether a file changed long enough ago that a later change would show in its times."""
    return max(stat[1:]) < (time.time() - RACY_SECONDS) * 1e9


@dataclass(frozen=True)
class Key:
    """The key of decoded images in the cache."""

    digest: str

    @property
    def folder(self) -> Path:
        """Folder of the decoded images."""
        return cache_folder() / "decoded" / self.digest


def key_of(
    stamp: str | None,
    *,
    size: Size | None,
    skip_bad: bool,
    framing: Framing = EARLIER_FRAMING,
    rules: DataRules = TODAY,
) -> Key | None:
    """The key of images with this stamp, decoded in this way; None without a stamp."""
    if stamp is None:
        return None
    # Copies are left out of what is remembered, or not: they are no part of the key.
    read: list[Any] = [framing.to_json(), rules.version, rules.split_by, rules.channels]
    # Absent where it is what it was before it could be chosen.
    read += [] if rules.megapixels == TODAY.megapixels else [rules.megapixels]
    options = [FORMAT, stamp, size, skip_bad, PIL.__version__, *read]
    return Key(blake2b(json.dumps(options).encode(), digest_size=16).hexdigest())


def archive_stamp(path: Path) -> str | None:
    """A text that changes whenever an archive may have; None where it has just changed."""
    return _stamp(str(real_path(path)), [(path.name, path)])


def stamp_of(splits: Splits) -> str | None:
    """A text that changes whenever an image may have, made without reading any; None if unknown."""
    stamps: list[str] = []
    for name, source in splits.items():
        if isinstance(source, FileSource):
            where = Path(source.files.where)
            if not where.is_dir():
                return archive_stamp(where)
            # The files of all splits are listed together; empty folders count, as they are classes.
            listed = [("/".join(parts), where.joinpath(*parts)) for parts in source.files.paths]
            folders = json.dumps(sorted("/".join(parts) for parts in source.files.folders))
            return _stamp(f"{real_path(where)} {folders}{source.listing}", listed)
        if not isinstance(source, ItemSource) or source.content is None:
            return None
        stamps.append(f"{name} {source.name} {len(source)} {source.content}")
    return "\n".join(stamps)


def _stamp(name: str, files: Sequence[tuple[str, Path]]) -> str | None:
    whole = blake2b(name.encode(errors="surrogateescape"), digest_size=16)
    try:
        for relative, path in files:
            stat = stat_of(path)
            if not is_settled(stat):
                return None
            whole.update(f"{relative}\0{stat}\0".encode(errors="surrogateescape"))
    except OSError:
        return None
    return whole.hexdigest()


def recall(key: Key, *, glance: bool = False) -> Decoded | None:
    """The decoded images, mapped from disk; None where they are not remembered, or damaged.

    Args:
        key: Key of the images.
        glance: Only read the index, for a dry run, and do not note its use.
    """
    try:
        index = read_json(key.folder / INDEX, LISTS)
        tables = {
            name: _map(key.folder, name, kept, glance) for name, kept in index["tables"].items()
        }
        decoded = Decoded(
            tables=tables,
            class_names=tuple(index["class_names"]),
            digests={
                name: tuple(bytes.fromhex(text) for text in kept["digests"])
                for name, kept in index["tables"].items()
            },
            left=tuple(Left(*one) for one in index["left"]),
            grey=(index["grey"][0], index["grey"][1]),
        )
    except Exception:
        # Whatever is wrong with what is remembered, the images are at hand.
        return None
    if glance:
        return decoded
    with suppress(OSError):
        # The time of last use, by which entries are deleted; somebody else's cache is only read.
        os.utime(key.folder / INDEX)
    return decoded


def _map(folder: Path, name: str, kept: Mapping[str, Any], glance: bool) -> ImageTable:
    path, shape = folder / f"{name}.u8", kept["shape"]
    rows = {len(kept[key]) for key in ("ids", "labels", "digests")}
    if name not in SPLITS or rows != {shape[0]} or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError("no images of a split")
    size = shape[0] * shape[1] * shape[2] * shape[3]
    if path.stat().st_size != size:
        raise ValueError("not what the index says")
    if glance:
        pixels = torch.empty(size, dtype=torch.uint8, device="meta")
    else:
        pixels = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        if crc32(pixels.numpy().data) != kept["crc32"]:
            raise ValueError("damaged")
    return ImageTable(
        images_NCHW=pixels.view(shape),
        label_N=torch.tensor(kept["labels"], dtype=torch.int64),
        key_N=torch.tensor([sample_key(name) for name in kept["ids"]], dtype=torch.int64),
        sample_ids=tuple(kept["ids"]),
    )


def remember(key: Key, decoded: Decoded) -> Decoded:
    """Keeps decoded images for the next time; a failure is no error.

    Returns:
        The same images, mapped from disk where they could be kept.
    """
    # The memory is a machine's, and ranks may be on several.
    with by_every_rank():
        return _remember(key, decoded)


def _remember(key: Key, decoded: Decoded) -> Decoded:
    making = key.folder.with_name(f"{key.folder.name}{MAKING}{os.getpid()}")
    try:
        remove(making)
        for name, table in decoded.tables.items():
            with created(making / f"{name}.u8") as handle:
                table.images_NCHW.numpy().tofile(handle)
        write_json(making / INDEX, _index(decoded))
        if recall(key) is None:
            # A damaged entry is removed; another process's map of it stays valid.
            remove(key.folder)
        move(making, key.folder)
        _forget(key.folder)
    except (OSError, DistillError):
        # The disk is full or read-only, home is missing, or another process was quicker.
        with suppress(DistillError):
            remove(making)
        return decoded
    return recall(key) or decoded


def _index(decoded: Decoded) -> dict[str, Any]:
    return {
        "class_names": list(decoded.class_names),
        "left": [[one.where, one.kind, one.reason] for one in decoded.left],
        "grey": list(decoded.grey),
        "tables": {
            name: {
                "shape": list(table.images_NCHW.shape),
                "crc32": crc32(table.images_NCHW.numpy().data),
                "ids": list(table.sample_ids),
                "labels": table.label_N.tolist(),
                "digests": [digest.hex() for digest in decoded.digests[name]],
            }
            for name, table in decoded.tables.items()
        },
    }


def _forget(kept: Path) -> None:
    """Removes folders of killed writers, then the longest unused entries until the rest fits."""
    folders: list[tuple[float, Path]] = []
    for path in kept.parent.iterdir():
        if (path / INDEX).is_file() and MAKING not in path.name:
            folders.append(((path / INDEX).stat().st_mtime, path))
        elif path.stat().st_mtime < time.time() - ORPHAN_SECONDS:
            with suppress(DistillError):
                remove(path)
    total = 0
    for _, folder in sorted(folders, reverse=True):
        total += sum(file.stat().st_size for file in folder.iterdir())
        if total > LIMIT_BYTES and folder != kept:
            with suppress(DistillError):
                remove(folder)
