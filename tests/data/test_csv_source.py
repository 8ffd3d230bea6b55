"""Images and labels that a CSV lists."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill_cli.data import disk_cache as remembered
from distill_cli.data.csv_source import slips
from distill_cli.data.dataset import open_dataset
from distill_cli.data.open_splits import open_splits
from distill_cli.data.split_images import ImageFiles, ImageTable
from distill_cli.errors import ArtifactError, UsageError
from tests.data.pictures import LEFT, TOP, halves, listing, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images."""
    for number, name in enumerate("abcdef"):
        picture(tmp_path / f"{name}.png", [], seed=number)
    return tmp_path


def test_several_labels(folder: Path) -> None:
    spec = listing(
        folder / "x.csv",
        [
            *(
                "file,labels,split",
                "f.png,top;left,train",
                "a.png,,train",
                "b.png,left | low,train",
            ),
            *("c.png,top,val", "d.png,left,test", "e.png,top;low,test"),
        ],
    )
    splits = open_splits(str(spec))
    train, test = splits["train"], splits["test"]
    assert train.class_names == (LEFT, "low", TOP)
    assert [train.sample_id(row) for row in range(3)] == ["a.png", "b.png", "f.png"]
    assert [train.labels(row) for row in range(3)] == [(), (0, 1), (0, 2)]
    assert [train.label(row) for row in range(3)] == [-1, -1, -1]
    assert train.multi_label
    assert [test.labels(row) for row in range(2)] == [(0,), (1, 2)]
    data = open_dataset(str(spec))
    assert data.multi_label
    assert data.train.label_NK is not None
    assert data.train.label_NK.tolist() == [[0, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert data.train.label_NK.dtype == torch.int8
    assert data.train.label_N.tolist() == [-1, -1, -1]
    assert data.val.label_NK is not None
    assert data.val.label_NK.tolist() == [[0, 0, 1]]
    assert data.train.take(torch.tensor([2])).label_NK.tolist() == [[1, 0, 1]]  # type: ignore[union-attr]


def test_one_label_each_is_ordinary_data(folder: Path) -> None:
    rows = [f"{name}.png,{'cat' if name < 'd' else 'dog'}" for name in "abcdef"]
    splits = open_splits(str(listing(folder / "x.csv", ["file,labels", *rows])))
    assert splits["train"].class_names == ("cat", "dog")
    assert not splits["train"].multi_label
    assert (len(splits["train"]), len(splits["test"])) == (4, 2)
    labels = [splits["test"].label(row) for row in range(len(splits["test"]))]
    assert labels == [0, 1]
    assert splits["train"].labels(0) == (0,)


def test_one_label_each_equals_class_folders(tmp_path: Path) -> None:
    lines = ["file,labels,split"]
    for number in range(40):
        name, split = f"{'ab'[number % 2]}", "train" if number < 30 else "test"
        file = f"{name}/{number:02}.png"
        picture(tmp_path / split / file, [], seed=number)
        lines.append(f"{split}/{file},{name},{split}")
    of_folders = open_dataset(str(tmp_path))
    listed = open_dataset(str(listing(tmp_path / "x.csv", lines)))
    assert listed.class_names == of_folders.class_names
    assert not listed.multi_label
    assert torch.equal(listed.train.label_N, of_folders.train.label_N)
    assert isinstance(listed.train, ImageTable)
    assert isinstance(of_folders.train, ImageTable)
    assert torch.equal(listed.train.images_NCHW, of_folders.train.images_NCHW)


def test_a_column_a_class(folder: Path) -> None:
    spec = listing(
        folder / "x.csv",
        [
            *("split,top,file,left", "train,1,a.png,0", "train,0,b.png,1", "train,1,c.png,0"),
            *("train,0,d.png,1", "test,1,e.png,0", "test,0,f.png,1"),
        ],
    )
    splits = open_splits(str(spec))
    assert splits["train"].class_names == (LEFT, TOP)
    assert splits["train"].multi_label, "though each row has one"
    assert [splits["train"].labels(row) for row in range(4)] == [(1,), (0,), (1,), (0,)]


def test_a_column_label_is_one_class_a_row(folder: Path) -> None:
    rows = [f"{name}.png, {'cat' if name < 'd' else 'dog'} " for name in "abcdef"]
    one = open_splits(str(listing(folder / "x.csv", ["file,label", *rows])))
    many = open_splits(str(listing(folder / "y.csv", ["file,labels", *rows])))
    assert not one["train"].multi_label
    assert one["train"].class_names == ("cat", "dog")
    for split in ("train", "test"):
        source = one[split]
        found = [(source.sample_id(row), source.labels(row)) for row in range(len(source))]
        other = many[split]
        assert found == [(other.sample_id(row), other.labels(row)) for row in range(len(other))]


def test_a_class_called_label_among_others(folder: Path) -> None:
    rows = [f"{name}.png,{int(name < 'd')},1" for name in "abcdef"]
    splits = open_splits(str(listing(folder / "x.csv", ["file,label,price", *rows])))
    assert splits["train"].class_names == ("label", "price")
    assert splits["train"].multi_label


def test_few_rows_of_other_than_one_label_are_slips(tmp_path: Path) -> None:
    def of(*cells: str) -> str | None:
        lines = [f"{n}.png,{cell}" for n, cell in enumerate(cells)]
        return slips(listing(tmp_path / "x.csv", ["file,labels", *lines]))

    assert of(*["cat"] * 100) is None
    assert of(*["cat"] * 19, "cat;dog") is None, "a twentieth is no slip"
    assert of(*["cat"] * 20, "cat | dog") == (
        "1 of 21 rows has other than one label: row 22 has cat | dog"
    )
    assert of("", *["cat"] * 99, "a;b", "", "c;d") == (
        "4 of 103 rows have other than one label: row 2 has none, row 102 has a;b, row 103 has none, …"
    )
    assert slips(listing(tmp_path / "x.csv", ["file,label", "a.png,x;y"])) is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file,label", "a.png,x", "b.png,"], "row 3: the cell under 'label' is empty"),
        (
            ["file,label,split", "a.png,x,train", "b.png,x;y,train"],
            "row 3: the cell under 'label' names 2 classes: x;y.*column is 'labels'",
        ),
        (["file,label,labels", "a.png,x,x"], "has the columns file, label, labels"),
        (["file,labels", "a.png,x", "z.png,y"], r"row 3: there is no file .*z\.png"),
        (["file,labels", "/a.png,x"], r"row 2: '/a\.png' is no path below"),
        (["file,labels", "../a.png,x"], r"row 2: '\.\./a\.png' is no path below"),
        (["file,labels", "b/../a.png,x"], "row 2: .* is no path below"),
        (["file,labels", "C:\\a.png,x"], "row 2: .* is no path below"),
        (["file,labels", ",x"], "row 2: '' is no path below"),
        (["file,labels", "a.png,x", "b.png,y", "./a.png,y"], r"row 4 is of a\.png, as an earlier"),
        (["file,labels,split", "a.png,x,train", "b.png,x,tset"], "row 3: split 'tset' is none"),
        (["file,labels,split", "a.png,x,train", "b.png,x;y,train"], "no row of split 'test'"),
        (
            ["file,labels,split", "a.png,x,train", "b.png,x;y,test"],
            "row 3: class 'y' of test does not stand in train",
        ),
        (["file,labels", "a.png,x", "b.png"], "row 3 has 1 cell, the header has 2"),
        (["file,x,y", "a.png,1,0", "b.png,1,yes"], "row 3: column 'y' holds 'yes', not 0 or 1"),
        (["file,x,y", *(f"{n}.png,1,0" for n in "abcdef")], "class 'y' .* no image to train on"),
        (["file,labels,x", "a.png,x,1"], "has the columns file, labels, x"),
        (["name,labels", "a.png,x"], "has the columns name, labels"),
        (["file,x,x", "a.png,0,1"], "names a column twice"),
        (["file,labels"], "lists no images"),
        ([], "has the columns of none"),
        (["file,labels", "a.png,x;y"], "too few images"),
        (["file,labels", *(f"{n}.png," for n in "abcdef")], "no image with a label"),
    ],
)
def test_rows_that_are_refused(folder: Path, lines: list[str], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        open_splits(str(listing(folder / "x.csv", lines)))


def test_splits_have_their_usual_names(folder: Path) -> None:
    names = ("Train", "training", "Validation", "dev", "Test", "test_set")
    rows = [f"{file}.png,x,{name}" for file, name in zip("abcdef", names, strict=True)]
    splits = open_splits(str(listing(folder / "x.csv", ["file,label,split", *rows])))
    ids = {name: [s.sample_id(row) for row in range(len(s))] for name, s in splits.items()}
    assert ids == {
        "train": ["a.png", "b.png"],
        "val": ["c.png", "d.png"],
        "test": ["e.png", "f.png"],
    }


def test_files_are_images_by_the_same_list_as_everywhere(folder: Path) -> None:
    (folder / "d.png").rename(folder / "d.dat")
    rows = [f"{name}.{'dat' if name == 'd' else 'png'},x" for name in "abcdef"]
    spec = str(listing(folder / "x.csv", ["file,label", *rows]))
    with pytest.raises(ArtifactError, match=r"x\.csv, row 5: d\.dat is no image: its suffix"):
        open_splits(spec)
    then = open_splits(spec, version="0.3.0")
    assert sum(map(len, then.values())) == 6, "a run of an earlier version goes on"


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "x.csv").write_bytes(b"file,labels\na.png,\xff\n")
    with pytest.raises(ArtifactError, match="no CSV in UTF-8"):
        open_splits(str(folder / "x.csv"))
    (folder / "x.txt").write_text("file,labels\n")
    with pytest.raises(UsageError, match=r"nor a \.csv"):
        open_splits(str(folder / "x.txt"))


