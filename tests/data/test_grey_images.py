"""Whether views are grey: by headers, else by the pixels of some training images, which are remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill_cli.data import disk_cache, grey_images
from distill_cli.data.dataset import open_dataset
from distill_cli.data.rules import DataRules
from tests.data.odd_folders import classes, colour, grey, save
from tests.data.test_archives import pack

COLOUR = {"grey": grey, "stored": lambda label, seed: grey(label, seed).convert("RGB")}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache, "RACY_SECONDS", -1.0)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows whose pixels were looked at."""
    rows: list[int] = []
    plain = grey_images._are_grey
    monkeypatch.setattr(
        grey_images, "_are_grey", lambda source, task: (rows.extend(task), plain(source, task))[1]
    )
    return rows


@pytest.mark.parametrize("kind", COLOUR)
@pytest.mark.parametrize("size", [None, 136])
def test_the_most_decide_however_views_are_held(
    tmp_path: Path, kind: str, size: int | None
) -> None:
    root = classes(tmp_path / "d", 10, make=COLOUR[kind])
    for number in range(3):
        save(root / "a" / f"colour-{number}.png", colour(0, 90 + number))
    data = open_dataset(str(root), size=size)
    glanced = open_dataset(str(root), size=size, glance=True)
    assert (data.from_files, data.channels, glanced.channels) == (size == 136, 1, 1)
    assert 2 * data.grey[0] > data.grey[1]
    # Tables are counted; of files, the headers suffice where most are stored as grey.
    for number in range(30):
        save(root / "b" / f"colour-{number}.png", colour(1, 190 + number))
    assert open_dataset(str(root), size=size).channels == 3
    assert open_dataset(str(root), size=size, glance=True).channels == 3
    then = DataRules(version="0.3.0", split_by="id")
    assert open_dataset(str(root), size=size, rules=then).channels == 3
    assert open_dataset(str(root), size=size, rules=DataRules(channels=1)).channels == 1


def test_headers_suffice_where_most_images_are_stored_as_grey(
    tmp_path: Path, looked: list[int]
) -> None:
    root = classes(tmp_path / "d", 10)
    save(root / "a" / "colour.png", colour(0, 90))
    assert open_dataset(str(root), size=136).channels == 1
    assert looked == []


def test_pixels_are_looked_at_until_the_most_are_known_and_then_remembered(
    tmp_path: Path, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grey_images, "LOOKED_AT", 12)
    monkeypatch.setattr(grey_images, "ROWS_A_TASK", 2)
    root = classes(tmp_path / "d", 20, make=colour)
    data = open_dataset(str(root), size=136)
    assert data.channels == 3
    assert len(looked) == 6, "half of those that are drawn"
    assert data.grey == (0, 6)
    again = open_dataset(str(root), size=136)
    assert (again.channels, again.grey, len(looked)) == (3, (0, 6), 6)


def test_a_damaged_image_is_what_its_header_says(tmp_path: Path) -> None:
    root = classes(tmp_path / "d", 10, make=COLOUR["stored"])
    path = root / "a" / "00.png"
    path.write_bytes(path.read_bytes()[:60])
    assert open_dataset(str(root), size=136, glance=True).channels == 1


def test_what_was_left_out_is_remembered_of_archives_and_looked_up_in_folders(
    tmp_path: Path,
) -> None:
    root = classes(tmp_path / "d", 10)
    (root / "a" / "bad.png").write_bytes(b"x")
    (root / "a" / "notes.txt").write_text("x")
    paths = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    archive = pack(tmp_path / "d.zip", paths)
    for spec in (root, archive):
        first, again = (open_dataset(str(spec), skip_bad=True) for _ in range(2))
        assert [one.where.rpartition("/")[2] for one in first.left] == ["bad.png", "notes.txt"]
        assert (again.left, again.skipped, again.grey) == (first.left, 1, first.grey)
        assert torch.equal(first.fit_rows, again.fit_rows)
    (root / "b" / "more.xml").write_text("x")
    (root / "a" / "notes.txt").unlink()
    later = open_dataset(str(root), skip_bad=True)
    assert [one.where.rpartition("/")[2] for one in later.left] == ["bad.png", "more.xml"]
