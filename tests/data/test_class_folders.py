"""Splits by their usual names; what is not used is said, and splits are no classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from distill_cli.data.class_folders import split_of
from distill_cli.data.inventory import by_reason, of_kind
from distill_cli.data.open_splits import open_splits
from distill_cli.data.source import FileSource
from distill_cli.errors import ArtifactError
from tests.data.test_sources import ids, names, tree


def made(root: Path, *folders: str, more: Sequence[str] = ()) -> Path:
    return tree(root, *(file for folder in folders for file in names(folder)), *more)


def left(source: object) -> str:
    assert isinstance(source, FileSource)
    return by_reason(of_kind(source.files.left, "place"), "image")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING", "training_set", "trainset")),
        *((name, "train") for name in ("train-images", "Training Data", "train_split")),
        *((name, "val") for name in ("val", "valid", "Validation", "validation_set", "dev")),
        *((name, "test") for name in ("test", "Testing", "test_set", "TestImages")),
        *((name, None) for name in ("cat", "trains", "latest", "images", "set", "bullet_train")),
    ],
)
def test_usual_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    "folders",
    [
        ("Train", "Test"),
        ("training_set", "test_set"),
        ("train", "test", "validation"),
        ("Training", "Testing", "Valid"),
        ("photos/Train", "photos/Test"),
        ("test_data/train", "test_data/test"),
    ],
)
def test_splits_are_found_by_usual_names(tmp_path: Path, folders: tuple[str, ...]) -> None:
    splits = open_splits(str(made(tmp_path, *folders)))
    assert set(splits) == {"train", "test", *(("val",) if len(folders) == 3 else ())}
    for source in splits.values():
        assert source.class_names == ("cat", "dog")
        assert len(source) == 10
        assert ids(source)[0] == "cat/0.png"
    if len(folders) == 2:
        assert splits["train"].where(0).startswith(str(tmp_path / folders[0]))


@pytest.mark.parametrize(
    ("folders", "more", "said"),
    [
        (("Train",), (), "Train/, which looks like a split, but no test/<class>/"),
        (("Training", "cats"), (), "looks like a split"),
        (("train", "Train", "test"), (), "train/ and Train/|Train/ and train/"),
        ((), ("Train/1.png", "Test/1.png"), "Test/, Train/, which look like splits"),
        (("seg_train", "seg_test"), (), "seg_test/, seg_train/, which look like splits"),
        (("train2017", "test2017"), (), "look like splits"),
        (("cats/train", "cats/test", "dogs/train", "dogs/test"), (), "Put the splits outside"),
        (("a/b/train", "a/b/test"), (), "Give --data .*a/b"),
        (("Train", "Test"), ("Test/owl/1.png",), "owl"),
    ],
)
def test_splits_are_not_taken_for_classes(
    tmp_path: Path, folders: tuple[str, ...], more: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        open_splits(str(made(tmp_path, *folders, more=more)))


def test_classes_may_have_such_names_and_folders_of_their_own(tmp_path: Path) -> None:
    flat = made(tmp_path, "", more=["train/1.png", "train/2.png", "cat/deep/7.png"])
    assert open_splits(str(flat))["train"].class_names == ("cat", "dog", "train")


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    more = ["1.png", "holdout/2.png", "holdout/cat/3.png", "Test/4.png", "Train/5.png"]
    splits = open_splits(str(made(tmp_path, "Train", "Test", more=more)))
    assert left(splits["test"]) == (
        "2 images in holdout/, beside the splits, 1 image beside the splits, "
        "1 image in no class folder"
    )
    assert splits["train"].label(0) == -1, "images of train in no class folder are unlabelled"
    flat = open_splits(str(made(tmp_path / "flat", "", more=["1.png", "2.jpg"])))
    assert left(flat["train"]) == "2 images in no class folder"


def test_folders_of_systems_are_no_classes(tmp_path: Path) -> None:
    more = ["@eaDir/1.png", "cat/@eaDir/2.png", "#recycle/3.png", "$RECYCLE.BIN/4.png"]
    path = made(tmp_path, "", more=more)
    assert open_splits(str(path))["train"].class_names == ("cat", "dog")
    assert "@eaDir" in open_splits(str(path), version="0.3.0")["train"].class_names


def test_up_to_version_0_3_0_splits_had_one_name_each(tmp_path: Path) -> None:
    path = made(tmp_path, "Train", "Test")
    assert open_splits(str(path), version="0.3.0")["train"].class_names == ("Test", "Train")
    path = made(tmp_path / "other", "train", "test", "validation")
    assert set(open_splits(str(path), version="0.3.0")) == {"train", "test"}
