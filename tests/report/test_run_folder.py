"""Run folders are read whole, or refused with what to do."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.report.groups import group_runs
from distill_cli.report.run_folder import read_run
from distill_cli.report.table import to_json
from tests.report.made import FIGURES, HISTORY, make

ROOT = Path(__file__).parents[2]


def test_a_run_is_read(tmp_path: Path) -> None:
    run = read_run(make(tmp_path / "a"))
    assert run.name == "a"
    assert run.recipe["model"] == "mlp_16x1"
    assert run.result is not None
    assert run.result.to_json() == {**FIGURES, "warnings": ()}
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert run.history[1]["val_top1"] == 0.9
    assert run.recorded["device"] == "cpu"


def test_history_may_be_missing_or_empty(tmp_path: Path) -> None:
    assert read_run(make(tmp_path / "none", history=None)).history == ()
    assert read_run(make(tmp_path / "empty", history="")).history == ()
    assert read_run(make(tmp_path / "header", history="epoch,lr\n")).history == ()


def test_a_torn_last_row_is_left_out_and_an_empty_cell_is_nan(tmp_path: Path) -> None:
    torn = read_run(make(tmp_path / "torn", history=HISTORY + "4,0.0,0."))
    assert len(torn.history) == 3
    hole = read_run(make(tmp_path / "hole", history="epoch,val_top1\n1,\n"))
    assert math.isnan(hole.history[0]["val_top1"])


def test_a_history_that_excel_saved_has_a_mark_before_its_header(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", history=HISTORY)
    plain = read_run(folder).history
    (folder / "summary.csv").write_text(HISTORY, encoding="utf-8-sig")
    assert read_run(folder).history == plain


def test_an_unfinished_run_is_refused_unless_allowed(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", finished=False)
    with pytest.raises(ArtifactError, match=r"did not finish.*--resume") as refused:
        read_run(folder)
    assert refused.value.exit_code == 3
    run = read_run(folder, finished=False)
    assert run.result is None
    assert len(run.history) == 3


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as missing:
        read_run(tmp_path / "nowhere")
    assert missing.value.exit_code == 2
    with pytest.raises(ArtifactError, match=r"no run folder.*Give the folder") as other:
        read_run(tmp_path)
    assert other.value.exit_code == 3


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("recipe.yaml", "a: [1", "recipe.yaml is malformed"),
        ("recipe.yaml", "just text", "holds no keys"),
        ("recipe.yaml", "!!python/object:os.system {}", "recipe.yaml is malformed"),
        ("result.json", "{", "result.json is malformed"),
        ("result.json", "[]", "holds no keys"),
        ("summary.csv", "epoch,lr\n1\n", "line 2"),
        ("summary.csv", "epoch,lr\n1,2,3\n", "line 2"),
        ("summary.csv", "epoch,lr\n1,2\n2,fast\n", "line 3"),
        ("summary.csv", "lr\n1\n", "no column 'epoch'"),
    ],
)
def test_malformed_files(tmp_path: Path, file: str, content: str, said: str) -> None:
    folder = make(tmp_path / "a")
    (folder / file).write_text(content)
    with pytest.raises(ArtifactError, match=said) as refused:
        read_run(folder)
    assert refused.value.exit_code == 3


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "summary.csv").write_bytes(b"epoch\n\xff\n")
    with pytest.raises(ArtifactError, match=r"summary\.csv is malformed"):
        read_run(folder)


def test_other_figures_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    values = {**FIGURES, "test_top5": 0.99}
    del values["test_nll"]
    (folder / "result.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="lacks test_nll; unknown test_top5"):
        read_run(folder)


def test_figures_that_earlier_versions_did_not_have(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    values = {key: value for key, value in FIGURES.items() if key != "test_map"}
    (folder / "result.json").write_text(json.dumps(values))
    found = read_run(folder).result
    assert found is not None
    assert found.to_json() == {**FIGURES, "warnings": ()}


def test_warnings_are_texts(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "result.json").write_text(json.dumps({**FIGURES, "warnings": ["one", "two"]}))
    found = read_run(folder)
    assert found.result is not None
    assert found.result.warnings == ("one", "two")
    [group] = to_json(group_runs([found]))
    assert group["figures"].keys() == FIGURES.keys(), "what is no number has no mean"
    for wrong in ("one", [1], None, ["\ud800"]):
        (folder / "result.json").write_text(json.dumps({**FIGURES, "warnings": wrong}))
        with pytest.raises(ArtifactError, match=r"result\.json is malformed"):
            read_run(folder)


@pytest.mark.parametrize("value", ["0.9", None, True, [1]])
def test_figures_are_numbers(tmp_path: Path, value: object) -> None:
    folder = make(tmp_path / "a", figures={"test_top1": value})
    with pytest.raises(ArtifactError, match=r"test_top1 is .*not a finite number"):
        read_run(folder)


def test_figures_are_finite(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", figures={"test_top1": math.nan})
    with pytest.raises(
        ArtifactError, match=r"result\.json is malformed: .* NaN, which is no number"
    ):
        read_run(folder)


def test_importing_is_quick_and_free_of_torch() -> None:
    names = sorted(path.stem for path in (ROOT / "distill_cli" / "report").glob("[a-z]*.py"))
    code = "import sys\n" + "".join(f"import distill_cli.report.{name}\n" for name in names)
    out = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    assert "distill_cli.report.html" in out
    assert not {"torch", "matplotlib", "jinja2", "scipy", "numpy"} & set(out)


GOOD = {"class_names": ["a", "b"], "share": [[0, 1], [0.5, 0]], "pairs": [["a", "b", 0.75]]}


@pytest.mark.parametrize(
    "wrong",
    [
        [GOOD],
        {"x": [1]},
        {"x": {**GOOD, "more": 1}},
        {"x": {**GOOD, "share": []}},
        {"x": {**GOOD, "share": [[0, 1], [1]]}},
        {"x": {**GOOD, "share": [[0, -1], [1, 0]]}},
        {"x": {**GOOD, "share": [[0, None], [1, 0]]}},
        {"x": {**GOOD, "class_names": [1, 2]}},
        {"x": {**GOOD, "class_names": "ab"}},
        {"x": {**GOOD, "class_names": ["a", "\ud800"]}},
        {"x": {**GOOD, "pairs": [[None, {}, 0.5]]}},
        {"x": {**GOOD, "pairs": [["a", "b"]]}},
        {"x": {**GOOD, "class_names": ["a"] * 400, "share": [[0] * 400] * 400}},
    ],
)
def test_relations_that_are_none(wrong: object, tmp_path: Path) -> None:
    run = make(tmp_path / "r")
    (run / "relations.json").write_text(json.dumps({"x": GOOD}))
    assert read_run(run).relations["x"].pairs == [("a", "b", 0.75)]
    (run / "relations.json").write_text(json.dumps(wrong))
    with pytest.raises(ArtifactError, match=r"relations\.json is malformed"):
        read_run(run)
