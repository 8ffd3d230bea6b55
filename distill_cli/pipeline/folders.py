"""Output folders and teacher folders: what is there, what may be written. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill_cli.cache.folder import EVAL, IDS, MANIFEST, PLAN, SUMS, expand, is_cache
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import LOCK, check_writable, one_writer, remove
from distill_cli.pipeline.entries import (
    CACHE,
    CACHES,
    CARD,
    DEMO,
    RUN_ENTRIES,
    RUN_OR_SEEDS,
    SKIPPED,
    check_entries,
    check_not_gone,
    check_place,
)
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.recorded import made_by
from distill_cli.recipe.seeds import RUN_OF_SEED, SEEDS
from distill_cli.report.run_folder import HISTORY, RECIPE, RESULT, NoFiguresError
from distill_cli.report.seed_table import TABLE, SeedTable, read_table
from distill_cli.types import STAGES

RUNS = Path("runs")
# A README of a published cache without this mark is somebody else's.
CARD_MARK = "<!-- a soft-label cache of distill -->"


def next_free(kind: str) -> Path:
    """The first of runs/KIND-1, runs/KIND-2, … that does not exist."""
    number = 1
    while (path := RUNS / f"{kind}-{number}").exists():
        number += 1
    return path


def holds_run(folder: Path, *, but: str | None = None) -> bool:
    """Whether a folder holds a run, finished or not; one entry may be looked past."""
    return any((folder / entry).exists() for entry in RUN_ENTRIES if entry != but)


def holds_seeds(folder: Path) -> bool:
    """Whether a folder holds runs of several seeds, finished or not."""
    return any((folder / entry).is_file() for entry in (SEEDS, TABLE))


def finished_seeds(folder: Path) -> SeedTable | None:
    """The table of a folder of several seeds; None where it is none.

    Raises:
        NoFiguresError: Some of its runs are still to be made.
        ArtifactError: The table is malformed.
    """
    if not holds_seeds(folder):
        return None
    if not (folder / TABLE).is_file():
        raise NoFiguresError(
            f"{folder} holds runs of several seeds that are not all finished",
            hint=f"Go on with --resume --out {folder}",
        )
    return read_table(folder)


def check_one_run(folder: Path) -> None:
    """Refuses the runs of several seeds where one run is needed.

    Raises:
        UsageError: With the way to name one.
    """
    if holds_seeds(folder):
        raise UsageError(
            f"{folder} holds runs of several seeds", hint=f"Name one of them, as {folder}/seed-N"
        )


def check_output(out: Path, *, resume: bool, overwrite: bool, seeds: bool = False) -> None:
    """Refuses to mix two runs in one folder.

    Args:
        out: The folder.
        resume: Go on with what is in it.
        overwrite: Replace what is in it.
        seeds: It is for runs of several seeds, not for one run.

    Raises:
        UsageError: The folder holds a run and neither flag was given, or both were; or it is not a
            run's own.
        ArtifactError: An entry that would be written is a link.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other")
    check_writable(out)
    if is_cache(out):
        raise UsageError(f"{out} is a soft-label cache", hint="Choose another --out for the run")
    check_place(out, run=True)
    check_entries(out, RUN_OR_SEEDS, "a run")
    if resume and not seeds:
        check_one_run(out)
        check_not_gone(out)
    if resume and seeds and holds_run(out) and not holds_seeds(out):
        raise UsageError(
            f"{out} holds one run, and --seeds means several", hint="Choose another --out"
        )
    if resume and has_model(out) and not (has_checkpoint(out) or is_first_epoch(out)):
        raise UsageError(
            f"{out} holds a model but no checkpoint to resume from",
            hint="Choose another --out, or replace it with --overwrite",
        )
    if holds_run(out) and not (resume or overwrite):
        raise UsageError(
            f"{out} already holds a run",
            hint="Choose another --out, go on with --resume, or replace it with --overwrite",
        )


def check_cache_folders(out: Path, folders: Sequence[Path], *, trains: bool = False) -> None:
    """Refuses to write caches where runs or models are, or into one another.

    Args:
        out: The folder that was asked for.
        folders: One a teacher: `out` itself, or its sub-folders.
        trains: The networks that label are trained in it: it may hold their runs.

    Raises:
        UsageError: With the folder that is in the way.
    """
    check_cache_place(out)
    for folder in dict.fromkeys([out, *folders]):
        run = holds_run(folder, but=STAGES if trains else None) and not is_cache(folder)
        if run or has_model(folder):
            raise UsageError(
                f"{folder} holds a run or a model", hint="Choose another --out for the labels"
            )
    if list(folders) != [out] and is_cache(out):
        raise UsageError(f"{out} is one teacher's cache", hint="Choose another --out for several")
    if list(folders) == [out] and not is_cache(out) and expand(out):
        raise UsageError(f"{out} holds several caches", hint="Choose another --out for one")
    check_entries(out, CACHE if list(folders) == [out] else CACHES, "a soft-label cache")


