"""The names that distill's own folders hold: whatever else lies in one is somebody else's. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distill_cli.cache.folder import EVAL, IDS, MANIFEST, PLAN, SUMS, is_cache
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import LOCK, TEMPORARY, check_writable, linked, named_file, real_path
from distill_cli.recipe.seeds import RUN_OF_SEED, SEEDS
from distill_cli.recipe.stages import RECIPE as STAGES_RECIPE
from distill_cli.report.rounds import ROUNDS
from distill_cli.report.run_folder import RECIPE, RESULT
from distill_cli.report.seed_table import TABLE
from distill_cli.types import PSEUDO_LABELS, STAGES

# What was left out of the data, a line each, in run and cache folders.
SKIPPED = "skipped.txt"
# The matrix of label noise that is estimated from a run.
NOISE_MATRIX = "noise-matrix.csv"
# The network for other runtimes, as `export` writes it.
ONNX, ONNX_INT8 = _ONNX_FILES = "model.onnx", "model-int8.onnx"
ONNX_SUFFIX = ".onnx"
RUN_FILES = (
    *(RECIPE, "metrics.jsonl", "summary.csv", PSEUDO_LABELS, RESULT, "relations.json"),
    *("report.html", SKIPPED, NOISE_MATRIX, ROUNDS, ONNX, ONNX_INT8),
)
# The card of a published cache.
CARD = "README.md"
# Beside what distill wrote, a folder may hold what a command printed, at the top of a run or cache ...
LOGS = re.compile(r".+\.(log|out|err|txt)", re.DOTALL)
# ... and, anywhere, what systems leave behind: macOS keeps `._NAME` beside every file on shares and sticks.
LEFT_BY_SYSTEMS = re.compile(
    r"\.DS_Store|\._.+|\.nfs.+|Thumbs\.db|desktop\.ini|\.directory", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Entries:
    """What a folder of a kind may hold, by patterns of whole names.

    Attributes:
        files: Its files.
        folders: Its folders, each with what that may hold.
        logs: Whether logs may lie in it; not where a folder is removed with all that is in it.
    """

    files: str = ""
    folders: dict[str, Entries] = field(default_factory=dict)
    logs: bool = False


def _any_of(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, names))


_RUN_FILES = _any_of((*RUN_FILES, "MODEL_CARD.md", STAGES_RECIPE))
# Without these no model can be read.
_MODEL_FILES = ("config.json", "model.safetensors")
MODEL = Entries(files=_any_of((*_MODEL_FILES, "README.md")))
# The model whose masses of classes `calibrate` made those of a prior.
CALIBRATED = "calibrated"
# What `audit` lists of a run's samples: all that may be left out, each kind by itself, figures and a page.
AUDIT = "audit"
AUDIT_LISTS = ("audit.csv", "mislabelled.csv", "duplicates.csv", "hard.csv")
AUDIT_SUMMARY, AUDIT_PAGE = "audit.json", "index.html"
AUDITED = Entries(files=_any_of((*AUDIT_LISTS, AUDIT_SUMMARY, AUDIT_PAGE)))
# Its weights as integers of few bits.
PACKED = "packed"
PACKED_MODEL = Entries(files=_any_of(("config.json", "packed.safetensors")))
# Networks that were trained along with a student, each with its model.
PEERS = "peers"
_PLAIN_RUN = {
    "model": MODEL,
    CALIBRATED: MODEL,
    AUDIT: AUDITED,
    PACKED: PACKED_MODEL,
    PEERS: Entries(folders={".+": Entries(folders={"model": MODEL})}),
    "last": Entries(files=r"checkpoint(-before)?\.pt|outcome\.json|shard-\d+-\d+\.safetensors"),
}
# A stage's folder is named as the recipe says.
_STAGED_RUN = {
    **_PLAIN_RUN,
    STAGES: Entries(
        # What the rounds of a self-training learn from.
        files=r"round-\d+-chosen\.csv",
        folders={".+": Entries(files=_RUN_FILES, folders=_PLAIN_RUN)},
    ),
}
# All that a run's folder holds of a run, in the order in which it is removed.
RUN_ENTRIES = (
    *(*RUN_FILES, "MODEL_CARD.md", *_PLAIN_RUN),
    *(STAGES, STAGES_RECIPE, SEEDS, TABLE),
)
RUN = Entries(files=_RUN_FILES, folders=_STAGED_RUN, logs=True)
# Runs of several seeds give way to one run, and one run to several.
RUN_OR_SEEDS = Entries(
    files=f"{_RUN_FILES}|{_any_of((SEEDS, TABLE))}",
    folders={**_STAGED_RUN, RUN_OF_SEED.pattern: RUN},
    logs=True,
)
# The runs of a cross-fitted cache, each without a fold.
FOLD = r"fold-\d+"
CACHE = Entries(
    files=_any_of((PLAN, MANIFEST, SUMS, EVAL, IDS, RECIPE, SKIPPED, CARD)),
    folders={
        r"view-\d{4,}": Entries(files=r"shard-\d{5,}\.safetensors"),
        STAGES: Entries(folders={FOLD: Entries(files=_RUN_FILES, folders=_PLAIN_RUN)}),
    },
    logs=True,
)
# A cache is named after its teacher, and a run of the demo as the demo likes.
CACHES = Entries(folders={".+": CACHE}, logs=True)
DEMO = Entries(
    files=_any_of(("digits.tar", "report.html")),
    folders={"labels": CACHES, ".+": RUN},
    logs=True,
)


def check_entries(folder: Path, kind: Entries, subject: str) -> None:
    """Refuses a folder that holds anything but entries of a kind.

    Args:
        folder: The folder; it may be absent.
        kind: What it may hold.
        subject: What it is for: "a run".

    Raises:
        UsageError: With the first entry that is somebody else's.
        ArtifactError: An entry that would be written is a link.
    """
    if folder.is_dir() and (foreign := next(_foreign(folder, kind), None)) is not None:
        raise UsageError(
            f"{folder} holds {foreign.relative_to(folder)}, which is not of {subject}",
            hint="Choose another --out: an empty folder, or one that is not there yet",
        )


def _foreign(folder: Path, kind: Entries) -> Iterator[Path]:
    """The files and folders below a folder that are not of its kind, sorted."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name, path = entry.name, folder / entry.name
        inner = next((kind.folders[key] for key in kind.folders if re.fullmatch(key, name)), None)
        is_file = name == LOCK or re.fullmatch(kind.files, name) is not None
        passed_over = _is_passed_over(entry, logs=kind.logs)
        if inner is not None and entry.is_dir(follow_symlinks=False):
            yield from _foreign(path, inner)
        elif is_file and entry.is_file(follow_symlinks=False):
            continue
        elif entry.is_symlink() and (is_file or (inner is not None and not passed_over)):
            raise linked(path)
        elif not passed_over:
            yield path


