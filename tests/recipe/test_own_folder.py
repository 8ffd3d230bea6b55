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


def recipe_of(folder: Path, out: str, *, told: bool = True) -> dict[str, object]:
    """A recipe as a run in a folder wrote it, by today's version or one up to 0.8.0."""
    recorded = {"kept": str(folder / LIST), **({"folder": str(folder)} if told else {})}
    return {
        "out": out,
        "relabel": str(folder / LIST),
        "teachers": ["elsewhere/b", str(folder / "stages/soft")],
        "objective": [{"name": "ce", "model": str(folder / "stages/soft")}],
        "recorded": recorded,
    }


@pytest.mark.parametrize("out", ["runs/a", "../{root.name}/runs/a", "{root}/runs/a", "link"])
@pytest.mark.parametrize("left", [False, True], ids=["moved", "copied"])
def test_what_lies_in_the_run_is_found_in_it(tmp_path: Path, out: str, left: bool) -> None:
    """Also where a run lies at the old place again."""
    folder = made(tmp_path, "runs/a")
    values = recipe_of(folder, out.format(root=tmp_path))
    moved = tmp_path / "b"
    shutil.copytree(folder, moved)
    if not left:
        shutil.rmtree(folder)
    found = at_home(values, moved)
    assert found["relabel"] == str(moved / LIST)
    assert found["teachers"] == ["elsewhere/b", str(moved / "stages/soft")]
    assert found["objective"] == [{"name": "ce", "model": str(moved / "stages/soft")}]
    assert (found["recorded"], found["out"]) == (values["recorded"], values["out"])
    # A stage looks in the folder of all.
    stage = recipe_of(folder, f"{values['out']}/stages/hard")
    stage["recorded"] = {"folder": str(folder / "stages/hard")}
    assert at_home(stage, moved / "stages/hard")["relabel"] == str(moved / LIST)
    (tmp_path / "c").symlink_to("b")
    assert at_home(values, tmp_path / "c")["relabel"] == str(moved / LIST)


@pytest.mark.parametrize("out", ["runs/a", "../{root.name}/runs/a", "{root}/runs/a"])
def test_a_run_of_an_earlier_version_finds_what_is_not_there_any_more(
    tmp_path: Path, out: str
) -> None:
    folder = made(tmp_path, "runs/a")
    values = recipe_of(folder, out.format(root=tmp_path), told=False)
    moved = tmp_path / "b"
    shutil.copytree(folder, moved)
    assert at_home(values, moved) == values
    shutil.rmtree(folder)
    assert at_home(values, moved)["relabel"] == str(moved / LIST)


@pytest.mark.parametrize("told", [True, False], ids=["today", "earlier"])
def test_what_lies_in_another_run_stays_there(tmp_path: Path, told: bool) -> None:
    """Whether it has the same name in another folder, or is gone; no run learns from itself."""
    other, own = made(tmp_path, "old/a"), made(tmp_path, "a")
    values = {**recipe_of(other, "a", told=False)}
    if told:
        values["recorded"] = {"folder": str(own)}
    assert at_home(values, own) == values
    away = {**values, "out": "b"}
    (own / LIST).unlink()
    shutil.rmtree(other)
    assert at_home(away, own) == away
    assert at_home(values, own)["relabel"] == values["relabel"], "it is in neither"


def test_what_people_wrote_may_hold_itself(tmp_path: Path) -> None:
    value: list[object] = ["x" * 5000 + "/stages/y", "\0/stages/y"]
    value.append(value)
    assert at_home({"teachers": value}, tmp_path)["teachers"][:2] == value[:2]
