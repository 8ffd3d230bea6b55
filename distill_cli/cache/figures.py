"""Figures of a cache: those that its manifest has, held against the sums in its shards. Torch-free."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from distill_cli.cache.folder import EVAL, MANIFEST
from distill_cli.cache.json_diff import flat
from distill_cli.cache.manifest import Manifest, figures_of
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.quality import ROUNDING, TruncationError
from distill_cli.cache.safetensors_header import read_header
from distill_cli.cache.sums import Statistics, merged
from distill_cli.errors import ArtifactError

# The metadata of evaluation rows: what the teacher's arithmetic costs.
PRECISION_ERROR = "precision_error"


def figures(total: Statistics, precision_error: TruncationError | None) -> dict[str, Any]:
    """The figures of a manifest by their names, computed from the sums over all shards."""
    measured = total.labelled > 0
    return {
        "labelled": total.labelled,
        "teacher_accuracy": total.accuracy if measured else None,
        "teacher_nll": total.nll if measured else None,
        "teacher_ece": total.ece if measured else None,
        "entropy": total.entropy,
        "calibration": total.calibration,
        "truncation_error": total.truncation_error,
        "precision_error": precision_error,
    }


def check_figures(folder: Path, manifest: Manifest) -> None:
    """Computes a cache's figures again, from the headers of its files.

    Raises:
        ArtifactError: A shard or its sums are damaged, or the manifest has another figure than they.
    """
    total = merged([_sums(folder, manifest.plan, shard.key) for shard in manifest.shards])
    kept = flat(figures_of(vars(manifest)))
    again = flat(figures_of(figures(total, _precision_error(folder, manifest))))
    for key in dict.fromkeys((*kept, *again)):
        if not _same(kept.get(key), again.get(key)):
            raise ArtifactError(
                f"{folder / MANIFEST} has {key} {_shown(kept.get(key))}, the sums in its shards give "
                f"{_shown(again.get(key))}",
                hint="It was changed by hand or damaged: restore it, or run the command of the dump again",
            )


def _sums(folder: Path, plan: Plan, key: ShardKey) -> Statistics:
    path = folder / key.file
    metadata = read_header(path).metadata
    try:
        sums = Statistics.from_json(metadata["statistics"])
        if sums.rows != key.rows or metadata["plan"] not in plan.digests:
            raise ValueError("they are of other rows, or of another plan")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"the statistics in {path} are malformed: {error}") from None
    return sums


def _precision_error(folder: Path, manifest: Manifest) -> TruncationError | None:
    """What the teacher's arithmetic costs, as it stands beside the evaluation rows."""
    if manifest.eval_sha256 is None:
        return None
    path = folder / EVAL
    values = read_header(path).metadata.get(PRECISION_ERROR)
    try:
        return None if values is None else TruncationError.from_json(values)
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"'{PRECISION_ERROR}' in {path} is malformed: {error}") from None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return bool(one == other)


def _shown(figure: Any) -> str:
    if isinstance(figure, int | float):
        return f"{figure:g}"
    return "nothing" if figure is None else f"{figure!r:.60}"
