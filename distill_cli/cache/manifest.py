"""plan.json, what a cache is bound to, and manifest.json, what it holds. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from distill_cli.errors import ArtifactError
from distill_cli.files import read_json
from distill_cli.types import DatasetIdentity, ViewSpec

FORMAT = 1
PLAN, MANIFEST, EVAL = "plan.json", "manifest.json", "eval.safetensors"
UNFINISHED = "The dump did not finish: run the same cache-soft-labels command again"


@dataclass(frozen=True, order=True)
class ShardKey:
    """One view of one contiguous range of rows: the unit of commit.

    Attributes:
        view: Which view.
        start: First row.
        stop: One past the last row.
        number: Of the shard in its view.
    """

    view: int
    start: int
    stop: int
    number: int

    @property
    def file(self) -> str:
        """Its path below the cache folder."""
        return f"view-{self.view:04}/shard-{self.number:05}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides every byte of a cache; committed before the first shard.

    Attributes:
        dataset: The rows and their split.
        view_spec: How views are made.
        views: Views of every row.
        teacher_fingerprint: Identifies the teacher's weights.
        architecture: Of the teacher.
        codec: How logits are stored.
        precision: The teacher's arithmetic.
        teacher_batch: Rows of one teacher forward: kernels round a row differently in a batch
            of another size.
        shard_length: Rows of a shard, the last of a view is shorter.
        versions: Of the libraries that decide pixels and arithmetic.
        cpu_capability: Instruction set of the kernels.
    """

    dataset: DatasetIdentity
    view_spec: ViewSpec
    views: int
    teacher_fingerprint: str
    architecture: str
    codec: str
    precision: str
    teacher_batch: int
    shard_length: int
    versions: Mapping[str, str]
    cpu_capability: str

    def shards(self) -> list[ShardKey]:
        """All shards, view by view, in row order."""
        starts = range(0, self.dataset.samples, self.shard_length)
        return [
            ShardKey(view, start, min(start + self.shard_length, self.dataset.samples), number)
            for view in range(self.views)
            for number, start in enumerate(starts)
        ]

    def to_json(self) -> dict[str, Any]:
        """The keys of plan.json."""
        return {
            "format_version": FORMAT,
            "classes": list(self.dataset.class_names),
            "view_spec": {**self.view_spec.to_json(), "views": self.views},
            "split": {
                "seed": self.dataset.split_seed,
                "val_fraction": self.dataset.val_fraction,
            },
            "dataset": {
                "fingerprint": self.dataset.fingerprint,
                "ids_digest": self.dataset.ids_digest,
                "samples": self.dataset.samples,
            },
            "teacher": {
                "fingerprint": self.teacher_fingerprint,
                "architecture": self.architecture,
            },
            "codec": self.codec,
            "precision": self.precision,
            "teacher_batch": self.teacher_batch,
            "shard_length": self.shard_length,
            "versions": dict(self.versions),
            "cpu_capability": self.cpu_capability,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`; KeyError, TypeError or ValueError where it is malformed."""
        spec = dict(value["view_spec"])
        views = int(spec.pop("views"))
        dataset, split, teacher = value["dataset"], value["split"], value["teacher"]
        plan = cls(
            dataset=DatasetIdentity(
                fingerprint=str(dataset["fingerprint"]),
                ids_digest=str(dataset["ids_digest"]),
                samples=int(dataset["samples"]),
                class_names=tuple(value["classes"]),
                split_seed=int(split["seed"]),
                val_fraction=float(split["val_fraction"]),
            ),
            view_spec=ViewSpec.from_json(spec),
            views=views,
            teacher_fingerprint=str(teacher["fingerprint"]),
            architecture=str(teacher["architecture"]),
            codec=str(value["codec"]),
            precision=str(value["precision"]),
            teacher_batch=int(value["teacher_batch"]),
            shard_length=int(value["shard_length"]),
            versions=dict(value["versions"]),
            cpu_capability=str(value["cpu_capability"]),
        )
        if min(plan.views, plan.shard_length, plan.teacher_batch, plan.dataset.samples) < 1:
            raise ValueError("counts must be at least 1")
        return plan


def plan_differences(mine: Plan, theirs: Plan) -> list[str]:
    """Every key in which two plans differ, with both values."""
    return _differences("", mine.to_json(), theirs.to_json())


def _differences(prefix: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*mine, *theirs}):
        one, two = mine.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            found += _differences(f"{prefix}{key}.", one, two)
        elif one != two:
            found.append(f"{prefix}{key}: {one!r} here, {two!r} in the cache")
    return found


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished cache holds; committed last.

    Attributes:
        plan: What it is bound to.
        hashes: sha256 of every shard's file.
        teacher_accuracy: On the stored views of labelled rows.
        teacher_nll: Nats.
        teacher_ece: 15 bins.
        entropy: Mean entropy of the labels at T = 1, nats.
        truncation_error: Mean and worst KL(full ‖ stored), nats, by temperature.
    """

    plan: Plan
    hashes: Mapping[ShardKey, str]
    teacher_accuracy: float
    teacher_nll: float
    teacher_ece: float
    entropy: float
    truncation_error: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The keys of manifest.json: the plan's, and what was found while dumping."""
        return {
            **self.plan.to_json(),
            "shards": [
                {
                    "file": key.file,
                    "view": key.view,
                    "start": key.start,
                    "stop": key.stop,
                    "sha256": sha256,
                }
                for key, sha256 in sorted(self.hashes.items())
            ],
            "teacher_accuracy": self.teacher_accuracy,
            "teacher_nll": self.teacher_nll,
            "teacher_ece": self.teacher_ece,
            "entropy": self.entropy,
            "truncation_error": {key: dict(value) for key, value in self.truncation_error.items()},
        }


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache, finished or not."""
    return (folder / PLAN).is_file()


def expand(folder: Path) -> list[Path]:
    """The cache itself, or the caches in a folder of several teachers, sorted."""
    if is_cache(folder):
        return [folder]
    return sorted(path for path in folder.iterdir() if is_cache(path)) if folder.is_dir() else []


def read_plan(folder: Path) -> Plan:
    """The plan of a cache, finished or not.

    Raises:
        ArtifactError: It is missing, malformed, or of another format version.
    """
    return _parse(folder / PLAN, read_json(folder / PLAN))


def _parse(path: Path, value: Any) -> Plan:
    version = value.get("format_version") if isinstance(value, dict) else None
    if version != FORMAT:
        raise ArtifactError(f"{path} has format version {version}; this distill reads {FORMAT}")
    try:
        return Plan.from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is malformed: {type(error).__name__} {error}") from None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished cache.

    Raises:
        ArtifactError: The dump did not finish, the manifest is malformed, or a shard's path
            leads out of the folder, which is then not followed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"cache {folder} has no {MANIFEST}", hint=UNFINISHED)
    value = read_json(path)
    plan = _parse(path, value)
    try:
        listed = {str(entry["file"]): str(entry["sha256"]) for entry in value["shards"]}
        found = {name: float(value[name]) for name in FIGURES}
        truncation = dict(value["truncation_error"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is malformed: {type(error).__name__} {error}") from None
    for name in listed:
        check_inside(folder, name)
    expected = {key.file: key for key in plan.shards()}
    if listed.keys() != expected.keys():
        odd = sorted(listed.keys() ^ expected.keys())[0]
        raise ArtifactError(f"{path} does not list the shards of its plan: {odd}")
    hashes = {expected[name]: sha256 for name, sha256 in listed.items()}
    return Manifest(plan=plan, hashes=hashes, truncation_error=truncation, **found)


FIGURES = ("teacher_accuracy", "teacher_nll", "teacher_ece", "entropy")


def check_inside(folder: Path, name: str) -> None:
    """Refuses a shard path that leads out of the cache folder, by `..` or by a link.

    Raises:
        ArtifactError: It does; nothing outside was opened.
    """
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    if not inside or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"shard path '{name}' leads out of cache {folder}: refused")
