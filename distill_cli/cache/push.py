"""Copies finished caches to and from places that other machines reach, with hashes. Torch-free.

The manifest goes last, both ways: a cache that is there is whole. What a killed copy has stored is not
copied again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_cli.cache.folder import EVAL, IDS, MANIFEST, PLAN, SUMS
from distill_cli.cache.manifest import (
    Manifest,
    parsed_manifest,
    parsed_plan,
    read_manifest,
    read_plan,
)
from distill_cli.cache.places import Place
from distill_cli.cache.plan import Plan
from distill_cli.cache.plan_diff import plan_differences
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.files import remove, remove_temporaries, sha256, write_bytes
from distill_cli.readers.bounds import LISTS
from distill_cli.types import Count

# Most bytes of the list of hashes.
MOST_SUMS = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a copy did.

    Attributes:
        files: Files of the cache.
        copied: Files that were copied; the others lay there already.
        bytes: Length of those that were copied.
    """

    files: int
    copied: int
    bytes: int


def push(folder: Path, place: Place, beside: Sequence[str], *, progress: Count) -> Copied:
    """Copies a finished cache to a place; only what the place lacks.

    Every file is hashed before it goes and read back once it has gone.

    Args:
        folder: The cache.
        place: The place.
        beside: Names of files that go along where they are there: the recipe, the card.
        progress: Called with (files done, files in all).

    Raises:
        UsageError: Another cache lies there.
        ArtifactError: The cache is not finished, a file of it is damaged, or what was stored is read
            back as something else.
    """
    manifest = read_manifest(folder)
    sums = _of_manifest(manifest)
    for file in (PLAN, MANIFEST, *(name for name in beside if (folder / name).is_file())):
        sums[file] = sha256(folder / file)
    there = place.sizes()
    if (kept := place.content(PLAN, LISTS.size)) is not None:
        _require_plan(parsed_plan(kept, place.address(PLAN)), manifest.plan, place.address())
    if MANIFEST in there and place.digest(MANIFEST) != sums[MANIFEST]:
        # It describes files that are about to change.
        place.remove(MANIFEST)
    copied = length = 0
    for done, file in enumerate(_in_order(sums), start=1):
        path = folder / file
        if sums[file] != sha256(path):
            raise ArtifactError(
                f"{path} was changed: its sha256 is not the manifest's",
                hint=f"Rerun {manifest.plan.maker} with the same options: it makes only what is damaged",
            )
        if file == MANIFEST and place.content(SUMS, MOST_SUMS) != _listed(sums):
            place.store(SUMS, _listed(sums))
        size = path.stat().st_size
        if there.get(file) != size or place.digest(file) != sums[file]:
            place.upload(path, file)
            if place.digest(file) != sums[file]:
                raise ArtifactError(
                    f"{place.address(file)} is not what was stored there",
                    hint="Does someone else write to this place? Run the same command again",
                )
            copied, length = copied + 1, length + size
        progress(done, len(sums))
    return Copied(files=len(sums), copied=copied, bytes=length)


def pull(place: Place, folder: Path, beside: Sequence[str], *, progress: Count) -> Copied:
    """Copies a finished cache from a place; only what the folder lacks. The caller holds its lock.

    Args:
        place: The place.
        folder: The cache to make.
        beside: Names of files that come along where they are there.
        progress: Called with (files done, files in all).

    Raises:
        UsageError: The folder holds another cache.
        ArtifactError: No finished cache lies there, or a file has another hash than it should have:
            that one is not stored.
    """
    content = place.content(MANIFEST, LISTS.size)
    if content is None:
        raise ArtifactError(
            f"no finished cache lies at {place.address()}: {MANIFEST} is missing",
            hint="`distill cache push CACHE URL` stores one, its manifest last",
        )
    manifest = parsed_manifest(content, place.address(MANIFEST))
    listed, there = _sums(place), place.sizes()
    sums: dict[str, str | None] = {**_of_manifest(manifest), PLAN: listed.get(PLAN)}
    sums |= {file: listed.get(file) for file in beside if file in there}
    if (folder / PLAN).exists():
        _require_plan(read_plan(folder), manifest.plan, str(folder))
    remove_temporaries(folder)
    if not _is(folder / MANIFEST, content):
        remove(folder / MANIFEST)
    copied = length = 0
    for done, file in enumerate(_in_order(sums), start=1):
        path, expected = folder / file, sums[file]
        if expected is None or not path.is_file() or sha256(path) != expected:
            place.download(file, path, expected)
            copied, length = copied + 1, length + path.stat().st_size
        progress(done, len(sums) + 1)
    if not _is(folder / MANIFEST, content):
        write_bytes(folder / MANIFEST, content)
        copied, length = copied + 1, length + len(content)
    progress(len(sums) + 1, len(sums) + 1)
    return Copied(files=len(sums) + 1, copied=copied, bytes=length)


def caches_at(place: Place) -> list[str]:
    """The sub-folders of a place that hold finished caches, sorted; "" where it is one itself.

    Raises:
        ArtifactError: There are none.
    """
    there = place.sizes()
    if MANIFEST in there:
        return [""]
    inner = sorted(
        file.split("/")[0]
        for file in there
        if file.count("/") == 1 and file.endswith(f"/{MANIFEST}")
    )
    if not inner:
        raise ArtifactError(
            f"no finished cache lies at {place.address()} ({counted(len(there), 'file')} there)",
            hint="`distill cache push CACHE URL` stores one, its manifest last",
        )
    return inner


def _of_manifest(manifest: Manifest) -> dict[str, str]:
    """sha256 by file, of all that the manifest names."""
    sums = {shard.file: shard.sha256 for shard in manifest.shards}
    for file, digest in ((EVAL, manifest.eval_sha256), (IDS, manifest.ids_sha256)):
        if digest is not None:
            sums[file] = digest
    return sums


def _in_order(sums: Mapping[str, str | None]) -> list[str]:
    """The plan first, the manifest last."""
    return sorted(sums, key=lambda file: (file == MANIFEST, file != PLAN, file))


def _listed(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sums[file]}  {file}\n" for file in _in_order(sums)).encode()


def _require_plan(kept: Plan, plan: Plan, subject: str) -> None:
    """Refuses to mix two caches.

    Raises:
        UsageError: The plans differ; the message says how.
    """
    if differing := plan_differences(kept, plan):
        raise UsageError(
            f"{subject} holds a cache of another plan ({'; '.join(differing)})",
            hint="Choose another place, or remove that cache first",
        )


def _sums(place: Place) -> dict[str, str]:
    """The place's list of hashes; empty where it has none."""
    content = place.content(SUMS, MOST_SUMS) or b""
    pairs = (line.split("  ", 1) for line in content.decode("utf-8", "replace").splitlines())
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def _is(path: Path, content: bytes) -> bool:
    """Whether a file has this content."""
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
