"""What --data may name, and what each of it gives."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.data.open_splits import ItemSource, Source, by_id, open_splits
from distill_cli.errors import ArtifactError, UsageError
from tests.data.test_archives import pack, unpack


def names(split: str, classes: Iterable[str] = ("cat", "dog"), count: int = 5) -> list[str]:
    return [f"{split}/{c}/{index}.png".lstrip("/") for c in classes for index in range(count)]


def tree(root: Path, *files: str) -> Path:
    return unpack(root, {name: name.encode() for name in files})


def ids(source: Source) -> list[str]:
    return [source.sample_id(row) for row in range(len(source))]


def labels(source: Source) -> list[int]:
    return [source.label(row) for row in range(len(source))]


def test_digits_are_the_same_for_everyone() -> None:
    splits = open_splits("digits")
    assert (len(splits["train"]), len(splits["test"])) == (1438, 359)
    assert not set(ids(splits["train"])) & set(ids(splits["test"]))
    # Written down once: another split would silently change every figure that was published.
    assert ids(splits["test"])[:4] == ["index:1", "index:1006", "index:101", "index:1012"]
    counts, whole = Counter(labels(splits["test"])), Counter(labels(splits["train"]))
    for digit in range(10):
        assert counts[digit] == round(0.2 * (counts[digit] + whole[digit]))
    image, _ = splits["train"].fetch(0)
    assert (image.mode, image.size) == ("L", (8, 8))


@given(st.sets(st.integers(0, 10**6), max_size=40))
def test_items_are_sorted_by_the_bytes_of_their_ids(indices: set[int]) -> None:
    source = ItemSource("x", [], by_id(list(indices)), ())
    assert ids(source) == sorted(f"index:{index}" for index in indices)


def test_named_splits(tmp_path: Path) -> None:
    splits = open_splits(str(tree(tmp_path, *names("train"), *names("test", count=2))))
    assert set(splits) == {"train", "test"}
    assert splits["train"].class_names == ("cat", "dog")
    assert ids(splits["test"]) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert labels(splits["test"]) == [0, 0, 1, 1]
    assert splits["test"].where(3) == str(tmp_path / "test/dog/1.png")


def test_val_is_a_split_of_its_own(tmp_path: Path) -> None:
    everything = [*names("train"), *names("test"), *names("val", count=1)]
    splits = open_splits(str(tree(tmp_path, *everything)))
    assert ids(splits["val"]) == ["cat/0.png", "dog/0.png"]


def test_ids_sort_by_bytes_and_keep_folders_below_a_class(tmp_path: Path) -> None:
    odd = ["train/cat/Z.png", "train/cat/a.png", "train/cat/é.png", "train/cat/a/9.png"]
    splits = open_splits(str(tree(tmp_path, *odd, *names("train", ["dog"]), *names("test"))))
    found = ids(splits["train"])
    assert found == sorted(found, key=str.encode)
    assert "cat/a/9.png" in found


def test_a_flat_folder_gives_a_fifth_to_test(tmp_path: Path) -> None:
    path = tree(tmp_path, *names("", count=20))
    splits = open_splits(str(path))
    assert Counter(labels(splits["test"])) == {0: 4, 1: 4}
    assert Counter(labels(splits["train"])) == {0: 16, 1: 16}
    again = open_splits(
        str(pack(tmp_path / "d.zip", dict.fromkeys(names("", count=20)[::-1], b"")))
    )
    assert ids(again["test"]) == ids(splits["test"])
    tree(path, "cat/more.png")
    moved = set(ids(open_splits(str(path))["test"])) ^ set(ids(splits["test"]))
    assert len(moved - {"cat/more.png"}) <= 1


@pytest.mark.parametrize("layout", [("train", "test"), ("",)])
def test_a_leading_folder_is_taken_off(tmp_path: Path, layout: tuple[str, ...]) -> None:
    everything = {name: b"" for split in layout for name in names(split)}
    plain = open_splits(str(pack(tmp_path / "a.tar", everything)))
    below = open_splits(str(pack(tmp_path / "b.tar", everything, "pictures/")))
    for split in ("train", "test"):
        assert ids(plain[split]) == ids(below[split])
    assert below["train"].where(0).startswith(f"{tmp_path / 'b.tar'}!pictures/")


@pytest.mark.parametrize(
    ("files", "folders", "said"),
    [
        (names("train"), [], "test/<class>/"),
        ([*names("train"), *names("test")], ["train/owl"], "owl"),
        ([*names("train"), *names("test", ["cat", "owl"])], [], "owl"),
        ([*names("train"), *names("test"), *names("val", ["owl"])], [], "owl"),
        (["1.png", "2.png"], [], "no class folders"),
        ([], [], "no class folders"),
        (names(""), ["owl"], "owl"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, files: list[str], folders: list[str], said: str
) -> None:
    tree(tmp_path, *files)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ArtifactError, match=said):
        open_splits(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "said"),
    [("digit", "digits"), ("cifar1", "cifar10"), ("torch/MNISTT", "MNIST"), ("no/where", "Valid")],
)
def test_a_spec_that_names_nothing(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_splits(spec)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        open_splits(str(tmp_path / "notes.txt"))


def idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def mnist(root: Path, folder: str = "MNIST") -> np.ndarray:
    """Twelve made images in MNIST's own format."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    for stem in ("train", "t10k"):
        idx(raw / f"{stem}-images-idx3-ubyte", pixels)
        idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(12, dtype=np.uint8) % 10)
    return pixels