def check_cache_place(out: Path) -> None:
    """Refuses a place that no cache can have, whatever the folder holds.

    Raises:
        UsageError: It cannot be written, is `/` or the home folder, or lies in a run or a cache.
    """
    check_writable(out)
    check_place(out, run=False)


def check_demo(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that is not the demo's own, or that holds an earlier demo.

    Args:
        out: The folder.
        overwrite: Replace an earlier demo.

    Raises:
        UsageError: The folder cannot be written, holds other things, or an earlier demo.
        ArtifactError: An entry that would be written is a link.
    """
    check_cache_place(out)
    check_entries(out, DEMO, "the demo")
    # What is left is the demo's own, or a log.
    if not overwrite and out.is_dir() and any(path.is_dir() for path in out.iterdir()):
        raise UsageError(f"{out} holds a demo", hint="Give --overwrite, or another --out")


def clear_run(out: Path, *, keep: str | None = None) -> None:
    """Removes a run's own files, and nothing else, from a folder; but for one entry.

    Of a folder of several seeds, the run of each.
    """
    if holds_seeds(out):
        for folder in out.iterdir():
            if RUN_OF_SEED.fullmatch(folder.name) and holds_run(folder) and not folder.is_symlink():
                with one_writer(folder):
                    clear_run(folder)
                remove(folder / LOCK)
                if not any(folder.iterdir()):
                    remove(folder)
    for entry in RUN_ENTRIES:
        if entry != keep:
            remove(out / entry)


def clear_cache(folder: Path, *, trains: bool = False) -> None:
    """Removes a cache's own files, and nothing else, from a folder.

    Its manifest goes first, for it says that the cache is whole, and its plan last: by that a killed
    command knows the rest for a cache.

    Args:
        folder: The cache.
        trains: The lock of the runs in it is held by whoever trains them anew: it stays.
    """
    for name in (MANIFEST, SUMS, EVAL, IDS, RECIPE, SKIPPED):
        remove(folder / name)
    stages = folder / STAGES
    for entry in [*stages.iterdir()] if trains and stages.is_dir() else [stages]:
        if entry.name != LOCK:
            remove(entry)
    card = folder / CARD
    if card.is_file() and CARD_MARK in card.read_text(encoding="utf-8", errors="replace"):
        remove(card)
    for view in folder.iterdir():
        if re.fullmatch(r"view-\d{4,}", view.name):
            remove(view)
    remove(folder / PLAN)


def check_model_folder(folder: Path) -> None:
    """Refuses a path that is no run or model folder, before torch is imported."""
    if not folder.exists():
        raise UsageError(f"{folder} does not exist", hint="Give a run or model folder")
    check_one_run(folder)
    check_not_gone(folder)
    if not has_model(folder):
        hint = "Finish it with --resume" if holds_run(folder) else "Give a run or model folder"
        raise ArtifactError(f"{folder} holds no trained model", hint=hint)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has a state to go on from: the last checkpoint, or the one before it."""
    return any((folder / "last").glob("checkpoint*.pt"))


def is_first_epoch(folder: Path) -> bool:
    """Whether a run was stopped after it saved a model, and before its first checkpoint.

    Little is lost where it begins anew. A model without the recipe of a run is somebody else's, and
    a run with figures, or with rows of several epochs, has had checkpoints, which someone removed.
    """
    history = folder / HISTORY
    # Its header and a row.
    rows = history.read_bytes().count(b"\n") if history.is_file() else 0
    by_itself = (folder / "config.json").exists() or (folder / RESULT).exists()
    begun = made_by(kept_recipe(folder).get("recorded")) is not None
    return begun and rows <= 2 and not by_itself and not has_checkpoint(folder)


def check_finished(folders: Iterable[str], out: str | None) -> None:
    """Refuses to learn from a run that is not finished: its model is the best so far, or none.

    Args:
        folders: What is learnt from; a model folder in itself is what it is.
        out: The run that learns. One that is begun goes on with what it began with.

    Raises:
        UsageError: With the run.
    """
    if out is not None and has_checkpoint(Path(out)):
        return
    for name in folders:
        if (Path(name) / "last").is_dir() and not (Path(name) / RESULT).exists():
            best = f", or give {name}/model, the best so far" if has_model(Path(name)) else ""
            raise UsageError(
                f"run {name} is not finished",
                hint=f"Go on with --resume --out {name}{best}",
            )


def has_model(folder: Path) -> bool:
    """Whether a folder is a run with a model, or a model folder."""
    return any((folder / path).is_file() for path in ("model/config.json", "config.json"))
