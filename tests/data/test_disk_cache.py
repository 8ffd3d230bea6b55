"""What was read once is not read again, unless something changed."""

from __future__ import annotations

import functools
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.data import disk_cache as remembered
from distill_cli.data import file_index as listing
from distill_cli.data import reading as module
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.open_splits import open_splits
from distill_cli.errors import ArtifactError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))


def settle(root: Path) -> None:
    """Lets the files be as old as they look: nothing is remembered of what has just changed."""
    while not all(
        remembered.is_settled(remembered.stat_of(path)) for path in [root, *root.rglob("*")]
    ):
        time.sleep(0.05)


def make(root: Path, side: int = 8) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for number in range(count):
            for name in "ab":
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return root


def key(folder: Path) -> remembered.Key | None:
    stamp = remembered.stamp_of(open_splits(str(folder)))
    return remembered.key_of(stamp, size=None, skip_bad=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "RACY_SECONDS", 0.2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded."""
    seen: list[str] = []
    plain = module.decode
    monkeypatch.setattr(
        module, "decode", lambda *a, **k: (seen.append("decoded"), plain(*a, **k))[1]
    )
    return seen


def same(one: Dataset, other: Dataset) -> None:
    assert one.identity == other.identity
    assert (one.class_names, one.skipped, one.mean) == (
        other.class_names,
        other.skipped,
        other.mean,
    )
    for a, b in zip(
        (one.train, one.val, one.test), (other.train, other.val, other.test), strict=True
    ):
        assert torch.equal(a.images_NCHW, b.images_NCHW)
        assert torch.equal(a.label_N, b.label_N)
        assert torch.equal(a.key_N, b.key_N)
        assert a.sample_ids == b.sample_ids


@pytest.mark.parametrize("packed", [False, True])
def test_a_second_run_decodes_nothing(
    tmp_path: Path, quick: None, reads: list[str], packed: bool
) -> None:
    data = make(tmp_path / "data")
    if packed:
        data = Path(shutil.make_archive(str(tmp_path / "packed"), "tar", data))
    settle(data)
    first = open_dataset(str(data))
    same(first, open_dataset(str(data)))
    assert reads == ["decoded"]
    open_dataset(str(data), size=6)
    assert reads == ["decoded"] * 2, "another size is another table"


def edit(root: Path) -> None:
    path = root / "train/a/1.png"
    status = path.stat()
    content = bytearray(path.read_bytes())
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    # Of the same size and modification time: only the status-change time tells.
    path.write_bytes(path.read_bytes().ljust(len(content), b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def add(root: Path) -> None:
    shutil.copy2(root / "train/a/1.png", root / "train/a/9.png")


def remove(root: Path) -> None:
    (root / "train/a/1.png").unlink()


def rename(root: Path) -> None:
    (root / "train/a/1.png").rename(root / "train/a/7.png")


@pytest.mark.parametrize("change", [edit, add, remove, rename])
def test_a_change_is_seen(tmp_path: Path, quick: None, reads: list[str], change) -> None:  # type: ignore[no-untyped-def]
    data = make(tmp_path / "data")
    settle(data)
    first = open_dataset(str(data))
    change(data)
    second = open_dataset(str(data))
    assert len(reads) == 2
    assert first.identity.fingerprint != second.identity.fingerprint


def test_what_has_just_changed_is_not_remembered(tmp_path: Path, reads: list[str]) -> None:
    data = make(tmp_path / "data")
    open_dataset(str(data))
    open_dataset(str(data))
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip a bit", "no index", "half an index", "gone"])
def test_a_damaged_memory_is_made_again(
    tmp_path: Path, quick: None, reads: list[str], damage: str
) -> None:
    data = make(tmp_path / "data")
    settle(data)
    first = open_dataset(str(data))
    [kept] = (tmp_path / "cache" / "decoded").iterdir()
    if damage == "truncate":
        (kept / "train.u8").unlink()
        (kept / "train.u8").write_bytes(b"\0" * 10)
    elif damage == "flip a bit":
        content = bytearray((kept / "train.u8").read_bytes())
        content[100] ^= 1
        (kept / "train.u8").unlink()
        (kept / "train.u8").write_bytes(content)
    elif damage == "no index":
        (kept / "index.json").unlink()
    elif damage == "half an index":
        (kept / "index.json").write_text("{")
    else:
        shutil.rmtree(kept)
    same(first, open_dataset(str(data)))
    assert len(reads) == 2
    same(first, open_dataset(str(data)))
    assert len(reads) == 2, "remembered again"


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path / "data")
    settle(data)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "file" / "below"))
    same(open_dataset(str(data)), open_dataset(str(data)))


def test_the_longest_unused_goes_first(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [make(tmp_path / name) for name in ("one", "two", "three")]
    for folder in folders:
        settle(folder)
    open_dataset(str(folders[0]))
    open_dataset(str(folders[1]))
    kept = {path.name for path in (tmp_path / "cache/decoded").iterdir()}
    time.sleep(0.02)
    open_dataset(str(folders[0]))
    size = sum(f.stat().st_size for f in (tmp_path / "cache/decoded").rglob("*") if f.is_file())
    monkeypatch.setattr(remembered, "LIMIT_BYTES", size + 100)
    open_dataset(str(folders[2]))
    left = {path.name for path in (tmp_path / "cache/decoded").iterdir()}
    first = key(folders[0])
    second = key(folders[1])
    assert first is not None
    assert second is not None
    assert first.digest in left & kept
    assert second.digest not in left


def test_digests_of_large_images_are_remembered_file_by_file(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path / "data", side=140)
    settle(data)
    looked: list[int] = []
    plain = listing._look
    monkeypatch.setattr(
        listing,
        "_look",
        lambda source, rows, **k: (looked.extend(rows), plain(source, rows, **k))[1],
    )
    first = open_dataset(str(data))
    assert len(looked) == 14
    assert open_dataset(str(data)).identity == first.identity
    assert len(looked) == 14
    Image.fromarray(np.zeros((140, 140, 3), np.uint8)).save(data / "train/a/1.png")
    assert open_dataset(str(data)).identity != first.identity
    assert len(looked) == 15
    open_dataset(str(data), skip_bad=True)
    assert len(looked) == 29, "headers alone do not show which images are bad"


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, quick: None) -> None:
    data = make(tmp_path / "data")
    settle(data)
    orphan = tmp_path / "cache/decoded/0123.making-1"
    orphan.mkdir(parents=True)
    (orphan / "train.u8").write_bytes(b"x")
    os.utime(orphan, (0, 0))
    open_dataset(str(data))
    assert not orphan.exists()


def test_a_cache_that_can_only_be_read_is_read(
    tmp_path: Path, quick: None, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path / "data")
    settle(data)
    open_dataset(str(data))

    def refused(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    open_dataset(str(data))
    assert reads == ["decoded"]


def test_torchvisions_datasets_are_remembered_by_their_content(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    class Made:
        classes = ("a", "b")

        def __init__(self, root: str, train: bool, download: bool) -> None:
            self.data = np.random.default_rng(train).integers(0, 256, (20, 6, 6), dtype=np.uint8)
            self.targets = [index % 2 for index in range(20)]

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.fromarray(self.data[index]), self.targets[index]

    monkeypatch.setattr(datasets, "MNIST", Made)
    same(open_dataset("mnist"), open_dataset("torch/MNIST"))
    assert reads == ["decoded"]
    plain = Made.__init__

    @functools.wraps(plain)
    def changed(self: Made, *args: object, **kwargs: object) -> None:
        plain(self, *args, **kwargs)
        self.data[3, 2, 1] ^= 1

    monkeypatch.setattr(Made, "__init__", changed)
    open_dataset("mnist")
    assert reads == ["decoded"] * 2


def test_a_cycle_of_links_is_refused_and_not_walked(tmp_path: Path) -> None:
    data = make(tmp_path / "data")
    for name in ("one", "two"):
        (data / "train/a" / name).symlink_to(data)
    with pytest.raises(ArtifactError, match="link"):
        open_dataset(str(data))
