"""A dataset is the same from folder, tar and zip, in any file order; any edit shows."""

from __future__ import annotations

import io
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.counters import sample_key
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.rules import DataRules
from distill_cli.errors import ArtifactError, UsageError
from tests.data.test_archives import NAMES, pack, unpack

CLASSES = ("cat", "dog", "owl")


def png(seed: int, *shape: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, shape or (6, 5), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def content(train: int = 20, test: int = 3, val: int = 0) -> dict[str, bytes]:
    counts = {"train": train, "test": test, "val": val}
    paths = [
        f"{split}/{name}/{index}.png"
        for split, count in counts.items()
        for name in CLASSES
        for index in range(count)
    ]
    return {path: png(seed) for seed, path in enumerate(paths)}


def same(one: Dataset, other: Dataset) -> None:
    assert one.identity == other.identity
    assert (one.mean, one.std) == (other.mean, other.std)
    assert torch.equal(one.fit_rows, other.fit_rows)
    for a, b in ((one.train, other.train), (one.val, other.val), (one.test, other.test)):
        assert a.sample_ids == b.sample_ids
        assert torch.equal(a.images_NCHW, b.images_NCHW)
        assert torch.equal(a.label_N, b.label_N)
        assert torch.equal(a.key_N, b.key_N)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("data"), content())


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return open_dataset(str(folder))


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_equals_its_folder(tmp_path: Path, dataset: Dataset, name: str) -> None:
    shuffled = list(content().items())
    random.Random(name).shuffle(shuffled)
    same(dataset, open_dataset(str(pack(tmp_path / name, dict(shuffled), "top/"))))


def test_shape_of_a_dataset(dataset: Dataset) -> None:
    assert (dataset.channels, dataset.height, dataset.width) == (1, 6, 5)
    assert dataset.class_names == CLASSES
    assert dataset.identity.samples == len(dataset.train.sample_ids) == 60
    assert dataset.identity.class_names == CLASSES
    assert (dataset.identity.split_seed, dataset.identity.val_fraction) == (0, 0.1)
    assert list(dataset.train.sample_ids) == sorted(dataset.train.sample_ids, key=str.encode)
    assert dataset.train.key_N.tolist() == [sample_key(name) for name in dataset.train.sample_ids]
    assert len(dataset.test.sample_ids) == 9


def test_the_held_out_rows_are_not_trained_on(dataset: Dataset) -> None:
    fit = {dataset.train.sample_ids[row] for row in dataset.fit_rows.tolist()}
    assert fit | set(dataset.val.sample_ids) == set(dataset.train.sample_ids)
    assert not fit & set(dataset.val.sample_ids)
    assert Counter(dataset.val.label_N.tolist()) == {0: 2, 1: 2, 2: 2}
    for row, name in enumerate(dataset.val.sample_ids):
        source = dataset.train.sample_ids.index(name)
        assert torch.equal(dataset.val.images_NCHW[row], dataset.train.images_NCHW[source])


def test_split_seed_and_fraction(folder: Path, dataset: Dataset) -> None:
    other = open_dataset(str(folder), split_seed=1)
    assert other.val.sample_ids != dataset.val.sample_ids
    assert other.identity.fingerprint == dataset.identity.fingerprint
    assert other.identity.split_seed == 1
    half = open_dataset(str(folder), val_fraction=0.5)
    assert Counter(half.val.label_N.tolist()) == {0: 10, 1: 10, 2: 10}
    assert set(dataset.val.sample_ids) <= set(half.val.sample_ids)


def test_a_val_folder_is_the_held_out_split(tmp_path: Path) -> None:
    dataset = open_dataset(str(unpack(tmp_path, content(val=2))))
    assert len(dataset.fit_rows) == len(dataset.train.sample_ids) == 60
    assert Counter(dataset.val.label_N.tolist()) == {0: 2, 1: 2, 2: 2}
    assert dataset.identity.val_fraction == 0


def rename(files: dict[str, bytes]) -> None:
    files["train/cat/renamed.png"] = files.pop("train/cat/3.png")


def add(files: dict[str, bytes]) -> None:
    files["train/cat/99.png"] = png(99)


def remove(files: dict[str, bytes]) -> None:
    del files["train/cat/3.png"]


def edit(files: dict[str, bytes]) -> None:
    files["train/cat/3.png"] = png(99)


def swap(files: dict[str, bytes]) -> None:
    one, other = "train/cat/3.png", "train/dog/3.png"
    files[one], files[other] = files[other], files[one]


