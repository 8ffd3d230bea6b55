"""Writes a cache, shard by shard. Shapes: N rows, K classes.

The plan is committed first and the manifest last; a shard is whole or absent. After a kill at any
moment the same calls go on where they stopped and end in the same bytes. The caller holds the
folder's lock (`files.one_writer`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distill_cli.cache.figures import check_figures, figures
from distill_cli.cache.folder import EVAL, IDS, MANIFEST, PLAN
from distill_cli.cache.manifest import Manifest, StoredShard, as_read, read_manifest, read_plan
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.plan_diff import plan_differences
from distill_cli.cache.shard_writer import ShardWriter
from distill_cli.cache.shards import Shards
from distill_cli.cache.sums import Statistics, merged
from distill_cli.errors import ArtifactError, InternalError, counted
from distill_cli.files import (
    remove,
    remove_temporaries,
    sha256,
    write_atomically,
    write_bytes,
    write_json,
)


class CacheWriter(ShardWriter):
    """One cache in the making, new or continued.

    Args:
        folder: Folder of the cache, created where absent.
        plan: Plan of the cache, committed at once.

    Raises:
        UsageError: The plan's codec does not exist.
        ArtifactError: The folder holds a cache of another plan.
        InternalError: The disk is full or refuses the write.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        if folder.is_dir():
            remove_temporaries(folder)
        begun = (folder / PLAN).exists()
        # A cache that was begun keeps its plan: the release that made it may be another.
        super().__init__(require_plan(folder, plan) if begun else plan, self.store)
        self.shards = Shards(folder, self.plan)
        if not begun:
            with _rerun_hint():
                write_json(folder / PLAN, plan.to_json())

    def missing(self, among: Iterable[ShardKey] | None = None) -> list[ShardKey]:
        """The shards that are still to be committed, in order; all are looked at by default."""
        return self.shards.missing(among)

    @property
    def has_eval(self) -> bool:
        """Whether the evaluation rows are stored, whole and under this plan."""
        return self.shards.holds_file(EVAL)

    @property
    def has_ids(self) -> bool:
        """Whether the sample ids are stored, whole and under this plan, or the plan leaves them out."""
        return not self.plan.sample_ids or self.shards.holds_file(IDS)

    def adopt(self, file: str, source: Path) -> None:
        """Copies a committed file of another folder under the same plan, atomically."""
        self.reopen()
        with _rerun_hint(), (source / file).open("rb") as stream:
            write_atomically(self.folder / file, lambda handle: shutil.copyfileobj(stream, handle))

    def finish(self) -> Manifest:
        """Commits the manifest, from the shards' own statistics; a finished cache is left alone.

        Raises:
            InternalError: Shards are missing, or the disk refuses the write.
        """
        finished = self._finished()
        if finished is not None:
            return finished
        statistics = [self.shards.statistics(key) for key in self.plan.shards()]
        present = [part for part in statistics if part is not None]
        if lacking := len(statistics) - len(present):
            raise InternalError(
                f"{lacking:,} of {counted(len(statistics), 'shard')} of {self.folder} "
                f"{'is' if lacking == 1 else 'are'} missing or damaged",
                hint="Run the same command again: it makes only those",
            )
        assert self.has_ids
        manifest = self._manifest(merged(present))
        with _rerun_hint():
            write_json(self.folder / MANIFEST, manifest.to_json())
        return manifest

    def _finished(self) -> Manifest | None:
        """The manifest of an earlier run, if it is this plan's and all its files and figures are intact."""
        try:
            manifest = read_manifest(self.folder)
        except ArtifactError:
            return None
        # Shards were checked when the manifest was written: the same bytes are enough.
        files = {shard.file: shard.sha256 for shard in manifest.shards}
        if manifest.eval_sha256 is not None or self.has_eval:
            files[EVAL] = manifest.eval_sha256 or ""
        if manifest.ids_sha256 is not None:
            files[IDS] = manifest.ids_sha256
        same = manifest.plan == self.plan and all(
            (self.folder / file).is_file() and sha256(self.folder / file) == expected
            for file, expected in files.items()
        )
        try:
            if same:
                check_figures(self.folder, manifest)
                return manifest
        except ArtifactError:
            # Figures that were changed by hand are computed again from the shards.
            pass
        return None

    def _manifest(self, total: Statistics) -> Manifest:
        return Manifest(
            plan=self.plan,
            shards=tuple(
                StoredShard(key=key, file=key.file, sha256=sha256(self.folder / key.file))
                for key in self.plan.shards()
            ),
            eval_sha256=sha256(self.folder / EVAL) if self.has_eval else None,
            ids_sha256=sha256(self.folder / IDS) if self.plan.sample_ids else None,
            **figures(total, self.shards.precision_error() if self.has_eval else None),
        )

    def store(self, file: str, content: bytes) -> None:
        """Stores a file that a `ShardWriter` of this plan made, atomically.

        Raises:
            InternalError: The disk is full or refuses the write.
        """
        self.reopen()
        with _rerun_hint():
            write_bytes(self.folder / file, content)

    def reopen(self) -> None:
        """Removes a manifest: it describes the files as they were before."""
        remove(self.folder / MANIFEST)


def require_plan(folder: Path, plan: Plan) -> Plan:
    """The plan of a cache that was begun, if it may go on under this one; its format goes on too.

    Raises:
        ArtifactError: The plans differ; the message says how.
    """
    kept = read_plan(folder)
    differing = plan_differences(kept, plan.in_format(kept.format_version))
    if differing:
        raise ArtifactError(
            f"{folder} holds a cache of another plan ({'; '.join(differing)})",
            hint="Choose another --out, or use the options it was made with",
        )
    return kept


def continued(folder: Path, plan: Plan) -> Plan:
    """The plan under which a folder's cache begins or goes on.

    Values that a dry run did not read are taken from the plan that is there.

    Raises:
        ArtifactError: The folder holds a cache of another plan.
    """
    if not (folder / PLAN).exists():
        return plan
    return require_plan(folder, as_read(plan, read_plan(folder)))


@contextmanager
def _rerun_hint() -> Iterator[None]:
    """Replaces the hint of write errors: a dump has no --resume, the same command goes on."""
    try:
        yield
    except InternalError as error:
        raise InternalError(
            error.message,
            hint="What was committed is intact: run the same command again to go on",
        ) from error
