"""The engine `slurm`, by submitit, on commands that stand for Slurm's."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distill_cli.errors import ArtifactError, InternalError, UsageError
from distill_cli.pipeline.engines.protocol import Answer, value_of
from distill_cli.pipeline.engines.slurm_engine import SlurmEngine
from tests.cli.test_on_engine import DUMP, files
from tests.conftest import Made
from tests.pipeline.engines.slurm_stand_in import commands
from tests.processes import from_shell

pytest.importorskip("submitit")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def slurm(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what the stand-in's commands note."""
    bin = commands(here / "bin")
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return bin / "jobs"


def work(marks: Path, task: str) -> str:
    """Does as its task says; of the first try of some, nothing is left."""
    mark = marks / f"tried-{task}"
    if task == "killed" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "always killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "refused":
        raise ArtifactError("no such picture")
    return task.upper()


def opened(marks: Path) -> Callable[[str], str]:
    return partial(work, marks)


def run(folder: Path, tasks: Sequence[str], look: Any = lambda running: None) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    engine = SlurmEngine({"partition": "short", "workers": 2})
    with engine.started(print) as session:
        session.run(partial(opened, folder), tasks, done=answers.__setitem__, look=look)
    return answers


@pytest.mark.slow
def test_tasks_are_the_jobs_of_an_array(slurm: Path, here: Path) -> None:
    answers = run(here, ["a", "refused"])
    assert value_of(answers["a"]) == "A"
    assert answers["a"].worker.node == "node0"
    assert (answers["refused"].error, answers["refused"].code) == ("no such picture", 3)
    script = (slurm / "job-100" / "script").read_text()
    assert "#SBATCH --array=0-1%2" in script
    assert "#SBATCH --partition=short" in script


@pytest.mark.slow
def test_a_task_whose_job_was_killed_is_submitted_again_alone(slurm: Path, here: Path) -> None:
    answers = run(here, ["a", "killed"])
    assert value_of(answers["killed"]) == "KILLED"
    assert sorted(path.name for path in slurm.glob("job-*")) == ["job-100", "job-101"]


def test_what_is_not_done_is_cancelled(slurm: Path, here: Path) -> None:
    def look(running: Sequence[str]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(here, ["a", "b"], look)
    assert {path.name for path in slurm.glob("cancelled-*")} == {
        "cancelled-100_0",
        "cancelled-100_1",
    }


@pytest.mark.slow
def test_a_task_that_always_kills_its_job_is_given_up(slurm: Path, here: Path) -> None:
    with pytest.raises(InternalError, match="failed, after 3 others"):
        run(here, ["always killed"])


def test_an_option_that_sbatch_has_not(slurm: Path) -> None:
    engine = SlurmEngine({"partitoin": "short"})
    with pytest.raises(UsageError, match="partitoin"), engine.started(print):
        pass


def test_where_there_is_no_slurm(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(UsageError, match="login node"), SlurmEngine({}).started(print):
        pass


@pytest.mark.slow
def test_a_dump_as_jobs_of_an_array(slurm: Path, here: Path, made: Made) -> None:
    args = (*DUMP, "--teachers", made.teacher, "--on", "slurm", "--tasks", 2, "--threads", 1)
    ended = from_shell(*args, "--out", "c", "--json").end()
    assert ended.code == 0, ended.err
    [cache] = json.loads(ended.out)["caches"]
    assert {worker["node"] for worker in cache["made_by"]} <= {"node0", "node1"}
    made_here, plain = files(here / "c"), files(made.labels / made.teacher.name)
    assert made_here.keys() == plain.keys()
    # It says --threads 1.
    assert {name for name in plain if made_here[name] != plain[name]} == {"recipe.yaml"}
    # One job opens everything first; then come what lies beside the shards, and two tasks.
    assert "--array=0-2" in (slurm / "job-101" / "script").read_text()
