"""The pictures of a run that only some histories have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill_cli.errors import ArtifactError
from distill_cli.report.run_folder import read_run
from distill_cli.report.run_plots import of_run
from distill_cli.types import PSEUDO_LABELS, PseudoLabelCounts
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


def test_made_up_labels_are_drawn_with_how_right_they_were(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    for known in (0, 4):
        lines = [
            PseudoLabelCounts(
                epoch=epoch,
                seen=10,
                accepted=4,
                known=known,
                right=known // 2,
                classes={"a": 3, "b": 1},
            ).to_json()
            for epoch in (1, 2)
        ]
        (run / PSEUDO_LABELS).write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "{")
        [found] = [one for one in of_run(read_run(run)) if one.title == "Pseudo-labels"]
        assert found.note == (
            "Last epoch: 4 of 10 images without a label; most as a (3), fewest as b (1)."
        )
        assert ("right, where the label is known" in found.svg) == (known > 0)
    (run / PSEUDO_LABELS).write_text('{"epoch": 1}\n')
    with pytest.raises(ArtifactError, match="malformed"):
        read_run(run)


def test_other_runs_have_no_such_picture(tmp_path: Path) -> None:
    titles = [picture.title for picture in of_run(read_run(make(tmp_path / "b")))]
    assert "Pseudo-labels" not in titles
    assert TITLE not in [picture.title for picture in of_run(read_run(make(tmp_path / "a")))]