def test_a_seeded_fifth_is_test_and_its_labels_are_trained_on(tmp_path: Path) -> None:
    spec = halves(tmp_path, 40)
    text = spec.read_text().splitlines()
    rare = [*text[:5], *(f"{line};rare{n}" for n, line in enumerate(text[5:], start=5))]
    again = listing(tmp_path / "again.csv", [text[0], *reversed(text[1:])])
    splits, same = open_splits(str(spec)), open_splits(str(again))
    assert len(splits["train"]) == 32
    ids = [splits["test"].sample_id(row) for row in range(8)]
    assert ids == [same["test"].sample_id(row) for row in range(8)], "whatever the order of rows"
    # Each image has a label of its own: those of test would be unknown.
    found = open_splits(str(listing(tmp_path / "rare.csv", rare)))
    assert {f"rare{n}" for n in range(5, 41)} <= set(found["train"].class_names)


def test_held_out_rows_are_seeded_and_labelled(tmp_path: Path) -> None:
    spec = str(halves(tmp_path, 60))
    data, same = open_dataset(spec), open_dataset(spec)
    assert len(data.val.sample_ids) == round(0.1 * 48)
    assert data.val.sample_ids == same.val.sample_ids
    assert open_dataset(spec, split_seed=1).val.sample_ids != data.val.sample_ids
    assert data.val.label_NK is not None
    assert data.val.label_NK.shape == (5, 2)


