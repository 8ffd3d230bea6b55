"""Paths of a run's own stages, in its recipe, after the run was moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distill_cli.recipe.own_folder import at_home

LIST = "stages/round-2-chosen.csv"


def made(root: Path, run: str) -> Path:
    folder = root / run
    (folder / "stages/soft").mkdir(parents=True)
    (folder / LIST).write_text("sample_id,label\n")
    return folder


@pytest.mark.parametrize("out", ["runs/a", "../{root.name}/runs/a", "{root}/runs/a", None])
@pytest.mark.parametrize("left", [False, True], ids=["moved", "copied"])
def test_what_lies_in_the_run_is_found_in_it(tmp_path: Path, out: str | None, left: bool) -> None:
    """Also where a run lies at the old place again, unless nobody knows that it was its place."""
    folder = made(tmp_path, "runs/a")
    values = {
        "out": out and out.format(root=tmp_path),
        "relabel": str(folder / LIST),
        "teachers": ["elsewhere/b", str(folder / "stages/soft")],
        "objective": [{"name": "ce", "model": str(folder / "stages/soft")}],
        "recorded": {"kept": str(folder / LIST)},
    }
    moved = tmp_path / "b"
    shutil.copytree(folder, moved)
    if not left:
        shutil.rmtree(folder)
    found = at_home(values, moved)
    here = folder if left and out is None else moved
    assert found["relabel"] == str(here / LIST)
    assert found["teachers"] == ["elsewhere/b", str(here / "stages/soft")]
    assert found["objective"] == [{"name": "ce", "model": str(here / "stages/soft")}]
    assert (found["recorded"], found["out"]) == (values["recorded"], values["out"])
    # A stage looks in the folder of all.
    stage = {**values, "out": None if out is None else f"{values['out']}/stages/hard"}
    assert at_home(stage, moved / "stages/hard")["relabel"] == str(here / LIST)


def test_what_lies_in_another_run_stays_there(tmp_path: Path) -> None:
    other, own = made(tmp_path, "runs/a"), made(tmp_path, "runs/b")
    values = {"out": "runs/b", "relabel": str(other / LIST), "init": "stages"}
    assert at_home(values, own) == values
    (own / LIST).unlink()
    shutil.rmtree(other)
    assert at_home(values, own) == values, "it is in neither"


def test_a_run_that_was_reached_by_a_link(tmp_path: Path) -> None:
    folder = made(tmp_path, "disk/x")
    values = {"out": "runs/a", "relabel": str(folder / LIST)}
    folder.rename(tmp_path / "b")
    (tmp_path / "c").symlink_to("b")
    assert at_home(values, tmp_path / "c")["relabel"] == str(tmp_path / "b" / LIST)


def test_what_people_wrote_may_hold_itself(tmp_path: Path) -> None:
    value: list[object] = ["x" * 5000 + "/stages/y", "\0/stages/y"]
    value.append(value)
    assert at_home({"teachers": value}, tmp_path)["teachers"][:2] == value[:2]
