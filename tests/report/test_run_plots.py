"""The pictures of a run that only some histories have."""

from __future__ import annotations

from pathlib import Path

from distill_cli.report.run_folder import read_run
from distill_cli.report.run_plots import of_run
from tests.report.made import HISTORY, make

TITLE = "Local intrinsic dimension of the features"


def dimension(path: Path, turned: list[int]) -> tuple[str, str]:
    header, *rows = HISTORY.splitlines()
    cells = [f"{row},{5 - place},1.0,{turned[place]}" for place, row in enumerate(rows)]
    history = "\n".join([f"{header},lid,alpha,turned", *cells]) + "\n"
    (found,) = [
        picture
        for picture in of_run(read_run(make(path, history=history)))
        if picture.title == TITLE
    ]
    return found.svg, found.note


def test_the_turn_of_the_dimension_is_marked(tmp_path: Path) -> None:
    without, quiet = dimension(tmp_path / "a", [0, 0, 0])
    marked, note = dimension(tmp_path / "b", [0, 1, 0])
    assert "No turn" in quiet
    assert "the turn in epoch 2" in note
    # The mark is the one dashed line.
    assert marked.count("stroke-dasharray") == without.count("stroke-dasharray") + 1
    assert f'aria-label="{TITLE} over 3 epochs"' in marked


def test_other_runs_have_no_such_picture(tmp_path: Path) -> None:
    assert TITLE not in [picture.title for picture in of_run(read_run(make(tmp_path / "a")))]
