"""What --data may name: the same images in a folder and in archives are the same dataset."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.rules import DataRules
from distill_cli.errors import ArtifactError, DistillError, UsageError


def picture(seed: int, height: int = 10, width: int = 10, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def make(root: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 10) -> Path:
    seed = 0
    for split in splits:
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed += 1
                picture(seed).save(folder / f"{index}.png")
    return root


def same(one: Dataset, two: Dataset) -> bool:
    return (
        one.identity == two.identity
        and one.train.sample_ids == two.train.sample_ids
        and torch.equal(one.train.images_NCHW, two.train.images_NCHW)
        and torch.equal(one.test.images_NCHW, two.test.images_NCHW)
        and torch.equal(one.val.images_NCHW, two.val.images_NCHW)
        and torch.equal(one.fit_rows, two.fit_rows)
    )


@pytest.mark.parametrize("top", ["", "pets/", "./"])
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "tar.bz2", "zip"])
def test_an_archive_equals_its_folder(tmp_path: Path, kind: str, top: str) -> None:
    folder = make(tmp_path / "data")
    path = tmp_path / f"data.{kind}"
    files = sorted(folder.rglob("*.png"), reverse=True)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, f"{top}{file.relative_to(folder)}")
    else:
        mode = {"tar": "w", "tar.bz2": "w:bz2"}.get(kind, "w:gz")
        with tarfile.open(path, mode) as tar:
            for file in files:
                tar.add(file, f"{top}{file.relative_to(folder)}")
    assert same(open_dataset(str(folder)), open_dataset(str(path)))


def test_a_dataset_is_what_its_files_say(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    data = open_dataset(str(folder), val_fraction=0.2)
    assert data.class_names == ("cat", "dog")
    assert data.train.sample_ids[:2] == ("cat/0.png", "cat/1.png")
    assert (len(data.fit_rows), len(data.val.label_N), len(data.test.label_N)) == (16, 4, 20)
    assert data.val.label_N.tolist() == [0, 0, 1, 1]
    row = data.train.sample_ids.index("dog/3.png")
    pixels = np.asarray(Image.open(folder / "train/dog/3.png"))
    assert np.array_equal(data.train.images_NCHW[row].permute(1, 2, 0).numpy(), pixels)
    fit = data.train.images_NCHW[data.fit_rows].double() / 255
    assert data.mean == pytest.approx(fit.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(fit.std(dim=(0, 2, 3), correction=0).tolist())


def test_val_folder_is_used(tmp_path: Path) -> None:
    data = open_dataset(str(make(tmp_path / "data", ("train", "val", "test"))))
    assert len(data.fit_rows) == len(data.train.label_N) == 20
    assert len(data.val.label_N) == 20
    assert data.identity.val_fraction == 0


def test_flat_folder_gives_a_fifth_to_test_and_keeps_it(tmp_path: Path) -> None:
    make(tmp_path / "data", ("x",), count=20)
    flat = tmp_path / "data" / "x"
    one = open_dataset(str(flat))
    assert (len(one.train.label_N), len(one.test.label_N)) == (32, 8)
    assert not set(one.train.sample_ids) & set(one.test.sample_ids)
    two = open_dataset(str(flat), split_seed=5, val_fraction=0.3)
    assert one.test.sample_ids == two.test.sample_ids
    picture(999).save(flat / "cat" / "new.png")
    grown = open_dataset(str(flat))
    moved = set(one.test.sample_ids) ^ set(grown.test.sample_ids)
    assert len(moved) <= 2, "one image more moves at most one across the border"


def test_held_out_rows_follow_the_split_seed_only(tmp_path: Path) -> None:
    folder = str(make(tmp_path / "data"))
    one, again, other = (open_dataset(folder, split_seed=s) for s in (0, 0, 1))
    assert torch.equal(one.fit_rows, again.fit_rows)
    assert not torch.equal(one.fit_rows, other.fit_rows)
    held = {one.train.sample_ids[row] for row in range(20)} - {
        one.train.sample_ids[row] for row in one.fit_rows.tolist()
    }
    assert held == set(one.val.sample_ids)


@pytest.mark.parametrize("change", ["add", "remove", "rename", "edit", "move"])
def test_the_fingerprint_sees_every_change(tmp_path: Path, change: str) -> None:
    folder = make(tmp_path / "data")
    before = open_dataset(str(folder)).identity.fingerprint
    file = folder / "train" / "cat" / "3.png"
    if change == "add":
        picture(99).save(folder / "train" / "cat" / "99.png")
    elif change == "remove":
        file.unlink()
    elif change == "rename":
        file.rename(file.with_name("x.png"))
    elif change == "move":
        file.rename(folder / "train" / "dog" / "33.png")
    else:
        picture(98).save(file)
    assert open_dataset(str(folder)).identity.fingerprint != before


def test_views_are_as_most_training_images(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    files = sorted((folder / "train").rglob("*.png"))
    for file in files[:-1]:
        Image.open(file).convert("L").save(file)
    assert open_dataset(str(folder)).channels == 1, "whatever test and one image of train are"
    for number, file in enumerate(files[: len(files) // 2]):
        picture(100 + number).save(file)
    assert open_dataset(str(folder)).channels == 3


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    for file in folder.rglob("*.png"):
        Image.fromarray(np.full((10, 10), 65535 // 2, dtype=np.uint16)).save(file)
    data = open_dataset(str(folder), rules=DataRules(split_by="id"))
    assert data.channels == 1
    assert set(data.train.images_NCHW.unique().tolist()) == {127}


def test_sizes(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    assert open_dataset(str(folder), size=6).train.images_NCHW.shape[2:] == (6, 6)
    picture(1, 30, 20).save(folder / "train" / "cat" / "0.png")
    mixed = open_dataset(str(folder))
    assert mixed.from_files
    assert mixed.train.size[1:] == (224, 224)


def test_hidden_files_and_strangers_are_ignored(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    before = open_dataset(str(folder))
    (folder / "train" / "cat" / ".hidden.png").write_bytes(b"x")
    (folder / "train" / "cat" / "notes.txt").write_text("x")
    (folder / "__MACOSX").mkdir()
    (folder / "README.md").write_text("x")
    assert same(before, open_dataset(str(folder)))


def test_members_that_point_outside_are_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder / "train", "train")
        tar.add(folder / "test", "test")
        before = len(tar.getnames())
        content = (folder / "train/cat/0.png").read_bytes()
        for name in ("../train/cat/evil.png", "/train/cat/evil.png"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("train/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert before
    assert same(open_dataset(str(folder)), open_dataset(str(path)))


def refused(spec: Path | str, **options: object) -> DistillError:
    with pytest.raises(DistillError) as caught:
        open_dataset(str(spec), **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_refusals(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    (folder / "train" / "emu").mkdir()
    assert "'emu'" in str(refused(folder))
    (folder / "train" / "emu").rmdir()
    (folder / "test" / "yak").mkdir()
    picture(0).save(folder / "test" / "yak" / "0.png")
    assert "'yak'" in str(refused(folder))
    only = make(tmp_path / "only", ("train",))
    assert "test/" in str(refused(only))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(empty).exit_code == 3
    (tmp_path / "text.txt").write_text("x")
    assert isinstance(refused(tmp_path / "text.txt"), UsageError)
    assert isinstance(refused("digitss"), UsageError)
    assert "digits" in str(refused("digitss"))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    path.write_bytes(b"this is no archive" * 50)
    assert refused(path).exit_code == 3
    assert path.name in str(refused(path))


def test_truncated_archive(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    path = tmp_path / "data.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, "")
    os.truncate(path, path.stat().st_size // 2)
    assert isinstance(refused(path), ArtifactError)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_bad_images_are_named_never_replaced(tmp_path: Path, form: str) -> None:
    folder = make(tmp_path / "data")
    bad = folder / "train" / "cat" / f"bad.{form.lower()}"
    picture(5, 40, 40).resize((10, 10)).save(bad, form)
    os.truncate(bad, bad.stat().st_size - 60)
    assert f"cat/{bad.name}" in str(refused(folder))
    data = open_dataset(str(folder), skip_bad=True)
    assert data.skipped == 1
    assert len(data.train.label_N) == 20


def test_digits_are_fixed_and_stratified() -> None:
    one, two = open_dataset("digits"), open_dataset("digits", split_seed=3)
    assert one.test.sample_ids == two.test.sample_ids
    assert len(one.train.label_N) + len(one.test.label_N) == 1797
    assert (one.channels, one.height, one.width) == (1, 8, 8)
    shares = torch.bincount(one.test.label_N).float() / 359
    assert shares.min() > 0.09
    assert shares.max() < 0.11
    assert int(one.train.images_NCHW.max()) == 255


def write_idx(path: Path, values: np.ndarray) -> None:
    """MNIST's own file format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(
        f">{values.ndim}I", *values.shape
    )
    for target in (path, path.with_name(path.name + ".gz")):
        opener = gzip.open if target.suffix == ".gz" else open
        with opener(target, "wb") as handle:
            handle.write(head + values.tobytes())


def test_torchvision_from_made_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosts cannot be reached from tests: MNIST's files are made here."""
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        raw = tmp_path / "MNIST" / "raw"
        write_idx(
            raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8)
        )
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    for spec in ("torch/MNIST", "mnist"):
        data = open_dataset(spec)
        assert (len(data.train.label_N), len(data.test.label_N)) == (60, 20)
        assert (data.channels, data.height) == (1, 28)
        assert len(data.class_names) == 10
        row = data.train.sample_ids.index("index:37")
        assert int(data.train.label_N[row]) == 7
    with pytest.raises(UsageError, match="MNIST"):
        open_dataset("torch/MNISTT")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "channels", "side"), [("mnist", 60_000, 1, 28), ("cifar10", 50_000, 3, 32)]
)
def test_real_archives(name: str, train: int, channels: int, side: int) -> None:
    root = Path(os.environ.get("DISTILL_DATA") or Path(__file__).parents[3] / "shared" / "data")
    path = root / f"{name}.tar.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not under DISTILL_DATA")
    data = open_dataset(str(path))
    assert len(data.train.label_N) == train
    assert len(data.test.label_N) == 10_000
    assert (data.channels, data.height, data.width) == (channels, side, side)
