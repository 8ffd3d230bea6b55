"""The manifest of a finished cache, and reading of plans and manifests. Torch-free.

A manifest is read before anything else of a cache. It may come from someone else: no file that it
names is opened unless it lies inside the cache folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from distill_cli.cache.folder import MANIFEST, PLAN, refuse_links_out
from distill_cli.cache.plan import Plan, ShardKey
from distill_cli.cache.quality import TEMPERATURES, Calibration, TruncationError, check_range
from distill_cli.cache.typed_values import typed
from distill_cli.errors import ArtifactError, counted
from distill_cli.readers.bounds import LISTS
from distill_cli.readers.json_values import json_value, read_json
from distill_cli.types import UNREAD, UNREAD_IMAGES

_SAFE_PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")

# The figures that every manifest has.
FIGURES = (
    *("labelled", "teacher_accuracy", "teacher_nll", "teacher_ece"),
    *("entropy", "calibration", "truncation_error"),
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoredShard:
    """A committed shard.

    Attributes:
        key: View and rows of the shard.
        file: Path inside the cache folder.
        sha256: Hash of the file, hexadecimal.
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
        """The inverse of `to_json`; `key` is the plan's shard at the same position.

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
        if file != key.file:
            raise ValueError(f"shard {file!r} should be called {key.file}")
        return cls(key=key, file=file, sha256=typed(value, "sha256", str))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished cache.

    Attributes:
        plan: The plan that the cache is bound to.
        shards: The shards, in the order of `plan.shards()`.
        eval_sha256: Hash of eval.safetensors; None where no evaluation rows are stored.
        ids_sha256: Hash of ids.safetensors; None where the plan leaves it out.
        labelled: Number of stored views of labelled samples; the teacher's accuracy, NLL and ECE
            are measured on these and are None where there are none.
        teacher_accuracy: Share of right answers.
        teacher_nll: Mean negative log-likelihood, nats.
        teacher_ece: Expected calibration error, 15 bins.
        entropy: Mean entropy of the labels over all views at T = 1, nats.
        calibration: The teacher's confidence against its accuracy, on the views.
        truncation_error: Loss of the codec by temperature, 1 to 20.
        precision_error: Loss by the teacher's arithmetic at T = 1, against its own in fp32, measured
            on evaluation rows; None where it computed in fp32 or more.
    """

    plan: Plan
    shards: tuple[StoredShard, ...]
    eval_sha256: str | None
    ids_sha256: str | None
    labelled: int
    teacher_accuracy: float | None
    teacher_nll: float | None
    teacher_ece: float | None
    entropy: float
    calibration: Calibration
    truncation_error: Mapping[int, TruncationError]
    precision_error: TruncationError | None = None

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values: the keys of the plan, then those of the manifest."""
        ids = {} if self.plan.format_version == 1 else {"ids_sha256": self.ids_sha256}
        return {
            **self.plan.to_json(),
            "shards": [shard.to_json() for shard in self.shards],
            "eval_sha256": self.eval_sha256,
            **ids,
            **figures_of(vars(self)),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            ArtifactError: Another format version, or a path that leads out of the folder.
            ValueError, TypeError, KeyError: It is malformed.
        """
        plan = Plan.from_json(value)
        if plan.sample_ids:
            typed(value, "ids_sha256", str)
        entries, lost = typed(value, "shards", list), typed(value, "truncation_error", dict)
        # Counted before the plan's shards are listed: a forged plan may have 10¹⁸ of them.
        if len(entries) != plan.views * plan.shards_per_view:
            raise ValueError(
                f"it names {counted(len(entries), 'shard')}, its plan has {plan.views * plan.shards_per_view}"
            )
        manifest = cls(
            plan=plan,
            shards=tuple(
                StoredShard.from_json(entry, key)
                for entry, key in zip(entries, plan.shards(), strict=True)
            ),
            eval_sha256=_hash(value, "eval_sha256"),
            ids_sha256=_hash(value, "ids_sha256") if plan.sample_ids else None,
            labelled=typed(value, "labelled", int),
            teacher_accuracy=_figure(value, "teacher_accuracy"),
            teacher_nll=_figure(value, "teacher_nll"),
            teacher_ece=_figure(value, "teacher_ece"),
            entropy=typed(value, "entropy", float),
            calibration=Calibration.from_json(typed(value, "calibration", dict)),
            truncation_error={t: TruncationError.from_json(lost[str(t)]) for t in TEMPERATURES},
            precision_error=(
                TruncationError.from_json(typed(value, "precision_error", dict))
                if "precision_error" in value
                else None
            ),
        )
        _check(manifest)
        return manifest


