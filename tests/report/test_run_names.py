"""Run folders go by as much of their paths as tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_cli.report.run_names import group_names


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        ([["/home/me/runs/a"], ["/home/me/runs/b"]], ["a", "b"]),
        ([["/x/one/a"], ["/x/two/a"], ["/x/two/b"]], ["one/a", "two/a", "b"]),
        ([["/x/kd/seed-0", "/x/kd/seed-1"], ["/x/hard/seed-0"]], ["kd", "hard/seed-0"]),
        ([["/x/kd/seed-0", "/x/kd/seed-1", "/x/more"]], ["kd, more"]),
        ([["/x/hard-0", "/x/hard-1", "/x/hard-2"]], ["hard-0…2"]),
        ([["/x/hard-9", "/x/hard-10"]], ["hard-9…10"]),
        ([["/x/hard-0", "/x/hard-7"]], ["hard-0, hard-7"]),
        ([["/x/hard-0", "/x/hard-1", "/x/hard-7"]], ["hard-0, hard-1, +1"]),
        ([["/x/a/seed-1"], ["/y/a/seed-1"]], ["x/a/seed-1", "y/a/seed-1"]),
        ([["a", "a/../b"]], ["a, b"]),
        ([["/"]], ["/"]),
        ([], []),
    ],
)
def test_names(folders: list[list[str]], names: list[str]) -> None:
    assert group_names([[Path(folder) for folder in of] for of in folders]) == names


def test_the_folder_that_one_is_in_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert group_names([[Path()]]) == ["run"]
