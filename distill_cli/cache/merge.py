"""Merges parts of a cache that were made independently, on several machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill_cli.cache.folder import EVAL, IDS, PLAN
from distill_cli.cache.manifest import Manifest, read_plan
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.plan_diff import plan_differences
from distill_cli.cache.shards import Shards, content_digest
from distill_cli.cache.writer import CacheWriter
from distill_cli.errors import ArtifactError, counted
from distill_cli.files import write_text
from distill_cli.types import Count


def merge(parts: Sequence[Path], out: Path, *, progress: Count) -> Manifest:
    """Copies the parts' shards into one cache and finishes it; goes on where it was stopped.

    The result is byte-identical to a dump in one piece. The caller holds the lock of `out`.

    Args:
        parts: Folders of one plan.
        out: The cache to make; it may be one that was merged before.
        progress: Called with (shards merged, shards in all).

    Raises:
        ArtifactError: The parts are of different plans, lack shards, or contradict each other; no
            label is written in this case.
        InternalError: The disk is full or refuses the write.
    """
    plan = _common_plan(parts)
    # Shards that an earlier merge left in `out` must agree with the parts too.
    again = (out / PLAN).is_file() and not plan_differences(read_plan(out), plan)
    folders = [*parts, out] if again else [*parts]
    stored = [Shards(folder, plan) for folder in folders]
    keys = plan.shards()
    sources = {key: _source(key, stored) for key in keys}
    lacking = [key for key, source in sources.items() if source is None]
    beside = {
        file: _one([shards.folder for shards in stored if shards.holds_file(file)], file)
        for file in ([EVAL, IDS] if plan.sample_ids else [EVAL])
    }
    if lacking:
        first = lacking[0]
        raise ArtifactError(
            f"{len(lacking):,} of {counted(len(keys), 'shard')} {'is' if len(lacking) == 1 else 'are'} in none of the parts, or damaged: the first "
            f"is view {first.view}, rows {first.start:,} to {first.stop - 1:,}",
            hint="Give every part; a damaged one is completed by running its command again",
        )
    if None in beside.values():
        raise ArtifactError(
            "none of the parts holds the evaluation rows and the sample ids",
            hint="The first part brings them",
        )
    writer = CacheWriter(out, plan)
    for done, (key, source) in enumerate(sources.items(), start=1):
        if source is not None and not writer.shards.holds(key):
            writer.adopt(key.file, source)
        progress(done, len(keys))
    for file, source in beside.items():
        if source is not None and not writer.shards.holds_file(file):
            writer.adopt(file, source)
    recipe = next((path for part in parts if (path := part / "recipe.yaml").is_file()), None)
    if recipe is not None:
        write_text(out / "recipe.yaml", recipe.read_text(encoding="utf-8"))
    return writer.finish()


def _common_plan(parts: Sequence[Path]) -> Plan:
    """The plan of all the parts.

    Raises:
        ArtifactError: They have several.
    """
    plan = read_plan(parts[0])
    for other in parts[1:]:
        theirs = read_plan(other)
        hint = "Parts are made by the same command, but for --part and --out"
        if plan.format_version != theirs.format_version:
            hint = (
                "Formats store other numbers of a row: dump the parts of the older one again, or "
                "the others with a release that writes it"
            )
        if differing := plan_differences(plan, theirs):
            raise ArtifactError(
                f"{parts[0]} and {other} are not parts of one cache ({'; '.join(differing)})",
                hint=hint,
            )
    return plan


def _source(key: ShardKey, stored: Sequence[Shards]) -> Path | None:
    """The folder that holds a shard; where several do, their labels must be the same."""
    return _one([shards.folder for shards in stored if shards.holds(key)], key.file)


def _one(folders: Sequence[Path], file: str) -> Path | None:
    """The first of the folders that hold a file; its content must be the same in all."""
    for other in folders[1:]:
        if content_digest(folders[0] / file) != content_digest(other / file):
            raise ArtifactError(
                f"{folders[0]} and {other} hold different labels in {file}",
                hint="One of them was made by other kernels: leave it out, or dump it again",
            )
    return folders[0] if folders else None
