"""Whether a cache is what its manifest says: every file hashed. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from distill_cli.cache.folder import EVAL, PLAN
from distill_cli.cache.manifest import read_manifest, read_plan
from distill_cli.errors import ArtifactError
from distill_cli.files import sha256

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A file that is not what the manifest says.

    Attributes:
        file: Path inside the cache folder.
        said: What is wrong with it.
    """

    file: str
    said: str


def damaged(folder: Path, *, workers: int, progress: Progress) -> list[Damage]:
    """Hashes every file of a finished cache, several at once.

    Args:
        folder: The cache.
        workers: Threads; hashing lets go of Python's lock.
        progress: Called with (files hashed, files in all).

    Raises:
        ArtifactError: It is no cache, not finished, or its manifest cannot be trusted.
    """
    manifest = read_manifest(folder)
    expected = {shard.file: shard.sha256 for shard in manifest.shards}
    if manifest.eval_sha256 is not None:
        expected[EVAL] = manifest.eval_sha256
    found = []
    pool = ThreadPoolExecutor(workers)
    try:
        faults = pool.map(lambda each: _fault(folder / each[0], each[1]), expected.items())
        for done, (file, said) in enumerate(zip(expected, faults, strict=True), start=1):
            progress(done, len(expected))
            if said is not None:
                found.append(Damage(file=file, said=said))
    finally:
        # After a Ctrl-C nothing more is hashed, and nobody waits for what is.
        pool.shutdown(wait=False, cancel_futures=True)
    try:
        same = read_plan(folder) == manifest.plan
    except ArtifactError:
        same = False
    if not same:
        found.append(Damage(file=PLAN, said="is not the plan that the manifest has"))
    return found


def _fault(path: Path, expected: str) -> str | None:
    if not path.is_file():
        return "is missing"
    try:
        found = sha256(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found != expected:
        return f"was changed: sha256 {found[:12]}…, the manifest says {expected[:12]}…"
    return None