@pytest.mark.parametrize("change", [rename, add, remove, edit, swap])
def test_any_change_of_train_shows(tmp_path: Path, dataset: Dataset, change) -> None:  # type: ignore[no-untyped-def]
    files = content()
    change(files)
    identity = open_dataset(str(unpack(tmp_path, files))).identity
    assert identity.fingerprint != dataset.identity.fingerprint
    same_ids = change in (edit, swap)
    assert (identity.ids_digest == dataset.identity.ids_digest) == same_ids


def test_test_is_no_part_of_the_identity(tmp_path: Path, dataset: Dataset) -> None:
    files = {**content(), "test/cat/99.png": png(99)}
    assert open_dataset(str(unpack(tmp_path, files))).identity == dataset.identity


def test_adding_a_file_moves_at_most_one_other(tmp_path: Path, dataset: Dataset) -> None:
    more = open_dataset(str(unpack(tmp_path, {**content(), "train/cat/99.png": png(99)})))
    moved = set(more.val.sample_ids) ^ set(dataset.val.sample_ids)
    assert len(moved - {"cat/99.png"}) <= 1


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_statistics_of_the_fit_rows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    files = {path: png(seed, *shape) for seed, path in enumerate(content(6))}
    dataset = open_dataset(str(unpack(tmp_path, files)))
    images_NCHW = dataset.train.images_NCHW[dataset.fit_rows].double() / 255
    mean, std = images_NCHW.mean((0, 2, 3)), images_NCHW.std((0, 2, 3), correction=0)
    assert dataset.mean == pytest.approx(mean.tolist(), abs=1e-12)
    assert dataset.std == pytest.approx(std.tolist(), abs=1e-12)


def test_constant_images_have_a_scale(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 51).save(buffer, "PNG")
    files = dict.fromkeys(content(3), buffer.getvalue())
    dataset = open_dataset(str(unpack(tmp_path, files)), rules=DataRules(split_by="id"))
    assert (dataset.mean, dataset.std) == (pytest.approx((0.2,)), (1.0,))


def test_bad_images(tmp_path: Path) -> None:
    unpack(tmp_path, {**content(), "train/dog/7.png": b"x", "test/owl/1.png": b"x"})
    with pytest.raises(ArtifactError, match=r"train/dog/7\.png"):
        open_dataset(str(tmp_path))
    dataset = open_dataset(str(tmp_path), skip_bad=True)
    assert dataset.skipped == 2
    assert dataset.identity.samples == 59
    assert "dog/7.png" not in dataset.train.sample_ids
    assert "owl/1.png" not in dataset.test.sample_ids


def test_a_class_of_bad_images_only(tmp_path: Path) -> None:
    files = {path: b"x" if path.startswith("train/dog") else png(0) for path in content()}
    with pytest.raises(ArtifactError, match="dog"):
        open_dataset(str(unpack(tmp_path, files)), skip_bad=True)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train/cat/1.png": png(0), "test/cat/1.png": png(1)}, "one class"),
        ({f"{s}/{c}/1.png": png(0) for s in ("train", "test") for c in CLASSES}, "too few"),
    ],
)
def test_too_little(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        open_dataset(str(unpack(tmp_path, files)))


def test_digits() -> None:
    dataset = open_dataset("digits")
    assert dataset.class_names == tuple("0123456789")
    assert (dataset.channels, dataset.height, dataset.width) == (1, 8, 8)
    assert len(dataset.fit_rows) + len(dataset.val.label_N) == 1438
    assert len(dataset.test.label_N) == 359
    assert int(dataset.train.images_NCHW.max()) == 255
    assert open_dataset("digits", split_seed=7).test.sample_ids == dataset.test.sample_ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "channels", "side"), [("mnist", 60000, 1, 28), ("cifar10", 50000, 3, 32)]
)
def test_real_data(name: str, train: int, channels: int, side: int) -> None:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("DISTILL_DATA") or default) / f"{name}.tar.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there: point DISTILL_DATA at its folder")
    dataset = open_dataset(str(path))
    assert dataset.train.images_NCHW.shape == (train, channels, side, side)
    assert len(dataset.test.label_N) == 10000
    assert len(dataset.class_names) == 10


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_something_is_held_out(tmp_path: Path, fraction: float) -> None:
    unpack(tmp_path, content())
    with pytest.raises(UsageError, match="val_fraction"):
        open_dataset(str(tmp_path), val_fraction=fraction)
    unpack(tmp_path, content(val=1))
    assert open_dataset(str(tmp_path), val_fraction=fraction).identity.val_fraction == 0


def test_a_damaged_zip_member_is_a_bad_image(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.zip", content())
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"0.png") + 60] ^= 1  # in the first member's compressed content
    path.write_bytes(bytes(raw))
    with pytest.raises(ArtifactError, match=r"d\.zip!train/cat/0\.png"):
        open_dataset(str(path))
    assert open_dataset(str(path), skip_bad=True).skipped == 1
