"""What a finished cache says of itself, and how cache folders are told. Torch-free.

A manifest is read before anything else of a cache: it may come from someone else, so that no file
it names is opened unless it lies inside the cache folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from distill_cli.cache.plan import Plan, ShardKey, plan_differences, typed
from distill_cli.errors import ArtifactError
from distill_cli.files import read_json

__all__ = [
    "EVAL",
    "MANIFEST",
    "PLAN",
    "Calibration",
    "Manifest",
    "Plan",
    "ShardKey",
    "StoredShard",
    "TruncationError",
    "expand",
    "is_cache",
    "plan_differences",
    "read_manifest",
    "read_plan",
]

PLAN = "plan.json"
MANIFEST = "manifest.json"
EVAL = "eval.safetensors"

# Of KL(full ‖ stored), the cost of a codec.
TEMPERATURES = (1, 2, 4, 8, 20)

_SAFE_PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoredShard:
    """A committed shard.

    Attributes:
        key: Its view and rows.
        file: Path inside the cache folder.
        sha256: Of the file, hexadecimal.
    """

    key: ShardKey
    file: str
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The shard as plain JSON values."""
        return {
            "file": self.file,
            "view": self.key.view,
            "start": self.key.start,
            "stop": self.key.stop,
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], key: ShardKey) -> StoredShard:
        """The inverse of `to_json`; `key` is the shard that the plan has at this place.

        Raises:
            ArtifactError: The file's path is not a plain one inside the cache folder.
            ValueError, TypeError: It is malformed, or another shard.
        """
        if any(typed(value, name, int) != getattr(key, name) for name in ("view", "start", "stop")):
            raise ValueError(f"the shards do not cover the plan's rows: {key.file} is not in place")
        file = typed(value, "file", str)
        if not _SAFE_PATH.fullmatch(file) or ".." in file.split("/"):
            raise ArtifactError(
                f"shard path {file!r} does not lie inside the cache folder",
                hint="Do not use this cache: nothing outside it was opened",
            )
        return cls(key=key, file=file, sha256=typed(value, "sha256", str))


