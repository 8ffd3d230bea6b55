from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.report import table
from distill_cli.report.card import model_card
from distill_cli.report.groups import group_runs
from distill_cli.report.html import comparison_page, run_page
from distill_cli.report.runs import RunSummary, read_run
from distill_cli.report.verdict import verdict
from distill_cli.types import RunResult

RESULT = RunResult(
    test_top1=0.9,
    test_errors=36,
    test_samples=360,
    test_nll=0.3,
    test_ece=0.02,
    val_top1=0.91,
    best_epoch=2,
    params=12_345,
    model_bytes=50_000,
    latency_ms=0.1,
    images_per_second=1000.0,
    seconds=3.0,
    teacher_agreement=None,
    teacher_kl=None,
)


def run(
    folder: Path, *, errors: int = 36, seed: int = 0, model: str = "net", **recipe: object
) -> RunSummary:
    folder.mkdir(parents=True)
    result = {**RESULT.to_json(), "test_errors": errors, "test_top1": 1 - errors / 360}
    result.update({key: recipe.pop(key) for key in list(recipe) if key in result})
    recipe = {"command": "teacher train", "model": model, "objective": "ce", "seed": seed, **recipe}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "summary.csv").write_text(
        "epoch,train_loss,val_top1,val_nll\n1,2.0,0.5,1.5\n2,1.0,0.9,0.4\n"
    )
    return read_run(folder)


def test_groups_are_recipes_and_means_are_over_seeds(tmp_path: Path) -> None:
    errors = [30, 34, 41]
    runs = [run(tmp_path / f"a{s}", errors=e, seed=s) for s, e in enumerate(errors)]
    runs.insert(1, run(tmp_path / "b", errors=9, model="other"))
    first, second = group_runs(runs)
    assert (len(first.runs), len(second.runs)) == (3, 1)
    assert first.mean("test_errors") == statistics.fmean(errors)
    assert first.sd("test_errors") == statistics.stdev(errors)
    assert second.sd("test_errors") is None
    rows = table.rows([first, second])
    assert rows[0].errors == "35.0 ± 5.6"
    assert rows[1].errors == "9"
    assert rows[1].against == "26 errors fewer"


def test_smaller_faster_more_errors(tmp_path: Path) -> None:
    teacher = group_runs([run(tmp_path / "t", errors=9)])[0]
    student = group_runs(
        [run(tmp_path / "s", errors=12, model="small", params=1122, latency_ms=0.025)]
    )[0]
    assert table.against(student, teacher) == "11× smaller, 4× faster, 3 errors more"
    assert table.against(teacher, student) == "11× larger, 4× slower, 3 errors fewer"
    assert table.against(teacher, teacher) == "as many errors"


@pytest.mark.parametrize(
    ("number", "shown"), [(7, "7"), (999, "999"), (14_300, "14.3 K"), (2_395_210, "2.4 M")]
)
def test_counts(number: int, shown: str) -> None:
    assert table.count(number) == shown


def test_different_data_is_noted(tmp_path: Path) -> None:
    one = run(tmp_path / "a", recorded={"dataset": {"fingerprint": "x"}, "device": "cpu"})
    two = run(
        tmp_path / "b", model="m", recorded={"dataset": {"fingerprint": "y"}, "device": "cpu"}
    )
    assert "different data" in table.notes(group_runs([one, two]))[0]
    assert not table.notes(group_runs([one]))


errors = st.lists(st.integers(0, 200), min_size=3, max_size=8)


def test_verdict_is_the_paired_t_interval() -> None:
    hard, taught = [50, 55, 47, 60], [44, 50, 45, 51]
    found = verdict(hard, taught)
    differences = [t - h for h, t in zip(hard, taught, strict=True)]
    # 3.182446 is Student's t at 97.5 % with 3 degrees of freedom, from tables.
    half = 3.182446 * statistics.stdev(differences) / 2
    assert found.difference == pytest.approx(-5.5)
    assert (found.low, found.high) == pytest.approx((-5.5 - half, -5.5 + half), rel=1e-5)
    assert found.kind == "helped"
    assert "5.5 fewer errors" in found.sentence


def test_verdict_kinds() -> None:
    assert verdict([10, 11, 12], [20, 21, 23]).kind == "did not help"
    assert verdict([10, 20, 30], [30, 20, 10]).kind == "cannot be told"
    assert verdict([10], [1]).kind == "cannot be told"
    assert "one seed" in verdict([10], [1]).sentence
    assert verdict([5, 5, 5], [5, 5, 5]).kind == "cannot be told"
    assert verdict([20, 30], [19, 29]).kind == "cannot be told"
    assert verdict([20, 30, 25], [19, 29, 24]).kind == "cannot be told", "no spread, no certainty"


@given(errors, st.integers(-5, 5))
def test_verdict_is_symmetric_and_shift_invariant(hard: list[int], shift: int) -> None:
    taught = [h + shift + (i % 3) for i, h in enumerate(hard)]
    one, other = verdict(hard, taught), verdict(taught, hard)
    assert one.difference == -other.difference
    assert one.low is not None
    assert other.low is not None
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    moved = verdict([h + 7 for h in hard], [t + 7 for t in taught])
    assert moved.kind == one.kind


def test_pages_load_nothing_and_escape(tmp_path: Path) -> None:
    nasty = run(tmp_path / "a", model="<b>net</b>", seed=0)
    groups = group_runs([nasty, run(tmp_path / "b", model="other")])
    pages = [run_page(nasty), comparison_page("<i>title</i>", "about", groups, ["<u>yes</u>"])]
    for page in pages:
        assert "<b>net" not in page
        assert "<i>title" not in page
        assert "<u>yes" not in page
        assert "<svg" in page
        assert "<script" not in page
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert all(target.startswith("#") for target in loaded), loaded
        assert "@import" not in page
        assert not re.search(r"url\((?!#)", page)


def test_card_leaks_no_path() -> None:
    recipe = {
        "command": "student",
        "model": "m",
        "data": "/somewhere/private/pets.tar",
        "teachers": ["/somewhere/private/t"],
        "epochs": 3,
    }
    card = model_card(recipe, RESULT)
    assert "somewhere" not in card
    assert "36 of 360" in card
    assert "pets.tar" in card


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no run"):
        read_run(tmp_path)
    run(tmp_path / "a")
    (tmp_path / "a" / "result.json").unlink()
    with pytest.raises(ArtifactError, match="--resume"):
        read_run(tmp_path / "a")
    run(tmp_path / "b")
    (tmp_path / "b" / "result.json").write_text('{"test_top1": 1}')
    with pytest.raises(ArtifactError):
        read_run(tmp_path / "b")
