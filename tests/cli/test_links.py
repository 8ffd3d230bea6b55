"""Folders from strangers: links planted in them lead no write outside, in any command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Made, Outcome, tree
from tests.processes import start
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
SECTION = "Folders and paths"
TINY = ("--data", "digits", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
RESUME = ("teacher", "train", "--resume", "--out", "t", "--quiet")


def one_line(outcome: Outcome) -> str:
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    return lines[0]


def plant(path: Path, outside: Path) -> None:
    """Moves an entry of a folder outside, or makes a file there, and links to it."""
    outside.mkdir(exist_ok=True)
    target = outside / path.name
    if path.exists():
        path.rename(target)
    else:
        target.write_text("not distill's")
        path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


RUN_FILES = ("recipe.yaml", "metrics.jsonl", "summary.csv", "result.json", "MODEL_CARD.md")


@pytest.mark.parametrize(
    "name",
    [
        *(*RUN_FILES, "skipped.txt", "report.html", ".lock", "relations.json"),
        *("model", "model/model.safetensors", "model/config.json", "model/README.md"),
        *("last", "last/checkpoint.pt", "last/checkpoint-before.pt", "last/outcome.json"),
        "stages",
    ],
)
def test_a_run_is_written_through_no_link(
    made: Made, here: Path, distill: Distill, name: str
) -> None:
    shutil.copytree(made.teacher, here / "t")
    plant(here / "t" / name, here / "outside")
    before = tree(here)
    for ways in (("--resume",), ("--overwrite",), ()):
        outcome = distill("teacher", "train", "--out", "t", *ways, *TINY)
        assert outcome.code == 3, outcome.err
        assert f"t/{name} is a link" in one_line(outcome)
    assert tree(here) == before


def test_a_log_that_leads_elsewhere(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.teacher, here / "t")
    plant(here / "t/metrics.jsonl", here / "outside")
    before = tree(here / "outside")
    outcome = distill(*RESUME)
    assert outcome.code == 3
    assert tree(here / "outside") == before
    reliability(
        *(SECTION, "a log of a run is a link to a file elsewhere"),
        *("distill teacher train --resume --out t", outcome),
    )


def test_a_folder_that_becomes_a_link_while_the_run_trains(made: Made, here: Path) -> None:
    """What is written is looked at when it is written, not at the start alone."""
    (here / "outside").mkdir()

    def before() -> None:
        from distill_cli.training import loop

        plain = loop.Trainer.fit

        def fit(self: loop.Trainer, *args: object, **options: object) -> object:
            (here / "t/model").symlink_to(here / "outside")
            return plain(self, *args, **options)

        loop.Trainer.fit = fit

    ended = start("teacher", "train", "--out", here / "t", *TINY, before=before).end()
    assert ended.code == 3, ended.err
    assert b"t/model is a link" in ended.err
    assert not list((here / "outside").iterdir())


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_a_lock_that_is_none(
    made: Made, here: Path, distill: Distill, reliability: Reliability, kind: str
) -> None:
    (here / "t").mkdir()
    lock = here / "t/.lock"
    if kind in ("link", "dangling"):
        plant(lock, here / "outside")
    elif kind == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    if kind == "dangling":
        (here / "outside/.lock").unlink()
    outcome = distill("teacher", "train", "--out", "t", *TINY)
    assert outcome.code == (2 if kind in ("folder", "pipe") else 3)
    assert "t/.lock" in one_line(outcome) or "holds .lock" in one_line(outcome)
    if kind == "dangling":
        assert not (here / "outside/.lock").exists()
        reliability(
            *(SECTION, "`.lock` is a link that leads nowhere"),
            *("distill teacher train --data digits --out t", outcome),
        )


def test_temporary_names_that_are_taken(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.teacher, here / "t")
    (here / "t/report.html").unlink(missing_ok=True)
    for name in (".tmp-report.html", ".tmp-recipe.yaml", "model/.tmp-model.safetensors"):
        plant(here / "t" / name, here / "outside")
    (here / "outside/.tmp-recipe.yaml").unlink()
    before = tree(here / "outside")
    outcome = distill("report", "t")
    assert outcome.code == 0, outcome.err
    reliability(
        *(SECTION, "`.tmp-report.html` in a run is a link to a file elsewhere"),
        *("distill report t", outcome),
    )
    assert (here / "t/report.html").stat().st_size > 1000
    again = distill("teacher", "train", "--out", "t", "--overwrite", *TINY)
    assert again.code == 0, again.err
    assert not list((here / "t").rglob(".tmp-*"))
    assert tree(here / "outside") == before


def test_a_report_that_leads_elsewhere(made: Made, here: Path, distill: Distill) -> None:
    shutil.copytree(made.teacher, here / "t")
    (here / "t/report.html").unlink(missing_ok=True)
    plant(here / "t/report.html", here / "outside")
    outcome = distill("report", "t")
    assert outcome.code == 3
    assert "t/report.html is a link" in one_line(outcome)
    # The path that is typed is followed.
    assert distill("report", "t", "-o", "t/report.html").code == 0
    assert (here / "t/report.html").is_symlink()
    assert (here / "outside/report.html").stat().st_size > 1000


@pytest.mark.parametrize(
    "name",
    [
        *("plan.json", "manifest.json", "eval.safetensors", "ids.safetensors", "recipe.yaml"),
        *("skipped.txt", "README.md", ".lock", "view-0000", "view-0001/shard-00001.safetensors"),
        "",
    ],
)
def test_a_cache_is_written_through_no_link(
    made: Made, here: Path, distill: Distill, name: str
) -> None:
    shutil.copytree(made.labels, here / "c")
    plant(here / "c/a" / name, here / "outside")
    before = tree(here)
    labels = ("cache-soft-labels", "--teachers", f"{made.teacher},{made.other}", "--views", 2)
    for ways in ((), ("--overwrite",)):
        outcome = distill(*labels, "--augment", "shift:1", "--out", "c", "--quiet", *ways)
        assert outcome.code == 3, outcome.err
        assert f"{Path('c/a') / name} is a link" in one_line(outcome)
    outcome = distill("cache", "merge", made.labels, "--out", "c")
    assert outcome.code == 3, outcome.err
    assert f"{Path('c/a') / name} is a link" in one_line(outcome)
    assert tree(here) == before


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("seed-0", ("teacher", "train", *TINY, "--seeds", 2)),
        ("seed-0/model", ("teacher", "train", *TINY, "--seeds", 2)),
        ("stages/generation-1", ("student", "--generations", 2, *TINY[2:])),
        ("stages.yaml", ("student", "--generations", 2, *TINY[2:])),
        ("seeds.yaml", ("teacher", "train", *TINY, "--seeds", 2)),
        ("seeds.json", ("teacher", "train", *TINY, "--seeds", 2)),
        ("teacher-a", ("demo",)),
        ("labels", ("demo",)),
        ("labels/teacher-a", ("demo",)),
        ("report.html", ("demo",)),
    ],
)
def test_folders_of_several_are_written_through_no_link(
    made: Made, here: Path, distill: Distill, name: str, args: tuple
) -> None:
    (here / "outside").mkdir()
    path = here / "out" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(here / "outside" / "nowhere")
    given = ("--teachers", made.teacher) if args[0] == "student" else ()
    outcome = distill(*args, *given, "--out", "out")
    assert outcome.code == 3, outcome.err
    assert f"out/{name} is a link" in one_line(outcome)
    assert not list((here / "outside").iterdir())


def test_links_to_a_run_are_followed(made: Made, here: Path, distill: Distill) -> None:
    (here / "disk").mkdir()
    shutil.copytree(made.teacher, here / "disk/t")
    (here / "runs").symlink_to("disk")
    (here / "disk/latest").symlink_to("t")
    outcome = distill("teacher", "train", "--out", "runs/latest", "--overwrite", *TINY)
    assert outcome.code == 0, outcome.err
    assert distill("report", "runs/latest").code == 0
    assert (here / "disk/t/report.html").exists()
    assert (here / "disk/latest").is_symlink()