def _is_passed_over(entry: os.DirEntry[str], *, logs: bool) -> bool:
    """Whether an entry is no matter: a log, or what a killed writer or a system left."""
    if entry.name.startswith(TEMPORARY) or LEFT_BY_SYSTEMS.fullmatch(entry.name):
        return not entry.is_dir(follow_symlinks=False)
    return logs and LOGS.fullmatch(entry.name) is not None and entry.is_file()


def check_place(out: Path, *, run: bool) -> None:
    """Refuses places that are never a run's or a cache's own, whatever they hold.

    Args:
        out: The folder that was asked for.
        run: It is for a run, which may be one of several seeds or a stage.

    Raises:
        UsageError: It is `/` or the home folder, or it lies in a run or a cache.
    """
    real = real_path(out)
    if real == Path("/") or real == _home():
        place = "the root of the file system" if real == Path("/") else "your home folder"
        raise UsageError(f"--out {out} is {place}", hint="Choose a folder of its own, as runs/a")
    for parent in real.parents:
        inside = real.relative_to(parent).as_posix()
        own = _OWN_FOLDS if is_cache(parent) else _OWN_RUNS
        if (is_cache(parent) or _is_run(parent)) and not (run and own.fullmatch(inside)):
            kind = "soft-label cache" if is_cache(parent) else "run"
            raise UsageError(
                f"--out {out} lies in the {kind} {parent}", hint="Choose another --out, beside it"
            )


