"""`distill compare`: which runs count, what is told of them, in a terminal and on a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill_cli import __version__
from tests.conftest import Made, Outcome
from tests.reliability import Reliability
from tests.report.made import RECIPE, STUDENT, make
from tests.terminals import on_terminal

Distill = Callable[..., Outcome]
# As a run of this version notes it, so that no default is looked up.
NOTED = {**RECIPE["recorded"], "versions": {"distill-cli": __version__}, "defaults": __version__}


def made_run(path: str, recipe: dict[str, Any] | None = None, **figures: Any) -> None:
    make(Path(path), {"recorded": NOTED, **(recipe or {})}, figures)


@pytest.fixture
def runs(here: Path) -> None:
    """A teacher, a student of three seeds on hard labels, the same of three seeds taught."""
    made_run("runs/teacher", {"model": "mlp_512x2"}, test_errors=5, test_top1=0.986)
    for seed in range(3):
        hard = {"test_errors": 60 + seed, "test_top1": 0.83, "val_top1": 0.84}
        made_run(f"runs/hard-{seed}", {"seed": seed}, **hard)
        taught = {"test_errors": 20 + seed, "test_top1": 0.94, "val_top1": 0.95}
        made_run(f"runs/kd/seed-{seed}", {**STUDENT, "seed": seed}, **taught)
    rows = [{"seed": seed, "figures": {"test_top1": 0.94}} for seed in range(3)]
    Path("runs/kd/seeds.json").write_text(json.dumps({"runs": rows}))


def globbed(pattern: str = "runs/*") -> list[str]:
    return sorted(map(str, Path().glob(pattern)))


def test_names_held_out_and_order(runs: None, distill: Distill) -> None:
    outcome = distill("compare", *globbed())
    assert outcome.code == 0, outcome.err
    heading, *rows = outcome.out.splitlines()[:4]
    assert heading.split()[:2] == ["run", "what"]
    assert "held out" in heading
    assert [row.split()[0] for row in rows] == ["teacher", "kd", "hard-0…2"]
    assert "94.00 ± 0.00 %" in rows[1]
    assert "95.00 ± 0.00 %" in rows[1]
    assert "Against hard-0…2" in outcome.out, "the first that was named"


def test_the_verdict_where_a_baseline_is_among_the_runs(runs: None, distill: Distill) -> None:
    said = distill("compare", *globbed()).out
    assert "kd against hard-0…2: helped: 40.0 fewer errors of 360 on average" in said
    assert "Did it help?" not in distill("compare", "runs/teacher", "runs/kd").out
    groups = json.loads(distill("compare", *globbed(), "--json").out)
    by_role = {group["label"]: group["verdict"] for group in groups}
    [verdict] = [verdict for verdict in by_role.values() if verdict is not None]
    assert (verdict["kind"], verdict["difference"], verdict["seeds"]) == ("helped", -40, 3)
    assert verdict["baseline"] == "mlp_16x1 · ce"


def test_a_run_made_twice_is_no_second_seed(here: Path, made: Made, distill: Distill) -> None:
    shutil.copytree(made.student, "again")
    outcome = distill("compare", made.student, "again")
    assert outcome.code == 0, outcome.err
    row = outcome.out.splitlines()[1]
    assert row.endswith(" 1"), "one seed"
    assert "±" not in row
    assert "note: again has the recipe and the seed of student" in outcome.err
    [group] = json.loads(distill("compare", made.student, "again", "--json").out)
    assert group["seeds"] == [0]
    assert group["figures"]["test_errors"]["sd"] is None
    assert group["repeats"] == ["again"]


LEFT_OUT = {
    "empty": "is no run folder",
    "file.txt": "is no run folder",
    "hints": "is a hint-init",
    "unfinished": "did not finish",
    "labels": "holds soft labels",
    "seeds": "not all finished",
}


@pytest.fixture
def others(runs: None, made: Made) -> None:
    """What else may lie among runs."""
    Path("runs/empty").mkdir()
    Path("runs/file.txt").write_text("a log")
    made_run("runs/hints", {"command": "hint-init"})
    make(Path("runs/unfinished"), finished=False)
    shutil.copytree(made.labels, "runs/labels")
    Path("runs/seeds").mkdir()
    Path("runs/seeds/seeds.yaml").write_text(yaml.safe_dump({"seeds": [0, 1]}))


def test_what_is_no_run_is_left_out_with_a_word(
    others: None, distill: Distill, reliability: Reliability
) -> None:
    outcome = distill("compare", *globbed())
    assert outcome.code == 0, outcome.err
    notes = [line for line in outcome.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(LEFT_OUT)
    for name, words in LEFT_OUT.items():
        assert any(f"runs/{name} " in note and words in note for note in notes), name
    assert "teacher" in outcome.out
    [said] = [note for note in notes if "runs/unfinished" in note]
    fault = "a folder that holds no finished run, among runs"
    reliability("Folders and paths", fault, "distill compare runs/*", outcome, message=said)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_alone_it_is_refused(
    others: None, distill: Distill, reliability: Reliability, name: str
) -> None:
    outcome = distill("compare", f"runs/{name}")
    assert outcome.code == 3
    assert LEFT_OUT[name] in outcome.err
    if name == "unfinished":
        fault = "a folder that holds no finished run, alone"
        reliability("Folders and paths", fault, f"distill compare runs/{name}", outcome)


def test_what_is_damaged_or_not_there_is_refused(runs: None, distill: Distill) -> None:
    assert distill("compare", *globbed(), "runs/nowhere").code == 2
    Path("runs/teacher/result.json").write_text("{")
    outcome = distill("compare", *globbed())
    assert outcome.code == 3
    assert "runs/teacher/result.json" in outcome.err


def test_a_run_and_its_twin_without_copies(runs: None, distill: Distill) -> None:
    test = {"test": {"samples": 360, "fingerprint": "t"}}
    dataset = {**NOTED["dataset"], "fingerprint": "fewer", "samples": 1400, "dedupe": True}
    made_run("twin", {"recorded": {**NOTED, **test, "dataset": dataset}, "dedupe": True})
    made_run("whole", {"recorded": {**NOTED, **test}, "dedupe": False})
    outcome = distill("compare", "whole", "twin")
    assert "cannot be compared" not in outcome.err
    assert (
        "different training images (1,438 and 1,400); they were tested on the same" in outcome.err
    )
    assert "dedupe=yes" in outcome.out


def test_a_page_of_it(runs: None, distill: Distill) -> None:
    outcome = distill("compare", *globbed(), "--html", "page.html")
    assert outcome.code == 0, outcome.err
    assert "page.html" in outcome.err
    page = Path("page.html").read_text()
    for text in ("Runs on digits", "kd against hard-0…2", 'class="helped"', "held out", "<svg"):
        assert text in page, text
    assert str(Path.cwd()) not in page
    refused = distill("compare", *globbed(), "--html", "runs")
    assert (refused.code, "cannot write runs: it is a folder" in refused.err) == (2, True)
    assert json.loads(distill("compare", *globbed(), "--json", "--html", "page.html").out)


@pytest.mark.parametrize("columns", [80, 40])
def test_in_a_terminal_nothing_that_is_needed_is_cut(runs: None, columns: int) -> None:
    seen = on_terminal("compare", *globbed(), columns=columns)
    assert seen.code == 0, seen.text
    assert max(map(len, seen.lines)) <= columns
    needed = (
        *("kd", "hard-0…2", "21.0 ± 1.0", "94.00 ± 0.00 %", "95.00 ± 0.00 %"),
        *("test errors", "test accuracy", "held out", "seeds"),
    )
    for text in needed:
        assert any(text in line for line in seen.lines), text
    heading = seen.lines[0].split()
    assert (heading[:2] == ["run", "what"]) == (columns == 80)