@dataclass(frozen=True, kw_only=True)
class TruncationError:
    """What a codec lost at one temperature: KL(full ‖ stored) over all views, nats.

    Attributes:
        mean_kl: Over views; 0 for fp32.
        worst_kl: Of a single view.
    """

    mean_kl: float
    worst_kl: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often the teacher is as sure as it says, in 15 bins: bin b is (b/15, (b + 1)/15].

    Attributes:
        views: Stored views by the confidence of the teacher's answer.
        labelled: Those of labelled samples.
        confidence: Sum of the confidences of the labelled ones.
        correct: Right answers among the labelled ones.
    """

    views: tuple[int, ...]
    labelled: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[int, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """From lists of the same names.

        Raises:
            ValueError: It is malformed.
        """
        found = {field.name: tuple(typed(value, field.name, list)) for field in fields(cls)}
        numbers = (number for column in found.values() for number in column)
        if len({len(column) for column in found.values()}) > 1 or not all(
            type(number) in (int, float) for number in numbers
        ):
            raise ValueError("'calibration' should hold lists of numbers of one length")
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished cache.

    Attributes:
        plan: What it is bound to.
        shards: In the order of `plan.shards()`.
        eval_sha256: Of eval.safetensors; None where no evaluation rows are stored.
        labelled: Stored views of labelled samples: what the next three are measured on.
        teacher_accuracy: Share of right answers on the views; 0 where nothing is labelled.
        teacher_nll: Nats, on the views; 0 where nothing is labelled.
        teacher_ece: 15 bins, on the views; 0 where nothing is labelled.
        entropy: Mean entropy of the labels over all views at T = 1, nats.
        calibration: Its confidence against its accuracy, on the views.
        truncation_error: By temperature, 1 to 20.
    """

    plan: Plan
    shards: tuple[StoredShard, ...]
    eval_sha256: str | None
    labelled: int
    teacher_accuracy: float
    teacher_nll: float
    teacher_ece: float
    entropy: float
    calibration: Calibration
    truncation_error: Mapping[int, TruncationError]

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values: the plan's keys, then its own."""
        return {
            **self.plan.to_json(),
            "shards": [shard.to_json() for shard in self.shards],
            "eval_sha256": self.eval_sha256,
            "labelled": self.labelled,
            "teacher_accuracy": self.teacher_accuracy,
            "teacher_nll": self.teacher_nll,
            "teacher_ece": self.teacher_ece,
            "entropy": self.entropy,
            "calibration": {key: list(bins) for key, bins in asdict(self.calibration).items()},
            "truncation_error": {
                str(temperature): asdict(error)
                for temperature, error in self.truncation_error.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            ArtifactError: Another format version, or a path that leads out of the folder.
            ValueError, TypeError, KeyError: It is malformed.
        """
        plan = Plan.from_json(value)
        entries, lost = typed(value, "shards", list), typed(value, "truncation_error", dict)
        # Counted before the plan's shards are listed: a forged plan may have 10¹⁸ of them.
        if len(entries) != plan.views * plan.shards_per_view:
            raise ValueError(
                f"it names {len(entries)} shards, its plan has {plan.views * plan.shards_per_view}"
            )
        return cls(
            plan=plan,
            shards=tuple(
                StoredShard.from_json(entry, key)
                for entry, key in zip(entries, plan.shards(), strict=True)
            ),
            eval_sha256=None
            if value.get("eval_sha256") is None
            else typed(value, "eval_sha256", str),
            labelled=typed(value, "labelled", int),
            teacher_accuracy=typed(value, "teacher_accuracy", float),
            teacher_nll=typed(value, "teacher_nll", float),
            teacher_ece=typed(value, "teacher_ece", float),
            entropy=typed(value, "entropy", float),
            calibration=Calibration.from_json(typed(value, "calibration", dict)),
            truncation_error={int(key): TruncationError(**error) for key, error in lost.items()},
        )


def read_plan(folder: Path) -> Plan:
    """The plan of a cache, finished or not.

    Raises:
        ArtifactError: The folder is no cache, or the plan is malformed or of another format.
    """
    path = folder / PLAN
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is no cache: {PLAN} is missing",
            hint="Give a folder made by cache-soft-labels",
        )
    return _read(path, Plan.from_json)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished cache. Opens no shard.

    Raises:
        ArtifactError: The dump did not finish, the manifest is malformed or of another format, or
            a file it names leads out of the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        read_plan(folder)
        raise ArtifactError(
            f"cache {folder} is not finished: {MANIFEST} is missing",
            hint="The dump did not finish: rerun cache-soft-labels with the same options",
        )
    manifest = _read(path, Manifest.from_json)
    _refuse_links_out(folder, [shard.file for shard in manifest.shards])
    return manifest


def _read(path: Path, parse: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        return parse(value)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error.message}", hint=error.hint) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is malformed: {error}",
            hint="It was changed by hand or damaged: restore it, or dump again into a new folder",
        ) from None


def _refuse_links_out(folder: Path, files: list[str]) -> None:
    """Refuses symlinks that lead out; each parent is resolved once, a cache may have 10⁴ files."""
    root = folder.resolve()
    paths = [folder / file for file in [*files, EVAL]]
    linked = [path for path in paths if path.is_symlink()]
    for path in [*dict.fromkeys(path.parent for path in paths), *linked]:
        if not _resolves_inside(path, root):
            raise ArtifactError(
                f"{path} is a link that leads out of the cache folder",
                hint="Do not use this cache: nothing outside it was opened",
            )


def _resolves_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache, finished or not."""
    return (folder / PLAN).is_file() or (folder / MANIFEST).is_file()


def expand(folder: Path) -> list[Path]:
    """The folder itself if it is a cache, else its sub-folders that are, by name; maybe none."""
    if is_cache(folder):
        return [folder]
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if is_cache(child))
