"""Paths that a person named and that cannot be written: exit code 2, before any work."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Made, Outcome, tree
from tests.processes import can_mount, in_files, read_only
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
SECTION = "Folders and paths"
TINY = ("--data", "digits", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
# RUN and CACHE stand for what is sound, FILE for the path that is written.
FILES: dict[str, tuple[tuple[object, ...], str]] = {
    "report": (("report", "RUN", "-o", "FILE"), ".html"),
    "recipe": (("recipes", "copy", "digits/teacher", "FILE"), ".yaml"),
    "npz": (("cache", "export", "CACHE", "--out", "FILE", "--overwrite"), ".npz"),
    "csv": (("cache", "export", "CACHE", "--out", "FILE", "--overwrite"), ".csv"),
}
FOLDERS: dict[str, tuple[object, ...]] = {
    "teacher": ("teacher", "train", *TINY, "--out", "FILE"),
    "seeds": ("teacher", "train", *TINY, "--seeds", 2, "--out", "FILE"),
    "labels": ("cache-soft-labels", "--teachers", "RUN", "--out", "FILE"),
    "merge": ("cache", "merge", "CACHE", "--out", "FILE"),
    "demo": ("demo", "--out", "FILE"),
}


def one_line(outcome: Outcome) -> str:
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("error: ")
    return outcome.err


def filled(made: Made, args: tuple[object, ...], path: Path | str) -> list[object]:
    """A command with its stand-ins replaced."""
    stand_ins = {"RUN": made.teacher, "CACHE": made.labels / "a", "FILE": path}
    return [stand_ins.get(str(arg), arg) for arg in args]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the work fail that a command does before it writes."""
    from distill_cli.cache import reader
    from distill_cli.report import run_page

    def worked(*args: object, **options: object) -> None:
        raise AssertionError("the path was known to be wrong before")

    monkeypatch.setattr(run_page, "run_page", worked)
    monkeypatch.setattr(reader, "CacheReader", worked)


@pytest.mark.parametrize("kind", ["folder", "below a file", "long", "loop", "broken", "pipe"])
@pytest.mark.parametrize("verb", FILES)
def test_no_file_can_be_there(
    made: Made,
    here: Path,
    distill: Distill,
    no_work: None,
    reliability: Reliability,
    verb: str,
    kind: str,
) -> None:
    args, suffix = FILES[verb]
    (here / "file").write_text("mine")
    (here / f"folder{suffix}").mkdir()
    (here / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (here / "broken").symlink_to("nowhere")
    os.mkfifo(here / f"pipe{suffix}")
    path = {
        "below a file": f"file/x{suffix}",
        "long": "x" * 300 + suffix,
        "broken": f"broken/x/y{suffix}",
    }.get(kind, f"{kind}{suffix}")
    before = sorted(here.iterdir())
    outcome = distill(*filled(made, args, path))
    assert outcome.code == 2, outcome.err
    assert f"cannot write {path}" in one_line(outcome)
    assert sorted(here.iterdir()) == before
    if verb == "report" and kind in ("folder", "below a file", "long"):
        named = {"folder": "a folder", "below a file": "below a file", "long": "of a name too long"}
        typed = path if kind != "long" else "xxx….html"
        outcome = Outcome(outcome.code, outcome.out, outcome.err.replace(path, typed))
        reliability(
            *(SECTION, f"the page is {named[kind]}"), *(f"distill report t -o {typed}", outcome)
        )


def test_a_link_to_a_file_that_is_not_there_yet(made: Made, here: Path, distill: Distill) -> None:
    (here / "page.html").symlink_to("real.html")
    assert distill("report", made.teacher, "-o", "page.html").code == 0
    assert (here / "page.html").is_symlink()
    assert (here / "real.html").stat().st_size > 1000


@pytest.mark.parametrize("verb", [*FILES, *FOLDERS, "report there"])
def test_a_mount_that_is_read_only(
    made: Made, here: Path, reliability: Reliability, verb: str
) -> None:
    if not can_mount():
        pytest.skip("this machine lets no child mount anything")
    (here / "frozen").mkdir()
    shutil.copytree(made.teacher, here / "frozen/t")
    before = tree(here / "frozen")
    if verb == "report there":
        args, path, named = ["report", here / "frozen/t"], here / "frozen/t", "report frozen/t"
    elif verb in FILES:
        args, suffix = FILES[verb]
        path = here / f"frozen/x{suffix}"
        args, named = filled(made, args, path), "report t -o frozen/x.html"
    else:
        path = here / "frozen/x"
        args, named = filled(made, FOLDERS[verb], path), "teacher train --out frozen/x"
    ended = in_files(*args, before=read_only(here / "frozen"))
    outcome = Outcome(ended.code, ended.out.decode(), ended.err.decode())
    assert outcome.code == 2, outcome.err
    assert f"cannot write {path}: " in one_line(outcome)
    assert "is read-only" in outcome.err
    assert tree(here / "frozen") == before
    if verb in ("report", "report there", "teacher"):
        reliability(SECTION, "the file system is mounted read-only", f"distill {named}", outcome)


@pytest.mark.parametrize("verb", FILES)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC])
def test_a_refusal_that_could_not_be_known(
    made: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    number: int,
) -> None:
    """The disk fills, or is mounted anew, while the command works; its clean-up is refused too."""
    args, suffix = FILES[verb]
    (here / f"x{suffix}").write_text("as before")
    if verb == "recipe":
        (here / f"x{suffix}").unlink()
    before = tree(here)

    def refused(*given: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(os, name, refused)
        outcome = distill(*filled(made, args, f"x{suffix}"))
    assert outcome.code == (1 if number == errno.ENOSPC else 2), outcome.err
    said = "disk full while writing" if number == errno.ENOSPC else "cannot write"
    assert f"{said} {here / f'x{suffix}'}" in outcome.err.splitlines()[-1]
    assert "--resume" not in outcome.err
    after = {path: content for path, content in tree(here).items() if ".tmp-" not in path.name}
    assert {path: after[path][2] for path in after} == {path: before[path][2] for path in before}
