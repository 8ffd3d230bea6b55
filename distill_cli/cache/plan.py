"""Plans: data, views, teacher and codec that a cache is bound to. Torch-free.

Two dumps under equal plans are equal to the byte; a dump goes on only under the plan it began with.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from distill_cli.cache.typed_values import count_of, typed
from distill_cli.errors import ArtifactError
from distill_cli.types import DatasetIdentity, Targets, ViewSpec

# Format 1 has no slope of a top-k tail and no sample ids. It is read for ever, and a dump that was
# begun in it goes on in it.
FORMAT_VERSION, FORMATS = 2, (1, 2)
# The keys of a plan in which caches must agree to be read together.
SHARED = ("classes", "view_spec", "split", "dataset")
# The entry of `versions` that is this program and no library; release 0.1.0 hashed it into the
# digests of its shards.
MAKER, TIED_TO_MAKER = "distill-cli", "0.1.0"
# Prefix of the architecture where the teacher is a file of labels.
IMPORTED = "imported-"

# Bounds for plans from elsewhere: more than anyone stores, and few enough to be listed.
MOST_SHARDS, MOST_PIXELS = 1_000_000, 1 << 16

SHARD_FILE = re.compile(r"view-(\d{4,9})/shard-(\d{5,9})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class ShardKey:
    """One view × one contiguous range of rows: the unit of commit.

    Attributes:
        view: Number of the view, from 0.
        number: Number of the shard within its view, from 0.
        start: First row.
        stop: One past the last row.
    """

    view: int
    number: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        """Its path inside the cache folder, with forward slashes."""
        return f"view-{self.view:04d}/shard-{self.number:05d}.safetensors"

    @property
    def rows(self) -> int:
        """Number of rows that it holds."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides the bytes of a cache.

    Attributes:
        dataset: The rows and the split.
        view_spec: Specification of the views.
        views: Number of views stored of every row.
        teacher_fingerprint: Fingerprint of the teacher's network or of imported labels; of cross-fitted
            networks, of all of them and of the rows that each trained on.
        architecture: The teacher's architecture, as the model zoo spells it.
        codec: Name of the codec as spelled: fp32, fp16, bf16, topk:10.
        precision: Arithmetic of the teacher's forward.
        device: Kind of device that the teacher ran on: kernels of another kind round differently.
        teacher_batch: Rows of one teacher forward: kernels round a row by the size of its batch.
        shard_length: Rows of a shard; the last shard of a view may be shorter.
        versions: Versions of the libraries that decide pixels and arithmetic.
        cpu_capability: Instruction set of torch's CPU kernels.
        targets: Kind of the logits: one class of all, or each class by itself.
        cross_fit: Fingerprints of the networks that were trained without a fold each; empty for one teacher.
        sample_ids: Whether the ids of the rows are stored beside the labels; never in format 1.
        format_version: Version of the file format.
    """

    dataset: DatasetIdentity
    view_spec: ViewSpec
    views: int
    teacher_fingerprint: str
    architecture: str
    codec: str
    precision: str
    device: str
    teacher_batch: int
    shard_length: int
    versions: Mapping[str, str]
    cpu_capability: str
    targets: Targets = "softmax"
    cross_fit: tuple[str, ...] = ()
    sample_ids: bool = True
    format_version: int = FORMAT_VERSION

    @property
    def shards_per_view(self) -> int:
        """Number of shards of one view."""
        return -(-self.dataset.rows // self.shard_length)

    def shards(self) -> list[ShardKey]:
        """Every shard, view by view, in the order of rows."""
        length, samples = self.shard_length, self.dataset.rows
        return [
            ShardKey(
                view=view,
                number=number,
                start=number * length,
                stop=min((number + 1) * length, samples),
            )
            for view in range(self.views)
            for number in range(self.shards_per_view)
        ]

    def has(self, file: str) -> bool:
        """Whether a path inside the cache folder is that of one of its shards."""
        match = SHARD_FILE.fullmatch(file)
        if match is None:
            return False
        view, number = int(match[1]), int(match[2])
        shard = ShardKey(view=view, number=number, start=0, stop=0)
        return view < self.views and number < self.shards_per_view and shard.file == file

    @property
    def maker(self) -> str:
        """The command that made it."""
        return "cache import" if self.architecture.startswith(IMPORTED) else "cache-soft-labels"

    @property
    def digest(self) -> str:
        """sha256 of the plan, hexadecimal; it ties a shard to the plan it was made under."""
        maker = self.versions.get(MAKER)
        return self._digest(maker if maker == TIED_TO_MAKER else None)

    @property
    def digests(self) -> frozenset[str]:
        """This plan's digests by every release: parts of a cache may be made by several releases."""
        return frozenset(map(self._digest, (None, TIED_TO_MAKER, self.versions.get(MAKER))))

    def _digest(self, maker: str | None) -> str:
        named = {} if maker is None else {MAKER: maker}
        versions = {key: self.versions[key] for key in self.versions if key != MAKER}
        values = {**self.to_json(), "versions": {**versions, **named}}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values: the keys of plan.json."""
        data = self.dataset
        targets = {} if self.targets == "softmax" else {"targets": self.targets}
        folds = {"cross_fit": list(self.cross_fit)} if self.cross_fit else {}
        ids = {} if self.format_version == 1 else {"sample_ids": self.sample_ids}
        return {
            "format_version": self.format_version,
            "classes": list(data.class_names),
            "view_spec": {**self.view_spec.to_json(), "views": self.views},
            "split": data.split,
            "dataset": {
                "fingerprint": data.fingerprint,
                "ids_digest": data.ids_digest,
                "samples": data.samples,
                **data.beside,
            },
            "teacher": {
                "fingerprint": self.teacher_fingerprint,
                "architecture": self.architecture,
                **targets,
                **folds,
            },
            "codec": self.codec,
            "precision": self.precision,
            "device": self.device,
            "teacher_batch": self.teacher_batch,
            "shard_length": self.shard_length,
            "versions": dict(self.versions),
            "cpu_capability": self.cpu_capability,
            **ids,
        }

    def in_format(self, version: int) -> Plan:
        """The same labels in a format that stores no more than this plan's."""
        ids = self.sample_ids and version > 1
        return replace(self, format_version=version, sample_ids=ids)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`; keys that a plan does not have are ignored.

        Raises:
            ArtifactError: The format version is another.
            ValueError, TypeError, KeyError: The plan is malformed.
        """
        version = typed(value, "format_version", int)
        if version not in FORMATS:
            raise ArtifactError(
                f"cache format {version} is none that this version reads "
                f"({', '.join(map(str, FORMATS))})",
                hint="Use the distill that made it, or dump again with cache-soft-labels",
            )
        view_spec, teacher = typed(value, "view_spec", dict), typed(value, "teacher", dict)
        plan = cls(
            dataset=_dataset(value),
            view_spec=_view_spec(view_spec),
            views=count_of(view_spec, "views"),
            teacher_fingerprint=typed(teacher, "fingerprint", str),
            architecture=typed(teacher, "architecture", str),
            codec=typed(value, "codec", str),
            precision=typed(value, "precision", str),
            device=typed(value, "device", str),
            teacher_batch=count_of(value, "teacher_batch"),
            shard_length=count_of(value, "shard_length"),
            versions=_versions(value),
            cpu_capability=typed(value, "cpu_capability", str),
            targets=_targets(teacher),
            cross_fit=_cross_fit(teacher),
            sample_ids=version > 1 and typed(value, "sample_ids", bool),
            format_version=version,
        )
        # Counted before they are listed: a forged plan may have 10¹⁸ of them.
        if plan.views * plan.shards_per_view > MOST_SHARDS:
            raise ValueError(f"it has more than {MOST_SHARDS:,} shards")
        return plan


def _versions(value: Mapping[str, Any]) -> Mapping[str, str]:
    versions = typed(value, "versions", dict)
    if not all(isinstance(version, str) for version in versions.values()):
        raise ValueError("'versions' should hold texts")
    return versions


def _targets(teacher: Mapping[str, Any]) -> Targets:
    targets: Targets = teacher.get("targets", "softmax")
    if targets not in get_args(Targets):
        raise ValueError(f"'targets' should be one of {', '.join(get_args(Targets))}")
    return targets


def _cross_fit(teacher: Mapping[str, Any]) -> tuple[str, ...]:
    folds = typed(teacher, "cross_fit", list) if "cross_fit" in teacher else []
    if not all(isinstance(fingerprint, str) for fingerprint in folds):
        raise ValueError("'cross_fit' should be a list of fingerprints")
    return tuple(folds)


def _view_spec(value: Mapping[str, Any]) -> ViewSpec:
    if not all(isinstance(step, str) for step in typed(value, "augment", list)):
        raise ValueError("'augment' should be a list of names")
    for key in ("channels", "height", "width"):
        if count_of(value, key) > MOST_PIXELS:
            raise ValueError(f"'{key}' is more than {MOST_PIXELS:,}")
    if typed(value, "source", str) not in ("table", "files"):
        raise ValueError("'source' should be table or files")
    typed(value, "seed", int)
    return ViewSpec.from_json({key: item for key, item in value.items() if key != "views"})


def _dataset(value: Mapping[str, Any]) -> DatasetIdentity:
    dataset, split = typed(value, "dataset", dict), typed(value, "split", dict)
    classes = typed(value, "classes", list)
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("'classes' should be a list of names")
    return DatasetIdentity(
        fingerprint=typed(dataset, "fingerprint", str),
        ids_digest=typed(dataset, "ids_digest", str),
        samples=count_of(dataset, "samples"),
        class_names=tuple(classes),
        split_seed=typed(split, "seed", int),
        val_fraction=typed(split, "val_fraction", float),
        **DatasetIdentity.split_rules(split),
        **_unlabelled(dataset),
    )


def _unlabelled(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The record of unlabelled images behind the rows of train, of which there may be none."""
    if "unlabelled" not in dataset:
        return {}
    fingerprint = typed(dataset, "unlabelled", str)
    if not fingerprint:
        raise ValueError("'unlabelled' should not be empty")
    return {
        "unlabelled": fingerprint,
        "unlabelled_samples": count_of(dataset, "unlabelled_samples"),
    }
