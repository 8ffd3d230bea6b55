"""Data opened at a glance: what decoding would say of them, without a pixel or a trace."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.data import disk_cache as remembered
from distill_cli.data import file_index as listing
from distill_cli.data import reading
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.noise import drawn_rows, noise_like
from distill_cli.errors import ArtifactError
from distill_cli.types import UNREAD
from tests.conftest import tree
from tests.data.pictures import halves


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))


def folders(root: Path, side: int = 8, *, grey: bool = False, uneven: bool = False) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for number in range(count):
            for name in "ab":
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                sides = (side + (number if uneven else 0), side, *(() if grey else (3,)))
                pixels = generator.integers(0, 256, sides, dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return root


def packed(root: Path) -> Path:
    folders(root)
    with tarfile.open(root.with_suffix(".tar"), "w") as tar:
        tar.add(root, "data")
    return root.with_suffix(".tar")


MAKE: dict[str, Callable[[Path], tuple[Path | str, dict]]] = {
    "digits": lambda root: ("digits", {"split_seed": 3}),
    "colour": lambda root: (folders(root / "d"), {}),
    "grey": lambda root: (folders(root / "d", grey=True), {}),
    "resized": lambda root: (folders(root / "d", uneven=True), {"size": 6}),
    "uneven": lambda root: (folders(root / "d", uneven=True), {}),
    "large": lambda root: (folders(root / "d", side=140), {}),
    "tar": lambda root: (packed(root / "d"), {}),
    "several labels": lambda root: (halves(root / "d", 60), {}),
}


def known(data: Dataset) -> Dataset:
    """What a glance can know, to be compared."""
    return replace(data, mean=(), std=(), train=None, val=None, test=None, fit_rows=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", MAKE)
def test_it_is_the_dataset_but_for_its_pixels(kind: str, tmp_path: Path) -> None:
    spec, options = MAKE[kind](tmp_path)
    before = tree(tmp_path)
    glanced = open_dataset(str(spec), **options, glance=True)
    assert tree(tmp_path) == before, "nothing is written, remembered or touched"
    real = open_dataset(str(spec), **options)
    for data in (glanced, open_dataset(str(spec), **options, glance=True)):
        assert known(data) == known(real)
        assert torch.equal(data.fit_rows, real.fit_rows)
        assert data.from_files == real.from_files
        assert data.multi_label == real.multi_label
        for split in ("train", "val", "test"):
            own, other = getattr(data, split), getattr(real, split)
            assert own.size == other.size
            assert own.sample_ids == other.sample_ids
            assert torch.equal(own.label_N, other.label_N)
            assert (own.label_NK is None) == (other.label_NK is None)
        if not data.from_files:
            assert data.train.images_NCHW.device.type == "meta"  # type: ignore[union-attr]


def test_nothing_is_decoded(tmp_path: Path) -> None:
    """Files of which only the header is whole are listed, and refused when they are decoded."""
    for side in (8, 140):
        root = folders(tmp_path / f"d{side}", side)
        for path in root.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])
        data = open_dataset(str(root), glance=True)
        assert data.height == side
        bad = open_dataset(str(root), glance=True, skip_bad=True)
        assert bad.identity.fingerprint == bad.identity.ids_digest == UNREAD
    (root / "train/a/3.png").write_bytes(b"no image")
    with pytest.raises(ArtifactError, match=r"a/3\.png"):
        open_dataset(str(root), glance=True)
    assert open_dataset(str(root), glance=True, skip_bad=True).skipped == 1


def test_of_many_images_few_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folders(tmp_path / "d", side=140)
    looked: list[int] = []
    plain = listing._look
    monkeypatch.setattr(listing, "GLANCED", 7)
    monkeypatch.setattr(
        listing,
        "_look",
        lambda source, rows, **kw: (looked.extend(rows), plain(source, rows, **kw))[1],
    )
    data = open_dataset(str(root), glance=True)
    assert len(looked) == 7
    assert data.identity.fingerprint == UNREAD
    monkeypatch.undo()
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "RACY_SECONDS", -1.0)
    real = open_dataset(str(root))
    assert (data.identity.ids_digest, data.class_names) == (
        real.identity.ids_digest,
        real.class_names,
    )
    monkeypatch.setattr(listing, "GLANCED", 0)
    assert open_dataset(str(root), glance=True).identity == real.identity, "as it is remembered"


def test_remembered_images_are_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "RACY_SECONDS", -1.0)
    root = folders(tmp_path / "d")
    real = open_dataset(str(root), skip_bad=True)
    before = tree(tmp_path)
    monkeypatch.setattr(reading, "list_files", None)
    data = open_dataset(str(root), skip_bad=True, glance=True)
    assert data.identity == real.identity
    assert tree(tmp_path) == before


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "none"))
    with pytest.raises(ArtifactError, match="a dry run downloads nothing"):
        open_dataset("mnist", glance=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["colour", "large", "several labels"])
def test_noise_has_the_labels_and_sizes_of_the_data(kind: str, tmp_path: Path) -> None:
    spec, options = MAKE[kind](tmp_path)
    data = open_dataset(str(spec), **options, glance=True)
    noise = noise_like(data, drawn_rows(data, 5))
    assert noise.train.size == data.train.size
    assert noise.from_files == data.from_files
    assert noise.multi_label == data.multi_label
    assert len(noise.fit_rows) == 5
    assert set(noise.train.sample_ids) <= {data.train.sample_ids[i] for i in data.fit_rows.tolist()}
    [still] = noise.train.iter_plain()
    assert still.shape == (5, *data.train.size)
    assert still.float().std() > 20