@pytest.mark.parametrize("spec", ["mnist", "torch/MNIST"])
def test_torchvision_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    pixels = mnist(tmp_path)
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    train = open_splits(spec)["train"]
    assert len(train.class_names) == 10
    assert ids(train)[:4] == ["index:0", "index:1", "index:10", "index:11"]
    assert labels(train)[:4] == [0, 1, 0, 1]
    assert np.array_equal(np.asarray(train.fetch(2)[0]), pixels[10])


def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def refuse(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    with pytest.raises(ArtifactError, match="downloaded: no route to host"):
        open_splits("mnist")


@pytest.mark.parametrize("name", ["FakeData", "ImageFolder"])
def test_torchvision_without_splits(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        open_splits(f"torch/{name}")


@pytest.mark.parametrize(
    ("files", "folder", "said"),
    [
        ([*names("test"), *names("val")], None, "train/<class>/"),
        ([*names("train"), *names("test")], "val", "val/<class>/"),
        ([*names("train"), *names("test", ["cat"])], "test/dog", "dog"),
    ],
)
def test_an_empty_split_or_class_is_never_read_as_something_else(
    tmp_path: Path, files: list[str], folder: str | None, said: str
) -> None:
    tree(tmp_path, *files)
    if folder:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ArtifactError, match=said):
        open_splits(str(tmp_path))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    splits = open_splits(str(tree(tmp_path, *names("", ["bus", "train"]))))
    assert splits["train"].class_names == ("bus", "train")


@pytest.mark.parametrize("spec", ["torch/mnist", "torch/Mnist"])
def test_torchvision_names_as_timm_spells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    mnist(tmp_path)
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    assert len(open_splits(spec)["train"]) == 12
    mnist(tmp_path, "FashionMNIST")
    assert len(open_splits("torch/fashion_mnist")["train"]) == 12


def test_a_torchvision_dataset_that_wants_more_than_a_split() -> None:
    with pytest.raises(UsageError, match="EMNIST"):
        open_splits("torch/EMNIST")


def test_damaged_torchvision_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    with pytest.raises(ArtifactError, match="MNIST"):
        open_splits("mnist")


def test_images_beside_the_class_folders_of_train_are_unlabelled(tmp_path: Path) -> None:
    loose = ["train/b.png", "train/a.JPG", "train/notes.txt"]
    splits = open_splits(str(tree(tmp_path, *loose, *names("train", ["cat"]), *names("test"))))
    train = splits["train"]
    assert train.class_names == ("cat", "dog"), "the labelled splits say the classes"
    assert ids(train)[:2] == ["a.JPG", "b.png"]
    assert labels(train) == [-1, -1, *[0] * 5]
    assert set(labels(splits["test"])) == {0, 1}


def test_a_train_split_without_any_label(tmp_path: Path) -> None:
    splits = open_splits(str(tree(tmp_path, "train/a.png", "train/b.png", *names("test"))))
    assert labels(splits["train"]) == [-1, -1]
