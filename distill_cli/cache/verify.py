"""Verifies a cache against its manifest: every file is hashed. Torch-free."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from distill_cli.cache.figures import check_figures
from distill_cli.cache.folder import EVAL, IDS, PLAN
from distill_cli.cache.manifest import read_manifest, read_plan
from distill_cli.errors import ArtifactError
from distill_cli.files import sha256
from distill_cli.types import Count


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A file that is not what the manifest says.

    Attributes:
        file: Path inside the cache folder.
        fault: Its fault as a predicate: "is missing".
    """

    file: str
    fault: str


def damaged(folder: Path, *, workers: int, progress: Count) -> list[Damage]:
    """Hashes every file of a finished cache, several at once.

    Args:
        folder: The cache.
        workers: Threads; hashing lets go of Python's lock.
        progress: Called with (files hashed, files in all).

    Raises:
        ArtifactError: It is no cache, not finished, or its manifest cannot be trusted: it has other
            figures than its shards.
    """
    manifest = read_manifest(folder)
    expected = {shard.file: shard.sha256 for shard in manifest.shards}
    if manifest.eval_sha256 is not None:
        expected[EVAL] = manifest.eval_sha256
    if manifest.ids_sha256 is not None:
        expected[IDS] = manifest.ids_sha256
    damages = []
    pool = ThreadPoolExecutor(workers)
    try:
        faults = pool.map(lambda file: _fault(folder / file, expected[file]), expected)
        for done, (file, fault) in enumerate(zip(expected, faults, strict=True), start=1):
            progress(done, len(expected))
            if fault is not None:
                damages.append(Damage(file=file, fault=fault))
    finally:
        # A Ctrl-C cancels all hashing that has not begun, and does not wait for the rest.
        pool.shutdown(wait=False, cancel_futures=True)
    try:
        same = read_plan(folder) == manifest.plan
    except ArtifactError:
        same = False
    if not same:
        damages.append(Damage(file=PLAN, fault="is not the plan that the manifest has"))
    if not damages:
        # Of files that are what it says: who wrote it may have written other figures.
        check_figures(folder, manifest)
    return damages


def _fault(path: Path, expected: str) -> str | None:
    if not path.is_file():
        return "is missing"
    try:
        actual = sha256(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if actual != expected:
        return f"was changed: sha256 {actual[:12]}…, the manifest says {expected[:12]}…"
    return None
