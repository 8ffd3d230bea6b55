"""Images of equal content: on one side of a split, counted, and left out by --dedupe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.data import file_index
from distill_cli.data.copies import count_copies, superfluous
from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.rules import DataRules
from distill_cli.data.splits import stratified
from tests.data.odd_folders import classes, grey, save
from tests.data.pictures import listing
from tests.data.test_archives import pack

BY_ID = DataRules(split_by="id")
DEDUPE = DataRules(dedupe=True)


@given(
    kinds=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_equal_images_lie_on_one_side(
    kinds: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    names = [f"{number}" for number in range(len(kinds))]
    contents = [bytes([content]) if content else None for content, _ in kinds]
    labels = [label for _, label in kinds]
    held = stratified(names, labels, fraction, seed, contents=contents)
    for content in {content for content in contents if content}:
        rows = {row for row, other in enumerate(contents) if other == content}
        assert rows <= held or not rows & held
    for label in set(labels):
        rows = {row for row, other in enumerate(labels) if other == label}
        assert rows - held, "every class has an image to train on"
        if not any(contents[row] for row in rows):
            assert (rows & held != set()) == (len(rows) > 1)


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=60), seed=st.integers(0, 3))
def test_where_no_two_are_equal_the_split_is_that_of_the_ids(labels: list[int], seed: int) -> None:
    names = [f"{number}" for number in range(len(labels))]
    contents = [name.encode() for name in names]
    together = stratified(names, labels, 0.2, seed, contents=contents)
    assert together == stratified(names, labels, 0.2, seed)


def test_a_class_of_pairs_has_one_of_them_held_out() -> None:
    contents = [bytes([number // 2]) for number in range(4)]
    assert len(stratified(list("abcd"), [0] * 4, 0.1, 0, contents=contents)) == 2


def pairs(root: Path, count: int = 20) -> Path:
    """Every image of two classes twice, under names that are far apart."""
    for path in sorted(classes(root, count).rglob("*.png")):
        (path.with_name(f"z{path.name}")).write_bytes(path.read_bytes())
    return root


def contents_of(data: Dataset, split: str) -> set[str]:
    images = getattr(data, split)
    rows = range(len(images.sample_ids)) if split != "train" else data.fit_rows.tolist()
    return {images.sample_ids[row].replace("/z", "/") for row in rows}


@pytest.mark.parametrize("form", ["folder", "zip", "csv", "files"])
def test_no_copy_crosses_a_seeded_split(tmp_path: Path, form: str) -> None:
    root, size = pairs(tmp_path / "d"), 136 if form == "files" else None
    paths = sorted(root.rglob("*.png"))
    spec = root
    if form == "zip":
        files = {str(path.relative_to(root)): path.read_bytes() for path in paths}
        spec = pack(tmp_path / "d.zip", files)
    elif form == "csv":
        lines = [f"{path.relative_to(root)},{path.parent.name}" for path in paths]
        spec = listing(root / "d.csv", ["file,labels", *lines])
    data = open_dataset(str(spec), size=size)
    assert data.from_files == (form == "files")
    parts = [contents_of(data, split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40
    assert (data.identity.split_by, data.copies.text()) == ("content", "")  # type: ignore[union-attr]
    assert data.identity.to_json()["split_by"] == "content"
    glanced = open_dataset(str(spec), size=size, glance=True)
    assert torch.equal(glanced.fit_rows, data.fit_rows)
    then = open_dataset(str(spec), size=size, rules=BY_ID)
    assert then.identity.split_by == "id"
    assert "split_by" not in then.identity.to_json()
    parts = [contents_of(then, split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) > len(set.union(*parts)), "as it was up to version 0.3.0"


def test_without_copies_the_identity_is_that_of_the_ids(tmp_path: Path) -> None:
    root = classes(tmp_path, 20)
    data, then = open_dataset(str(root)), open_dataset(str(root), rules=BY_ID)
    assert data.identity == then.identity
    assert torch.equal(data.fit_rows, then.fit_rows)


def test_many_copies_in_a_dry_run_that_does_not_read_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_index, "GLANCED", 3)
    data = open_dataset(str(pairs(tmp_path)), glance=True, rules=DEDUPE)
    assert data.copies is None
    assert data.identity.fingerprint == data.identity.ids_digest == ""


def test_copies_are_counted_between_any_two_parts_and_across_classes() -> None:
    cat, dog = (0,), (1,)
    copies = count_copies(
        {
            "train": ([b"a", b"b", b"c", None], [cat, dog, cat, cat]),
            "held-out": ([b"a", b"x"], [cat, cat]),
            "test": ([b"b", b"c", b"x", b"c"], [cat, (), cat, cat]),
        }
    )
    assert copies.between == {
        ("held-out", "train"): 1,
        ("test", "train"): 3,
        ("test", "held-out"): 1,
    }
    assert copies.classes == 2, "b is of both classes; c without a label contradicts nothing"
    assert copies.text() == (
        "1 of held-out in train, 3 of test in train, 1 of test in held-out, "
        "2 images in several classes"
    )


def test_dedupe_leaves_out_what_it_says() -> None:
    cat, dog = (0,), (1,)
    train = ([b"a", b"a", b"b", b"b", b"t", b"u", b"u"], [cat, cat, cat, dog, cat, (), dog])
    val = ([b"a", b"v", b"t"], [cat, cat, dog])
    left = superfluous({"train": train, "val": val}, [b"t", b"t"])
    assert sorted(left["train"]) == [1, 2, 3, 4, 5]
    assert sorted(left["val"]) == [0, 2]
    assert left["train"][1] == left["train"][5] == "a copy of another image"
    assert left["train"][2] == "equal images in several classes"
    assert left["train"][4] == "a copy of an image of test"


@pytest.mark.parametrize("size", [None, 136])
def test_a_dataset_without_copies(tmp_path: Path, size: int | None) -> None:
    root = tmp_path / "d"
    classes(root / "train", 12)
    for number in range(4):
        save(root / "test" / "ab"[number % 2] / f"{number}.png", grey(number % 2, 500 + number))
    for copy, original in (
        ("train/a/twice.png", "train/a/00.png"),
        ("train/b/other.png", "train/a/01.png"),
        ("train/b/tested.png", "test/a/0.png"),
    ):
        (root / copy).write_bytes((root / original).read_bytes())
    plain = open_dataset(str(root), size=size)
    assert plain.copies is not None
    assert sum(plain.copies.between.values()) == 1
    assert plain.copies.classes == 4
    data = open_dataset(str(root), size=size, rules=DEDUPE)
    left = {one.where.rpartition("/")[2]: one.reason for one in data.left}
    assert left == {
        "twice.png": "a copy of another image",
        "01.png": "equal images in several classes",
        "other.png": "equal images in several classes",
        "tested.png": "a copy of an image of test",
    }
    assert data.copies is not None
    assert data.copies.text() == ""
    assert data.identity.dedupe
    assert data.identity.samples == len(data.train.sample_ids) == 27 - 4
    assert data.identity.fingerprint != plain.identity.fingerprint
    assert len(data.test.sample_ids) == 4
