"""Lists of samples: which images a run leaves out, and whose label it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_classes import class_of
from distill_cli.data.label_files import read_corrections, read_relabelling, read_samples
from distill_cli.data.label_rules import LabelRules, Noise
from distill_cli.data.labels import relabelled
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.files import csv_text
from distill_cli.pipeline.inputs.class_matrix import read_matrix
from distill_cli.pipeline.inputs.class_shares import shares_of
from distill_cli.pipeline.inputs.noise_matrix import write_noise
from distill_cli.types import UNLABELLED
from tests.data.pictures import LEFT, TOP, listing, picture

ODD = (("even", ("0", "2", "4", "6", "8")), ("odd", ("1", "3", "5", "7", "9")))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


def two_classes(root: Path, count: int, first: int = 0) -> None:
    """Images of two classes in folders, all of them different."""
    for label, name in enumerate("ab"):
        for number in range(count):
            seed = first + 100 * label + number
            picture(root / name / f"{number}.png", [(LEFT, TOP)[label]], seed=seed)


def named(data: Dataset, rows: list[int]) -> tuple[tuple[str, str], ...]:
    return tuple(("", data.train.sample_ids[row]) for row in rows)


def labels_by_id(data: Dataset) -> dict[str, int]:
    """The labels of images to train on, and of those held out."""
    ids, fit = data.train.sample_ids, data.fit_rows.tolist()
    own = {ids[row]: int(data.train.label_N[row]) for row in fit}
    return own | dict(zip(data.val.sample_ids, data.val.label_N.tolist(), strict=True))


OTHERS: list[dict[str, Any]] = [
    {},
    {"fraction": 0.1},
    {"per_class": 4},
    {"noise": Noise(kind="sym", rate=0.4)},
    {"omit": ("3",), "fraction": 0.2},
    {"coarse": ODD, "per_class": 10},
]


@pytest.mark.parametrize("others", OTHERS, ids=str)
@settings(max_examples=6, deadline=None)
@given(chosen=st.sets(st.integers(0, 1437), min_size=1, max_size=200))
def test_images_of_a_list_are_neither_trained_on_nor_held_out(
    digits: Dataset, others: dict[str, Any], chosen: set[int]
) -> None:
    ids = digits.train.sample_ids
    gone = {ids[row] for row in chosen}
    data = relabelled(digits, LabelRules(without=named(digits, sorted(chosen)), **others))
    assert not gone & labels_by_id(data).keys()
    assert all(int(data.train.label_N[row]) == UNLABELLED for row in chosen)
    assert data.train.sample_ids == ids, "rows are never renumbered"
    assert data.identity is digits.identity
    assert data.test is digits.test
    assert data.labels is not None
    fit = set(digits.fit_rows.tolist())
    assert data.labels.without == (len(chosen & fit), len(chosen - fit))
    assert data.labels.split_rows.equal(digits.fit_rows), "a cache knows the rows of the split"
    if not others:
        kept = labels_by_id(digits)
        assert labels_by_id(data) == {k: v for k, v in kept.items() if k not in gone}


@pytest.mark.parametrize("others", [*OTHERS[:4], {"fraction": 0.2, "limit": 300}], ids=str)
def test_a_list_of_labels_stands_above_all_others(digits: Dataset, others: dict[str, Any]) -> None:
    """And no draw depends on it: whatever else is known stays as it was without it."""
    plain = relabelled(digits, LabelRules(**others))
    before = labels_by_id(plain)
    rows = [row for row in range(0, 1438, 7) if digits.train.sample_ids[row] in before]
    told = {digits.train.sample_ids[row]: row % 10 for row in rows}
    given_ = tuple((("", name), str(label)) for name, label in told.items())
    data = relabelled(digits, LabelRules(relabel=given_, **others))
    assert labels_by_id(data) == before | told
    assert data.fit_rows.equal(plain.fit_rows)
    assert (data.hidden_N[rows] == UNLABELLED).all(), "these labels are hidden no more"
    assert data.labels is not None
    assert data.labels.listed is not None
    said, new, changed = data.labels.listed
    assert said == len(rows)
    assert new == sum(before[name] == UNLABELLED for name in told)
    assert changed == sum(before[n] not in (UNLABELLED, label) for n, label in told.items())
    on_disk = relabelled(digits, LabelRules(fraction=1.0))
    assert on_disk.labels is not None
    assert data.labels.digest != on_disk.labels.digest


def test_a_label_of_a_class_that_is_left_out_leaves_its_image_out(digits: Dataset) -> None:
    row = int(digits.fit_rows[0])
    name = named(digits, [row])[0]
    data = relabelled(digits, LabelRules(omit=("3",), relabel=((name, "3"),)))
    assert row not in data.fit_rows
    assert len(relabelled(digits, LabelRules(omit=("3",))).fit_rows) - len(data.fit_rows) == 1


def test_a_list_names_classes_and_coarse_labels_their_group(digits: Dataset) -> None:
    row = int(digits.fit_rows[0])
    rules = LabelRules(coarse=ODD, relabel=((named(digits, [row])[0], "7"),))
    data = relabelled(digits, rules)
    assert data.group_K is not None
    assert data.group_K[data.train.label_N[row]] == data.group_K[7]


def test_rows_of_test_are_passed_over(digits: Dataset) -> None:
    test = ("test", digits.test.sample_ids[0])
    data = relabelled(digits, LabelRules(without=(test,), relabel=((test, "3"),)))
    assert data.fit_rows.equal(digits.fit_rows)
    assert data.test is digits.test
    assert data.labels is not None
    assert data.labels.of_test == 2
    assert "2 rows of test images passed over" in data.labels.in_words()


def test_nothing_left_to_train_on(digits: Dataset) -> None:
    rules = LabelRules(without=named(digits, list(range(1438))))
    with pytest.raises(ArtifactError, match="no image to train on"):
        relabelled(digits, rules)


def test_a_val_folder_of_its_own(tmp_path: Path) -> None:
    """Its ids may be those of train: the split of a row says which is meant."""
    for first, split in enumerate(("train", "val", "test")):
        two_classes(tmp_path / "data" / split, 6, 1000 * first)
    plain = open_dataset(str(tmp_path / "data"))
    name = plain.val.sample_ids[1]
    assert name in plain.train.sample_ids
    data = relabelled(plain, LabelRules(without=(("val", name),)))
    assert data.fit_rows.equal(plain.fit_rows)
    assert name not in data.val.sample_ids
    assert len(data.val.sample_ids) == len(plain.val.sample_ids) - 1
    data = relabelled(plain, LabelRules(without=(("train", name),)))
    assert data.val.sample_ids == plain.val.sample_ids
    assert len(data.fit_rows) == len(plain.fit_rows) - 1
    other = 1 - int(plain.val.label_N[1])
    told = ((("val", name), plain.class_names[other]),)
    data = relabelled(plain, LabelRules(relabel=told))
    assert data.val.label_N[1] == other
    assert data.train.label_N.equal(plain.train.label_N)


def test_images_beside_the_data_get_labels(tmp_path: Path) -> None:
    for first, split in enumerate(("train", "test")):
        two_classes(tmp_path / "data" / split, 6, 1000 * first)
    picture(tmp_path / "more/0.png", [LEFT], seed=5000)
    picture(tmp_path / "more/1.png", [LEFT], seed=5001)
    plain = open_dataset(str(tmp_path / "data"), unlabelled=str(tmp_path / "more"))
    row = plain.identity.samples
    name = plain.train.sample_ids[row]
    assert name.startswith("unlabelled/")
    rules = LabelRules(relabel=((("", name), plain.class_names[1]),))
    data = relabelled(plain, rules)
    assert data.train.label_N[row] == 1
    assert data.fit_rows.equal(plain.fit_rows)
    assert data.labels is not None
    assert data.labels.listed == (1, 1, 0)
    other = relabelled(plain, LabelRules(relabel=((("", name), plain.class_names[0]),)))
    assert other.labels is not None
    assert other.labels.beside != data.labels.beside
    fewer = relabelled(plain, LabelRules(without=(("", name),)))
    assert torch.equal(fewer.fit_rows, plain.fit_rows[plain.fit_rows != row])


@pytest.mark.parametrize("others", OTHERS, ids=str)
def test_of_images_without_a_label_a_list_is_learnt_from(
    digits: Dataset, others: dict[str, Any]
) -> None:
    """All that have a label stay, every draw is as without the list, and what is hidden elsewhere is gone."""
    rules = LabelRules(**others)
    without = relabelled(digits, rules)
    listed = [3, 5, 8, 13, 21, 34, 55, 89]
    data = relabelled(digits, replace(rules, unlabelled=named(digits, listed)))
    unknown = without.train.label_N == UNLABELLED
    before = without.fit_rows.tolist()
    kept = [row for row in before if not unknown[row] or row in listed]
    assert data.fit_rows.tolist() == kept
    assert torch.equal(data.train.label_N, without.train.label_N)
    assert torch.equal(data.val.label_N, without.val.label_N)
    hidden = {row for row in before if without.hidden_N[row] != UNLABELLED}
    assert set((data.hidden_N != UNLABELLED).nonzero()[:, 0].tolist()) == hidden.intersection(
        listed
    )
    assert data.labels is not None
    assert data.labels.unlabelled == len(before) - len(kept)
    # A list of none is no list.
    nothing = relabelled(digits, replace(rules, unlabelled=()))
    assert not bool((nothing.train.label_N[nothing.fit_rows] == UNLABELLED).any())


def test_of_images_with_several_labels_a_list_chooses_those_without(tmp_path: Path) -> None:
    """Which images are learnt from is no matter of one class."""
    lines = []
    for number in range(20):
        picture(tmp_path / "d" / f"{number}.png", [(LEFT, TOP)[number % 2]], seed=number)
        lines.append(f"{number}.png,{('left', 'left;top', '')[number % 3]}")
        picture(tmp_path / "u" / f"{number}.png", [LEFT], seed=100 + number)
    spec = str(listing(tmp_path / "d/table.csv", ["file,labels", *lines]))
    plain = open_dataset(spec, unlabelled=str(tmp_path / "u"))
    assert plain.multi_label
    beside = len(plain.train.sample_ids) - 20
    names = tuple(("", f"unlabelled/{number}.png") for number in (3, 8))
    data = relabelled(plain, LabelRules(unlabelled=names))
    own = plain.fit_rows[plain.fit_rows < plain.identity.samples]
    assert torch.equal(data.fit_rows[: len(own)], own)
    ids = [data.train.sample_ids[row] for row in data.fit_rows[len(own) :].tolist()]
    assert sorted(ids) == [name for _, name in names]
    assert beside != 2
    assert data.labels is not None
    assert data.labels.unlabelled == len(plain.fit_rows) - len(own) - 2


@pytest.mark.parametrize("own_val", [False, True])
def test_rows_of_a_list_that_a_limit_leaves_out_are_counted(tmp_path: Path, own_val: bool) -> None:
    """All of them are told of: labels that are learnt or held out, others, and those of test."""
    two_classes(tmp_path / "d/train", 30)
    two_classes(tmp_path / "d/test", 5, first=300)
    if own_val:
        two_classes(tmp_path / "d/val", 5, first=500)
    plain = open_dataset(str(tmp_path / "d"))
    every = tuple((("", name), "a") for name in plain.train.sample_ids)
    every += ((("test", "a/0.png"), "a"),)
    if own_val:
        every += tuple((("val", name), "a") for name in plain.val.sample_ids)
    data = relabelled(plain, LabelRules(relabel=every, limit=10))
    assert data.labels is not None
    assert data.labels.listed is not None
    used = 10 + len(plain.val.sample_ids)
    assert (data.labels.listed[0], data.labels.of_test) == (used, 1)
    assert data.labels.elsewhere == len(every) - used - 1
    words = f"{used} labels of a list (0 not known before, "
    line = next(part for part in data.labels.in_words() if part.startswith(words))
    assert line.endswith(f"changed, {data.labels.elsewhere} rows of other images)")
    assert any(part.startswith("10 of ") for part in data.labels.in_words())


def test_lists_of_files(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(
        "split,sample_id,kind,label,suggested\ntrain,a,x,1,2\n,b,x,1,\ntest,c,x,1,3\ntrain,a,y,1,2\n"
    )
    assert read_samples(path, "--without") == (("train", "a"), ("", "b"), ("test", "c"))
    assert read_corrections(path) == ((("train", "a"), "2"), (("test", "c"), "3"))
    path.write_text("sample_id,label\na,1\nb, \n")
    assert read_corrections(path) == ((("", "a"), "1"), (("", "b"), " "))
    with pytest.raises(UsageError, match="cannot read --without"):
        read_samples(tmp_path / "none.csv", "--without")
    for text, words in (
        ("name,label\na,1\n", "should have a column sample_id"),
        ("sample_id\na\n", "should have a column label, or suggested"),
        ("sample_id,label\na,1\na,2\n", "line 3: sample 'a' is 1 further up"),
        ("sample_id,label,split\na,1,dev\n", "line 2: there is no split 'dev'"),
        ("sample_id,label\na\n", "line 2: it should have 2 cells"),
        ("sample_id,label,label\na,1,2\n", "two of its columns have one name"),
        ("", "should have a column sample_id"),
    ):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=words):
            read_corrections(path)


def test_what_a_list_names_must_be_there(digits: Dataset) -> None:
    with pytest.raises(ArtifactError, match="--without: digits has no training image 'x'"):
        relabelled(digits, LabelRules(without=(("", "x"),)))
    name = named(digits, [0])[0]
    with pytest.raises(ArtifactError, match="--relabel: there is no class 'ten'"):
        relabelled(digits, LabelRules(relabel=((name, "ten"),)))


def test_two_classes_of_one_image_are_refused_however_its_split_is_spelt(digits: Dataset) -> None:
    name = digits.train.sample_ids[0]
    told = ((("", name), "1"), (("train", name), "2"))
    with pytest.raises(ArtifactError, match="is 1 further up"):
        relabelled(digits, LabelRules(relabel=told))


# Line breaks of Unicode, of old Macs and of typewriters, and spaces: a name may have them, and a cell with them.
ODD_NAMES = [
    " ",
    "a",
    " a",
    "a ",
    "\u2028a",
    "a\u2029b",
    "a\rb",
    "\ra\n",
    "a\x0c",
    "\x85",
    '"a',
    "a,b",
    "\ufeff",
]
NAMES = st.one_of(st.sampled_from(ODD_NAMES), st.text(min_size=1, max_size=4))


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(NAMES, min_size=2, max_size=6, unique=True),
    ids=st.lists(NAMES, min_size=1, max_size=6, unique=True),
    draws=st.randoms(use_true_random=False),
)
def test_lists_that_are_written_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], ids: list[str], draws: Any
) -> None:
    """Cells are what the writer was given; a class is its name, spaces and line breaks and all."""
    assume(not any("\0" in name for name in (*names, *ids)))
    path = tmp_path_factory.getbasetemp() / "list.csv"
    given_ = [("train", name, draws.choice(names)) for name in ids]
    path.write_bytes(csv_text([("split", "sample_id", "label"), *given_]).encode())
    assert read_samples(path, "--without") == tuple((split, name) for split, name, _ in given_)
    corrections = read_corrections(path)
    assert corrections == tuple(((split, name), label) for split, name, label in given_)
    for _, label in corrections:
        assert class_of(label, names) == names.index(label)
    path.write_bytes(csv_text([("sample_id", "label"), *(row[1:] for row in given_)]).encode())
    assert read_relabelling(path) == tuple(row[1:] for row in given_)


def test_spaces_around_a_class_count_where_a_class_is_called_so(digits: Dataset) -> None:
    odd = replace(digits, class_names=("1", " 1", *map(str, range(2, 9)), " "))
    names = named(odd, [0, 1, 2, 3, 4, 5])
    texts = ("1", " 1", "1 ", " 3 ", "", " ")
    data = relabelled(odd, LabelRules(relabel=tuple(zip(names, texts, strict=True))))
    told = [0, 1, 0, 3, int(odd.train.label_N[4]), 9]
    assert data.train.label_N[:6].tolist() == told
    # Where no class is called so, nobody has said it yet.
    rules = LabelRules(relabel=((names[0], " "),))
    assert relabelled(digits, rules).train.label_N.equal(digits.train.label_N)


def test_files_of_classes_that_are_written_read_back(tmp_path: Path) -> None:
    names = ("a", "a ", "\u2028", "b\rc")
    noise_KK = torch.full((4, 4), 0.1, dtype=torch.float64) + 0.6 * torch.eye(4)
    write_noise(tmp_path / "n.csv", noise_KK, names)
    assert read_matrix(tmp_path / "n.csv", names, "noise").equal(noise_KK)
    shares = zip(names, (0.4, 0.3, 0.2, 0.1), strict=True)
    (tmp_path / "p.csv").write_bytes(csv_text([("class", "share"), *shares]).encode())
    shares_K = shares_of(str(tmp_path / "p.csv"), names)
    assert torch.allclose(shares_K, torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64))
