"""`--out`: a folder of its own. Whatever is somebody else's stays as it is, and is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from distill_cli.errors import DivergedError, UsageError
from distill_cli.files import locks
from distill_cli.pipeline.inputs.beside_data import check_beside_data
from tests.cli.test_dry_run import pictures
from tests.conftest import Made, Outcome, tree
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
SECTION = "Folders and paths"
DIGITS = ("--data", "digits")
TINY = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")
# TEACHER, PARTS and VOTES stand for what is sound.
VERBS: dict[str, tuple[object, ...]] = {
    "teacher": ("teacher", "train", *DIGITS, *TINY),
    "seeds": ("teacher", "train", *DIGITS, *TINY, "--seeds", 2),
    "stages": ("student", "--teachers", "TEACHER", "--generations", 2, *TINY),
    "student": ("student", "--teachers", "TEACHER", *TINY),
    "hints": ("hint-init", "--teachers", "TEACHER", "--model", "mlp_16x2", "--quiet"),
    "recipe": ("recipes", "run", "digits/teacher", "--quiet"),
    "labels": ("cache-soft-labels", "--teachers", "TEACHER"),
    "several labels": ("cache-soft-labels", "--teachers", "TEACHER,OTHER"),
    "import": ("cache", "import", "VOTES", *DIGITS),
    "merge": ("cache", "merge", "LABELS/a"),
    "demo": ("demo",),
}
# Those that are typed to `recipes run` otherwise.
OUT = {"recipe": lambda out: ("--set", f"out={out}")}


def call(distill: Distill, made: Made, here: Path, verb: str, out: str, *more: object) -> Outcome:
    (here / "votes.csv").write_text("sample,0,1\nx,1,0\n")
    stand_ins = {
        "TEACHER": made.teacher,
        "VOTES": here / "votes.csv",
        "LABELS/a": made.labels / "a",
    }
    stand_ins["TEACHER,OTHER"] = f"{made.teacher},{made.other}"
    args = [stand_ins.get(str(arg), arg) for arg in VERBS[verb]]
    return distill(*args, *OUT.get(verb, lambda path: ("--out", path))(out), *more)


def one_line(outcome: Outcome) -> str:
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_the_root_and_home_are_nobodys_runs(
    made: Made,
    here: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
    verb: str,
) -> None:
    (here / "home").mkdir()
    (here / "house").symlink_to("home")
    monkeypatch.setenv("HOME", str(here / "home"))

    def begun(folder: Path) -> None:
        # Else a test that fails would leave a run in the root of this machine's file system.
        raise AssertionError(f"{folder} is about to be written")

    monkeypatch.setattr(locks, "_open_lock", begun)
    before = sorted(Path("/").iterdir())
    for out in ("/", "//", "/tmp/..", "home", "house", "home/"):
        outcome = call(distill, made, here, verb, out)
        assert outcome.code == 2, outcome.err
        place = "your home folder" if "ho" in out else "the root of the file system"
        assert f"--out {Path(out)} is {place}" in one_line(outcome)
        if verb == "teacher" and out in ("/", "home"):
            reliability(
                *(SECTION, f"the folder is {'`/`' if out == '/' else 'the home folder'}"),
                *(f"distill teacher train --data digits --out {out}", outcome),
            )
    assert sorted(Path("/").iterdir()) == before
    assert not list((here / "home").iterdir())


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_holds_other_things(
    made: Made, here: Path, distill: Distill, reliability: Reliability, verb: str
) -> None:
    mine = here / "mine"
    (mine / "photos").mkdir(parents=True)
    for name in ("photos/b.jpg", "photos/a.jpg", "notes.md", "zebra", "run.log", "a.txt"):
        (mine / name).write_text("mine")
    before = tree(mine)
    for more in ((), ("--overwrite",), ("--resume",)):
        if (more and verb == "merge") or ("--resume" in more and verb not in (*list(VERBS)[:6],)):
            continue
        outcome = call(distill, made, here, verb, "mine", *more)
        assert outcome.code == 2, outcome.err
        assert "mine holds notes.md" in one_line(outcome)
    assert tree(mine) == before
    if verb == "teacher":
        reliability(
            *(SECTION, "the folder holds other things"),
            *("distill teacher train --data digits --resume --out mine", outcome),
        )


def test_the_current_folder(made: Made, here: Path, distill: Distill) -> None:
    (here / "photo.jpg").write_text("mine")
    outcome = distill("teacher", "train", *DIGITS, *TINY, "--out", ".")
    assert outcome.code == 2
    assert ". holds photo.jpg" in one_line(outcome)
    (here / "photo.jpg").unlink()
    (here / "train.log").write_text("what was printed")
    (here / "train.err").write_text("")
    outcome = distill("teacher", "train", *DIGITS, *TINY, "--out", ".")
    assert outcome.code == 0, outcome.err
    assert distill("teacher", "train", *DIGITS, *TINY, "--out", ".", "--overwrite").code == 0
    assert (here / "train.log").read_text() == "what was printed"


@pytest.mark.parametrize(
    "name", ["notes.md", "model/mine.bin", "last/mine", "stages/x/y/photo.jpg"]
)
def test_what_somebody_put_into_a_run_is_not_removed(
    made: Made, here: Path, distill: Distill, reliability: Reliability, name: str
) -> None:
    shutil.copytree(made.teacher, here / "t")
    (here / "t" / name).parent.mkdir(parents=True, exist_ok=True)
    (here / "t" / name).write_text("mine")
    before = tree(here / "t")
    for way in ("--resume", "--overwrite"):
        outcome = distill("teacher", "train", *DIGITS, *TINY, "--out", "t", way)
        assert outcome.code == 2, outcome.err
        assert f"t holds {name.removesuffix('/photo.jpg')}" in one_line(outcome)
    assert tree(here / "t") == before
    if name == "model/mine.bin":
        reliability(
            *(SECTION, "a run's folder holds a file that is not the run's"),
            *("distill teacher train --data digits --overwrite --out t", outcome),
        )


def test_what_somebody_put_into_a_cache_is_not_removed(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.labels / "a", here / "c")
    labels = ("cache-soft-labels", "--teachers", made.teacher, "--out", "c", "--quiet")
    labels = (*labels, "--views", 2, "--augment", "shift:1", "--shard-length", 600)
    for name in ("view-0000/mine.bin", "view-x/mine", "mine.npz"):
        (here / "c" / name).parent.mkdir(exist_ok=True)
        (here / "c" / name).write_text("mine")
        before = tree(here / "c")
        for more in ((), ("--overwrite",)):
            outcome = distill(*labels, *more)
            assert outcome.code == 2, outcome.err
            assert f"c holds {name.removesuffix('/mine')}" in one_line(outcome)
        assert tree(here / "c") == before
        (here / "c" / name).unlink()
        if name == "view-x/mine":
            (here / "c/view-x").rmdir()
    assert distill(*labels).code == 0


@pytest.mark.parametrize("out", ["t/model", "t/last", "t/mine", "t/last/mine", "t/.", "link/mine"])
def test_no_run_lies_in_a_run(
    made: Made, here: Path, distill: Distill, reliability: Reliability, out: str
) -> None:
    shutil.copytree(made.teacher, here / "t")
    (here / "link").symlink_to("t")
    before = tree(here / "t")
    for verb in ("teacher", "seeds", "student", "labels", "several labels", "merge", "demo"):
        outcome = call(distill, made, here, verb, out)
        assert outcome.code == 2, outcome.err
        if out != "t/.":
            assert f"--out {out} lies in the run" in one_line(outcome)
        if verb == "teacher" and out == "t/mine":
            reliability(
                *(SECTION, "the folder lies in a run"),
                *("distill teacher train --data digits --out t/mine", outcome),
            )
    assert tree(here / "t") == before


def test_no_run_lies_in_a_cache(made: Made, here: Path, distill: Distill) -> None:
    shutil.copytree(made.labels / "a", here / "c")
    for verb in ("teacher", "labels"):
        outcome = call(distill, made, here, verb, "c/view-0000")
        assert outcome.code == 2, outcome.err
        assert "--out c/view-0000 lies in the soft-label cache" in one_line(outcome)


def test_a_recipe_beside_runs_is_no_run(made: Made, here: Path, distill: Distill) -> None:
    for name in ("recipe.yaml", "seeds.yaml", "stages.yaml", "report.html"):
        (here / name).write_text("epochs: 1\n")
    (here / "seed-0").mkdir()
    outcome = distill("teacher", "train", *DIGITS, *TINY, "-r", "recipe.yaml", "--out", "runs/a")
    assert outcome.code == 0, outcome.err


def test_one_run_of_several_seeds_goes_on_by_itself(
    made: Made, here: Path, distill: Distill
) -> None:
    seeds = ("teacher", "train", *DIGITS, *TINY, "--seeds", 2, "--out", "five")
    assert distill(*seeds).code == 0
    again = distill("teacher", "train", "--resume", "--out", "five/seed-1", "--quiet")
    assert again.code == 0, again.err


def test_a_demo_beside_its_log(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_cli.pipeline import demo

    def begun(out: Path, **options: object) -> None:
        raise DivergedError(f"begun in {out}")

    monkeypatch.setattr(demo, "demo", begun)
    (here / "demo").mkdir()
    (here / "demo/demo.log").write_text("what is printed")
    assert "begun in demo" in one_line(distill("demo"))
    shutil.copytree(made.teacher, here / "demo/teacher-a")
    shutil.copytree(made.labels, here / "demo/labels")
    (here / "demo/report.html").write_text("a page")
    assert "demo holds a demo. Give --overwrite" in one_line(distill("demo"))
    assert "begun in demo" in one_line(distill("demo", "--overwrite"))
    (here / "demo/teacher-a/photo.jpg").write_text("mine")
    assert "demo holds teacher-a/photo.jpg" in one_line(distill("demo", "--overwrite"))


def test_what_systems_leave_in_a_run_is_no_matter(made: Made, here: Path, distill: Distill) -> None:
    """macOS makes `._NAME` beside every file on a share; Windows and KDE have theirs."""
    shutil.copytree(made.teacher, here / "t")
    for name in ("._recipe.yaml", "model/._config.json", "Thumbs.db", ".directory", ".DS_Store"):
        (here / "t" / name).write_bytes(b"")
    outcome = distill("teacher", "train", "--resume", "--out", "t", "--quiet")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("data", "out", "is_refused"),
    [
        *(("flat", "flat/run", True), ("flat", "flat/cat/run", True), ("flat", "run", False)),
        *(("splits", "splits/train/x", True), ("splits", "splits/Test/cat/x", True)),
        *(("splits", "splits/runs/a", False), ("flat", "link/run", True), ("digits", "x", False)),
    ],
)
def test_a_folder_among_the_images_is_refused(
    here: Path, data: str, out: str, is_refused: bool
) -> None:
    """It would be taken for a class; beside train/ and test/ it would not."""
    for folder in ("flat/cat", "flat/dog", "splits/train/cat", "splits/Test/cat"):
        (here / folder).mkdir(parents=True)
    (here / "link").symlink_to("flat")
    with pytest.raises(UsageError, match="among the images") if is_refused else nullcontext():
        check_beside_data(Path(out), data)


@pytest.mark.parametrize("verb", ["train", "dump"])
def test_images_keep_their_folder(made: Made, here: Path, distill: Distill, verb: str) -> None:
    pictures(here / "flat", "ab", count=6)
    command = (
        ("teacher", "train", *TINY)
        if verb == "train"
        else ("cache-soft-labels", "--teachers", made.teacher)
    )
    outcome = distill(*command, "--data", "flat/train", "--out", "flat/train/run")
    assert outcome.code == 2, outcome.err
    assert "would be taken for one of its classes" in one_line(outcome)
    assert not (here / "flat/train/run").exists()


def test_nothing_that_is_made_of_a_run_lies_among_its_images(
    made: Made, here: Path, distill: Distill
) -> None:
    """They could not be read any more: a folder without images is no class."""
    pictures(here / "flat", "ab", count=6)
    shutil.copytree(made.teacher, here / "t")
    recipe = here / "t/recipe.yaml"
    kept = f"data: {here / 'flat/train'}\n"
    recipe.write_text(re.sub(r"^data: .*\n", kept, recipe.read_text(), flags=re.MULTILINE))
    shutil.copytree(here / "t/model", here / "m")
    export, among = ("export", "t", "--format"), "flat/train/a"
    for command in (
        (*export, "packed", "--out", "flat/train/p"),
        (*export, "packed", "--out", f"{among}/p"),
        (*export, "onnx", "--out", f"{among}/a.onnx"),
        ("export", "m", "--format", "onnx", "--data", "flat/train", "--out", f"{among}/a.onnx"),
        ("calibrate", "t", "--prior", "uniform", "--out", f"{among}/c"),
        ("audit", "t", "--out", f"{among}/audit"),
    ):
        before = tree(here)
        outcome = distill(*command)
        assert outcome.code == 2, outcome.err
        assert f"--out {command[-1]} lies among the images of" in one_line(outcome)
        assert tree(here) == before
