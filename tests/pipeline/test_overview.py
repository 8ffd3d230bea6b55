"""Run folders below a folder, and where each stands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill_cli.files import is_written, one_writer
from distill_cli.pipeline.overview import (
    MORE_IS_BETTER,
    SORTABLE,
    RunStanding,
    runs_below,
    sorted_by,
)
from tests.conftest import Made, Outcome, tree
from tests.terminals import on_terminal

Distill = Callable[..., Outcome]


def folder(path: Path, *, verb: str = "student", **files: Any) -> Path:
    """A run folder of these files, their dots spelt __ and slashes ___."""
    recipe = {"command": verb, "model": "mlp_8x1", "data": "digits", "epochs": 9, "recorded": {}}
    for name, content in {"recipe__yaml": yaml.safe_dump(recipe), **files}.items():
        file = path / name.replace("___", "/").replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


SUMMARY = "epoch,lr,val_top1,val_nll\n1,0.1,0.5,1.5\n2,0.1,0.75,1.25\n3,0.1,0.625,1.0\n4,0.1,"


def states(root: Path) -> dict[str, str]:
    return {run.name: run.state for run in runs_below(root)}


def test_where_each_stands(tmp_path: Path) -> None:
    folder(tmp_path / "done", result__json={"test_top1": 0.5})
    folder(tmp_path / "half", summary__csv=SUMMARY)
    folder(tmp_path / "deep/er/gone", last___outcome__json={"code": 4, "message": "no number"})
    folder(tmp_path / "stopped", last___outcome__json={"code": 143, "message": "stopped"})
    folder(tmp_path / "fresh", verb="teacher train")
    folder(tmp_path / "broken", result__json="{")
    folder(tmp_path / "torn", recipe__yaml="a: [", metrics__jsonl="")
    # None of these is a run.
    folder(tmp_path / "cache", verb="cache-soft-labels", plan__json={})
    folder(tmp_path / ".hidden")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/recipe.yaml").write_text("command: student\nmodel: mlp_8x1\n")
    (tmp_path / "notes/recipe.yaml").mkdir(parents=True)
    (tmp_path / "again").symlink_to("done")
    before = tree(tmp_path)
    assert states(tmp_path) == {
        "done": "done",
        "half": "resumable",
        "deep/er/gone": "diverged",
        "stopped": "resumable",
        "fresh": "resumable",
        "broken": "unreadable",
        "torn": "unreadable",
    }
    assert tree(tmp_path) == before, "nothing is written, no lock file made"
    (half,) = (run for run in runs_below(tmp_path) if run.name == "half")
    assert (half.epoch, half.epochs, half.verb) == (3, 9, "student")
    assert half.figures == {"val_top1": 0.75, "val_nll": 1.25, "best_epoch": 2}


def test_a_run_that_is_being_written_is_running(tmp_path: Path) -> None:
    run = folder(tmp_path / "a", result__json={})
    assert not is_written(run)
    with one_writer(run):
        assert states(tmp_path) == {"a": "running"}
        assert states(run) == {"a": "running"}, "the folder itself may be the run"
    assert states(tmp_path) == {"a": "done"}
    assert not is_written(tmp_path / "nowhere")


def test_asking_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    """The question holds the lock for a moment; a run that begins waits that long."""
    import fcntl
    import threading

    run = folder(tmp_path / "a")
    with one_writer(run):
        pass
    with (run / ".lock").open() as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (asked, fcntl.LOCK_UN)).start()
        with one_writer(run):
            assert is_written(run)


def test_of_several_stages_the_run_that_they_make(tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    recipe = yaml.safe_dump({"command": "student", "epochs": 5, "recorded": {}})
    folder(chain / "stages/one", result__json={})
    (chain / "stages.yaml").write_text(recipe)
    assert states(tmp_path) == {"chain": "resumable"}
    with one_writer(chain / "stages"):
        assert states(tmp_path) == {"chain": "running"}
    folder(chain / "stages/two", last___outcome__json={"code": 4})
    assert states(tmp_path) == {"chain": "diverged"}
    assert states(chain / "stages") == {"one": "done", "two": "diverged"}
    folder(chain, result__json={"test_top1": 0.5})
    assert states(tmp_path) == {"chain": "done"}


def test_the_best_comes_first_whichever_way_the_figure_goes(tmp_path: Path) -> None:
    def standing(name: str, **figures: float) -> RunStanding:
        return RunStanding(folder=Path(name), name=name, state="done", figures=figures)

    runs = [
        standing("s-10"),
        standing("s-2"),
        standing("a", test_top1=0.5, test_nll=3.0),
        standing("b", test_top1=0.75, test_nll=2.0),
        standing("c", test_top1=0.5, test_nll=1.0),
    ]
    names = {f: [run.name for run in sorted_by(f, runs)] for f in ("test_top1", "test_nll")}
    assert names["test_top1"] == ["b", "a", "c", "s-2", "s-10"]
    assert names["test_nll"] == ["c", "b", "a", "s-2", "s-10"]
    assert set(SORTABLE) > MORE_IS_BETTER


@pytest.fixture
def listed(made: Made, here: Path) -> Mapping[str, Path]:
    """Real runs, finished and not."""
    runs = {
        "runs/a-teacher": made.teacher,
        "runs/b": made.other,
        "runs/sweep/lr-0.1/s": made.student,
    }
    for name, run in runs.items():
        shutil.copytree(run, here / name)
    shutil.copytree(made.labels, here / "runs/labels")
    (here / "runs/b/result.json").unlink()
    return {name: here / name for name in runs}


def test_the_command(listed: Mapping[str, Path], distill: Distill) -> None:
    outcome = distill("runs")
    assert outcome.code == 0, outcome.err
    heading, *lines = (line.split() for line in outcome.out.splitlines())
    assert heading[:4] == ["run", "state", "test_top1", "val_top1"]
    assert {line[0]: line[1] for line in lines} == {
        "a-teacher": "done",
        "sweep/lr-0.1/s": "done",
        "b": "resumable",
    }
    assert lines[-1][0] == "b"
    found = json.loads(distill("runs", "runs", "--json", "--sort", "test_nll").out)["runs"]
    results = {
        name: json.loads((path / "result.json").read_text())
        for name, path in listed.items()
        if name != "runs/b"
    }
    for run in found[:-1]:
        numbers = {
            key: value
            for key, value in results[run["run"]].items()
            if isinstance(value, int | float)
        }
        assert run["figures"] == numbers
        assert run["fault"] is None
        assert run["epoch"] == run["epochs"] == 3
    assert [run["figures"]["test_nll"] for run in found[:-1]] == sorted(
        r["test_nll"] for r in results.values()
    )
    assert found[-1]["state"] == "resumable"
    assert set(found[-1]["figures"]) >= {"val_top1", "best_epoch"}


def test_what_is_not_there(here: Path, distill: Distill) -> None:
    outcome = distill("runs")
    assert (outcome.code, outcome.out) == (0, "")
    assert "no run below runs" in outcome.err
    assert json.loads(distill("runs", "--json").out) == {"runs": []}
    assert distill("runs", "elsewhere").code == 2
    refused = distill("runs", "--sort", "test_top")
    assert refused.code == 2
    assert "test_top1" in refused.err


def test_a_fault_is_said_below(listed: Mapping[str, Path], distill: Distill) -> None:
    (listed["runs/b"] / "summary.csv").write_text("epoch,val_top1\n1,0.5,7\n")
    outcome = distill("runs")
    assert outcome.code == 0
    assert "unreadable" in outcome.out
    assert "summary.csv is malformed" in outcome.err


@pytest.mark.parametrize("columns", [40, 80])
def test_it_fits_a_terminal(listed: Mapping[str, Path], columns: int) -> None:
    seen = on_terminal("runs", columns=columns)
    assert seen.code == 0, seen.text
    assert max(map(len, seen.lines)) <= columns, seen.lines
    text = "\n".join(seen.lines)
    for word in (
        "sweep/lr-0.1/s",
        "resumable",
        "test_top1",
        "--json" if columns == 40 else "epoch",
    ):
        assert word in text, text