def _home() -> Path | None:
    try:
        return real_path(Path.home())
    except RuntimeError:
        return None


# The runs in a folder of several.
_OWN_RUNS = re.compile(rf"({RUN_OF_SEED.pattern}/)?{STAGES}/[^/]+|{RUN_OF_SEED.pattern}")
_OWN_FOLDS = re.compile(rf"{STAGES}/{FOLD}")


def _is_run(folder: Path) -> bool:
    """Whether a folder is surely a run or several; a recipe alone may be one that a person wrote."""
    if (folder / RECIPE).is_file():
        return any((folder / name).exists() for name in ("metrics.jsonl", "last", RESULT))
    several = (STAGES_RECIPE, STAGES), (SEEDS, LOCK), (SEEDS, TABLE)
    return any(all((folder / name).exists() for name in names) for names in several)


def check_model_output(out: Path, *, own: bool, overwrite: bool, kind: Entries = MODEL) -> None:
    """Refuses a folder that a model alone cannot be written to.

    Args:
        out: The folder.
        own: It is the run's own, in its place.
        overwrite: Replace the model that is in it.
        kind: What such a folder may hold.

    Raises:
        UsageError: It cannot be written, lies in a run or a cache, holds other things, or a model.
        ArtifactError: An entry that would be written is a link.
    """
    there = (out / "config.json").is_file() and not overwrite
    subject = "a packed model" if kind is PACKED_MODEL else "a model"
    _check_own(out, kind, subject, own=own, there=there)


def check_audit_output(out: Path, *, own: bool, overwrite: bool) -> None:
    """Refuses a folder that the lists of an audit alone cannot be written to.

    Args:
        out: The folder.
        own: It is the run's own, in its place.
        overwrite: Replace the lists that are in it.

    Raises:
        UsageError: It cannot be written, lies in a run or a cache, holds other things, or an audit.
        ArtifactError: An entry that would be written is a link.
    """
    names = (*AUDIT_LISTS, AUDIT_SUMMARY)
    there = any((out / name).is_file() for name in names) and not overwrite
    _check_own(out, AUDITED, "an audit", own=own, there=there)


def onnx_output(run: Path, out: Path, *, overwrite: bool) -> Path:
    """The ONNX file that a person named, links followed: one of the run's own, or one of no run and no cache.

    Args:
        run: The run or model folder that is exported.
        out: The file.
        overwrite: Replace the ONNX file that is there.

    Raises:
        UsageError: It cannot be written, is named otherwise, lies in a run or a cache, or is there.
    """
    target = named_file(out)
    own = (run / RECIPE).is_file() and target in (real_path(run) / name for name in _ONNX_FILES)
    if target.suffix != ONNX_SUFFIX:
        raise UsageError(
            f"--out {out} is no name of an ONNX file", hint=f"Give one that ends in {ONNX_SUFFIX}"
        )
    if not own:
        check_place(out, run=False)
    check_writable(target.parent)
    if target.exists() and not overwrite:
        raise UsageError(
            f"{out} is there already",
            hint="Choose another --out, or replace it with --overwrite",
        )
    return target


def _check_own(out: Path, kind: Entries, subject: str, *, own: bool, there: bool) -> None:
    check_writable(out)
    if not own:
        check_place(out, run=False)
    # What is of another kind is not replaced: it is named before --overwrite is spoken of.
    check_entries(out, kind, subject)
    if there:
        raise UsageError(
            f"{out} already holds {subject}",
            hint="Choose another --out, or replace it with --overwrite",
        )


def check_not_gone(run: Path) -> None:
    """Refuses a run that is done and has lost its model: it can be neither used nor gone on with.

    Raises:
        ArtifactError: With the way to have it again.
    """
    if (run / RESULT).is_file() and not all(
        (run / "model" / name).exists() for name in _MODEL_FILES
    ):
        raise ArtifactError(f"{run} is done, but its model is gone: --overwrite trains it anew")