def figures_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a cache as plain JSON values, from its attributes; None for none is left out."""
    known = {key: values[key] for key in FIGURES}
    calibration, lost = asdict(values["calibration"]), values["truncation_error"]
    known["calibration"] = {key: list(bins) for key, bins in calibration.items()}
    known["truncation_error"] = {str(t): asdict(error) for t, error in lost.items()}
    if (measured := values["precision_error"]) is not None:
        known["precision_error"] = asdict(measured)
    return known


def _check(manifest: Manifest) -> None:
    """Refuses figures that no labels can have.

    Raises:
        ValueError: With the figure.
    """
    views = manifest.plan.views * manifest.plan.dataset.rows
    check_range("labelled", manifest.labelled, 0, views)
    check_range("entropy", manifest.entropy, 0, _entropy_bound(manifest.plan))
    highest = {"teacher_accuracy": 1.0, "teacher_nll": math.inf, "teacher_ece": 1.0}
    for key, most in highest.items():
        figure = getattr(manifest, key)
        if (figure is None) != (manifest.labelled == 0):
            raise ValueError(f"'{key}' is {figure}, with {manifest.labelled:,} labelled views")
        if figure is not None:
            check_range(key, figure, 0, most)
    for key, total in (("views", views), ("labelled", manifest.labelled)):
        if sum(getattr(manifest.calibration, key)) != total:
            raise ValueError(f"'calibration.{key}' should add up to {total:,}")


def _entropy_bound(plan: Plan) -> float:
    """The largest mean entropy of labels, nats: of softmax over K classes it is ln K."""
    return math.log(len(plan.dataset.class_names))


def _hash(value: Mapping[str, Any], key: str) -> str | None:
    return None if value.get(key) is None else typed(value, key, str)


def _figure(value: Mapping[str, Any], key: str) -> float | None:
    return None if value.get(key) is None else typed(value, key, float)


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
        maker = read_plan(folder).maker
        raise ArtifactError(
            f"cache {folder} is not finished: {MANIFEST} is missing",
            hint=f"The dump did not finish: rerun {maker} with the same options",
        )
    manifest = _read(path, Manifest.from_json)
    refuse_links_out(folder, [shard.file for shard in manifest.shards])
    return manifest


def parsed_manifest(content: bytes, subject: str) -> Manifest:
    """The manifest in the content of a file that is somewhere else, named `subject`.

    Raises:
        ArtifactError: It is malformed, of another format, or names a file outside a cache folder.
    """
    return _parsed(lambda: json_value(content, LISTS), subject, Manifest.from_json)


def parsed_plan(content: bytes, subject: str) -> Plan:
    """The plan in the content of such a file.

    Raises:
        ArtifactError: It is malformed, or of another format.
    """
    return _parsed(lambda: json_value(content, LISTS), subject, Plan.from_json)


def _read(path: Path, parse: Callable[[Mapping[str, Any]], T]) -> T:
    return _parsed(lambda: read_json(path, LISTS), str(path), parse)


def _parsed(read: Callable[[], Any], subject: str, parse: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        value = read()
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        return parse(value)
    except ArtifactError as error:
        raise ArtifactError(f"{subject}: {error.message}", hint=error.hint) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{subject} is malformed: {error}",
            hint="It was changed by hand or damaged: restore it, or run the command of the dump again",
        ) from None


def as_read(plan: Plan, kept: Plan) -> Plan:
    """A plan with the values that a dry run did not read taken over from the plan `kept`."""
    dataset, known = plan.dataset, kept.dataset
    if dataset.ids_digest == UNREAD:
        dataset = replace(dataset, ids_digest=known.ids_digest, samples=known.samples)
    if dataset.fingerprint == UNREAD:
        dataset = replace(dataset, fingerprint=known.fingerprint)
    if dataset.unlabelled == UNREAD_IMAGES and known.unlabelled:
        dataset = dataset.with_unlabelled_of(known)
    teacher, cross_fit = plan.teacher_fingerprint, plan.cross_fit
    if teacher == UNREAD:
        teacher = kept.teacher_fingerprint
        # Other numbers of folds are other plans.
        cross_fit = kept.cross_fit if len(kept.cross_fit) == len(cross_fit) else cross_fit
    return replace(plan, dataset=dataset, teacher_fingerprint=teacher, cross_fit=cross_fit)