def test_a_changed_csv_is_seen_though_pixels_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "is_settled", lambda stat: True)
    spec = halves(tmp_path, 40)
    first, second = open_dataset(str(spec)), open_dataset(str(spec))
    assert isinstance(second.train, ImageTable)
    assert first.identity == second.identity
    assert torch.equal(first.train.label_NK, second.train.label_NK)  # type: ignore[arg-type]
    row = first.train.sample_ids.index("images/001.png")
    spec.write_text(spec.read_text().replace("images/001.png,left", "images/001.png,top"))
    third = open_dataset(str(spec))
    assert third.train.label_NK is not None
    assert third.train.label_NK[row].tolist() == [0, 1]
    assert third.identity.fingerprint != first.identity.fingerprint
    assert third.identity.ids_digest == first.identity.ids_digest


def test_large_images_are_read_from_files(tmp_path: Path) -> None:
    data = open_dataset(str(halves(tmp_path, 24, side=130)))
    assert isinstance(data.train, ImageFiles)
    assert data.train.label_NK is not None
    assert data.train.label_NK.shape == (len(data.train.sample_ids), 2)
    for row, name in enumerate(data.train.sample_ids):
        number = int(Path(name).stem)
        assert data.train.label_NK[row].tolist() == [number & 1, number >> 1 & 1]
    first = next(iter(data.val.iter_plain()))
    assert first.shape[1:] == (1, 130, 130)


def test_images_that_cannot_be_read_lose_their_labels_too(tmp_path: Path) -> None:
    spec = halves(tmp_path, 24)
    (tmp_path / "images" / "003.png").write_bytes(b"no image")
    with pytest.raises(ArtifactError, match=r"003\.png"):
        open_dataset(str(spec))
    data = open_dataset(str(spec), skip_bad=True)
    assert data.skipped == 1
    assert data.train.label_NK is not None
    for row, name in enumerate(data.train.sample_ids):
        number = int(Path(name).stem)
        assert data.train.label_NK[row].tolist() == [number & 1, number >> 1 & 1]
