"""How well students learn their teachers, by the images that they learn from; and runs of stages side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]
TINY = (
    "--model",
    "mlp_8x1",
    "--epochs",
    1,
    "-b",
    16,
    "--lr",
    0.1,
    "--precision",
    "fp32",
    "--quiet",
)


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


FEW = ("--labels-per-class", 10)


@pytest.mark.parametrize(
    ("taught", "flags"),
    [
        ("live", ()),
        ("cache", FEW),
        pytest.param("live", FEW, marks=pytest.mark.slow),
        pytest.param("cache", (), marks=pytest.mark.slow),
    ],
)
def test_held_out_kl_is_that_of_evaluate(
    made: Made, here: Path, distill: Distill, taught: str, flags: tuple[Any, ...]
) -> None:
    """Of the images that the run holds out: with hidden labels, of those that are left to it."""
    teachers = made.teacher if taught == "live" else sorted(made.labels.glob("*/"))[0]
    outcome = distill("student", "--teachers", teachers, *TINY, *flags, "--out", "run")
    assert outcome.code == 0, outcome.err
    asked = distill("evaluate", "run", "--split", "val", "--teacher", made.teacher, "--json")
    assert asked.code == 0, asked.err
    assert result(here / "run")["val_teacher_kl"] == pytest.approx(
        json.loads(asked.out)["teacher_kl"], rel=1e-4
    )


def test_who_has_no_teacher_has_no_held_out_kl(made: Made, here: Path, distill: Distill) -> None:
    """A teacher; a student that holds nothing out."""
    assert result(made.teacher)["val_teacher_kl"] is None
    few = ("--teachers", made.teacher, "--labels-per-class", 2)
    assert distill("student", *few, *TINY, "--out", "few").code == 0
    assert result(here / "few")["val_teacher_kl"] is None
    assert result(here / "few")["teacher_kl"] > 0


def test_the_curve_of_transfer_sets(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students of 50 and 800 images: figures in the table and in --json, and a curve on the page."""
    monkeypatch.setenv("COLUMNS", "200")
    student = ("student", "--teachers", made.teacher, *TINY)
    for images in (50, 800):
        assert distill(*student, "--limit", images, "--out", f"n-{images}").code == 0
    outcome = distill("compare", "n-50", "n-800", "--html", "page.html")
    assert outcome.code == 0, outcome.err
    few, many = (result(here / f"n-{images}")["val_teacher_kl"] for images in (50, 800))
    assert many < few
    assert "held-out KL" in outcome.out
    assert "trained on" in outcome.out
    assert f"{few:.4f}" in outcome.out
    page = (here / "page.html").read_text()
    assert "How well the teachers are learnt" in page
    assert "images trained on" in page
    rows = json.loads(distill("compare", "n-50", "n-800", "--json").out)
    assert [row["figures"]["val_teacher_kl"]["mean"] for row in rows] == [few, many]
    # Of one size there is no curve.
    alike = distill("compare", "n-800", "--html", "page.html")
    assert "held-out KL" not in alike.out
    assert "How well the teachers are learnt" not in (here / "page.html").read_text()


STAGES = """
command: student
data: digits
model: mlp_8x1
epochs: 2
batch_size: 64
limit: 200
out: run
stages:
  - {name: hard-only, command: teacher train}
  - {name: soft, objective: [{name: kd}], epochs: 1}
  - {name: soft-then-hard, command: teacher train, init: "stage:soft", epochs: 1, lr: 0.01}
"""


@pytest.mark.slow
def test_stages_of_several_seeds(made: Made, here: Path, distill: Distill) -> None:
    """Each stage is a row of as many seeds: what they began with lies in their own folders."""
    (here / "recipe.yaml").write_text(STAGES)
    assigned = ("--set", f"teachers={made.teacher}", "--quiet")
    for seed in (0, 1):
        outcome = distill(
            *("recipes", "run", "recipe.yaml", *assigned),
            *("--set", f"seed={seed}", "--set", f"out=seed/{seed}"),
        )
        assert outcome.code == 0, outcome.err
    both = json.loads(distill("compare", "seed/0/stages", "seed/1/stages", "--json").out)
    assert [row["seeds"] for row in both] == [[0, 1]] * 3


def test_stages_side_by_side(made: Made, here: Path, distill: Distill) -> None:
    """RUN/stages means all of them, in the order of their names, and RUN itself."""
    (here / "recipe.yaml").write_text(STAGES.replace("limit: 200", "limit: 60"))
    outcome = distill(
        "recipes", "run", "recipe.yaml", "--set", f"teachers={made.teacher}", "--quiet"
    )
    assert outcome.code == 0, outcome.err
    rows = json.loads(distill("compare", "run/stages", "--json").out)
    assert [Path(row["runs"][0]).name for row in rows] == ["hard-only", "soft", "run"]
