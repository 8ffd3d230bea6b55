"""What a run knows of labels: the rules on whole datasets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_files import read_hierarchy, read_relabelling
from distill_cli.data.label_rules import LabelRules, Noise
from distill_cli.data.labels import relabelled
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.types import UNLABELLED
from tests.data.pictures import LEFT, TOP, halves, picture

SYM = Noise(kind="sym", rate=0.4)
ODD = (("even", ("0", "2", "4", "6", "8")), ("odd", ("1", "3", "5", "7", "9")))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


def known_of(data: Dataset) -> dict[str, int]:
    """The labels that a run can see, by sample id."""
    return {
        name: label
        for name, label in zip(data.train.sample_ids, data.train.label_N.tolist(), strict=True)
        if label != UNLABELLED
    }


RULES: list[dict[str, Any]] = [
    {"fraction": 0.1},
    {"fraction": 1.0},
    {"per_class": 4},
    {"per_class": 20, "noise": SYM},
    {"noise": SYM},
    {"noise": Noise(kind="pair", rate=0.2), "omit": ("3",)},
    {"only": ("7", "8"), "fraction": 0.2},
    {"limit": 200, "fraction": 0.5},
    {"coarse": ODD, "per_class": 10},
    {"limit": 200, "fold": (2, 5)},
    {"per_class": 20, "noise": SYM, "fold": (1, 3)},
]


@pytest.mark.parametrize("values", RULES, ids=str)
def test_what_always_holds(digits: Dataset, values: dict[str, Any]) -> None:
    rules = LabelRules(**values)
    data = relabelled(digits, rules)
    assert data.labels is not None
    assert data.identity is digits.identity
    assert data.test is digits.test
    assert data.train.sample_ids == digits.train.sample_ids, "rows are never renumbered"
    fit, val = set(data.fit_rows.tolist()), set(data.val.sample_ids)
    held = set(range(len(digits.train.label_N))) - set(digits.fit_rows.tolist())
    held_ids = {digits.train.sample_ids[row] for row in held}
    assert val <= held_ids, "no labelled image crosses the split"
    assert not val & {data.train.sample_ids[row] for row in fit}
    labelled = {row for row in fit if data.train.label_N[row] != UNLABELLED}
    assert labelled <= set(digits.fit_rows.tolist()), "nor the other way"
    hidden = (data.hidden_N != UNLABELLED).nonzero()[:, 0]
    assert set(hidden.tolist()) == fit - labelled
    assert data.hidden_N[hidden].equal(digits.train.label_N[hidden])
    assert bool((data.train.label_N[hidden] == UNLABELLED).all())
    rest = [row for row in range(len(data.train.label_N)) if row not in fit]
    shown = {data.train.sample_ids[r] for r in rest if data.train.label_N[r] != UNLABELLED}
    assert shown == val, "who is neither trained on nor held out has no label"
    assert data.labels.known == len(labelled) + len(val)
    assert data.labels.hidden == len(hidden)
    assert data.labels.held_out == len(val)
    again = relabelled(digits, rules)
    assert again.train.label_N.equal(data.train.label_N)
    assert again.labels is not None
    assert again.labels.digest == data.labels.digest
    other = relabelled(digits, replace(rules, seed=1))
    assert other.labels is not None
    if values != {"fraction": 1.0}:
        assert other.labels.digest != data.labels.digest


def test_a_fraction_is_of_every_class(digits: Dataset) -> None:
    data = relabelled(digits, LabelRules(fraction=0.1))
    assert data.labels is not None
    assert data.labels.known == round(0.1 * 1438)
    counts = Counter(known_of(data).values())
    assert set(counts.values()) == {14, 15}
    assert data.labels.held_out == 14, "one or two of each class, a tenth"
    assert set(data.val.label_N.tolist()) == set(range(10))


def test_a_share_below_one_of_each_class_is_one_of_each(digits: Dataset) -> None:
    """0.2 % of 1,438 labels are three, and ten classes are to be learnt."""
    data = relabelled(digits, LabelRules(fraction=0.002))
    assert Counter(known_of(data).values()) == dict.fromkeys(range(10), 1)
    assert known_of(data).items() <= known_of(relabelled(digits, LabelRules(fraction=0.01))).items()
    part = relabelled(digits, LabelRules(fraction=0.01, limit=100))
    assert Counter(known_of(part).values()) == dict.fromkeys(range(10), 1)


def test_all_labels_are_those_of_the_data(digits: Dataset) -> None:
    data = relabelled(digits, LabelRules(fraction=1.0))
    assert data.train.label_N.equal(digits.train.label_N)
    assert data.fit_rows.equal(digits.fit_rows)
    assert data.val.label_N.equal(digits.val.label_N)
    assert relabelled(digits, LabelRules(seed=3)) is digits


def test_fewer_labels_are_among_more(digits: Dataset) -> None:
    known = [known_of(relabelled(digits, LabelRules(fraction=f))) for f in (0.05, 0.1, 0.3, 1.0)]
    for fewer, more in pairwise(known):
        assert fewer.items() <= more.items()
    noisy = [
        known_of(relabelled(digits, LabelRules(fraction=f, noise=SYM))) for f in (0.1, 0.3, 1.0)
    ]
    for fewer, more in pairwise(noisy):
        assert fewer.items() <= more.items(), "a wrong label is as wrong of more labels"


def test_fewer_than_five_are_all_trained_on(digits: Dataset) -> None:
    data = relabelled(digits, LabelRules(per_class=4))
    assert len(data.val.label_N) == 0
    assert len(data.fit_rows) == 1438
    assert Counter(data.train.label_N.tolist())[3] == 4
    five = relabelled(digits, LabelRules(per_class=5))
    assert len(five.val.label_N) == 10
    assert Counter(five.train.label_N[five.fit_rows].tolist())[3] == 4


def test_noise_is_in_both_sides(digits: Dataset) -> None:
    data = relabelled(digits, LabelRules(noise=SYM))
    assert data.labels is not None
    wrong = (data.train.label_N != digits.train.label_N)[digits.fit_rows]
    wrong_val = data.val.label_N != digits.val.label_N
    assert data.labels.changed == int(wrong.sum()) + int(wrong_val.sum())
    for right, changed in (
        (digits.train.label_N[digits.fit_rows], wrong),
        (digits.val.label_N, wrong_val),
    ):
        for label in range(10):
            of_class = right == label
            assert int(changed[of_class].sum()) == round(0.4 * int(of_class.sum()))
    assert data.test.label_N.equal(digits.test.label_N)


def test_classes_are_left_out_of_training_alone(digits: Dataset) -> None:
    data = relabelled(digits, LabelRules(omit=("3",)))
    assert 3 not in digits.train.label_N[data.fit_rows]
    assert data.val.label_N.equal(digits.val.label_N)
    assert data.labels is not None
    assert data.labels.left_out == ("3",)
    only = relabelled(digits, LabelRules(only=("7", "8"), fraction=0.1))
    assert set(digits.train.label_N[only.fit_rows].tolist()) == {7, 8}
    assert set(only.val.label_N.tolist()) == set(range(10)), "held out are all classes"


def test_a_limit_takes_every_class(digits: Dataset) -> None:
    data = relabelled(digits, LabelRules(limit=100))
    assert len(data.fit_rows) == 100
    assert set(Counter(data.train.label_N[data.fit_rows].tolist()).values()) == {10}
    assert data.val.label_N.equal(digits.val.label_N)
    half = relabelled(digits, LabelRules(limit=100, fraction=0.5))
    assert len(half.fit_rows) == 100, "held-out images without a label do not join"
    assert half.labels is not None
    assert half.labels.limit == (100, 1295)


def test_coarse_labels_hide_the_class(digits: Dataset) -> None:
    data = relabelled(digits, LabelRules(coarse=ODD))
    assert data.group_K is not None
    assert data.group_K.tolist() == [0, 1] * 5
    assert set(data.train.label_N.tolist()) == {0, 1}
    assert data.train.label_N.equal(digits.train.label_N % 2)
    assert data.val.label_N.equal(digits.val.label_N % 2)


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"omit": ("three",)}, UsageError, "--omit-class: there is no class 'three'"),
        ({"only": ("11",)}, UsageError, "--only-classes: there is no class '11'"),
        ({"omit": tuple("0123456789")}, ArtifactError, "no image to train on"),
        ({"coarse": ODD[:1]}, ArtifactError, "class '1' is in no group"),
        ({"coarse": (*ODD, ("three", ("3",)))}, ArtifactError, "class '3' stands twice"),
        ({"coarse": (*ODD, ("ten", ("10",)))}, ArtifactError, "there is no class '10'"),
        ({"noise": (("index:9999", "1"),)}, ArtifactError, "no training image 'index:9999'"),
        ({"noise": (("index:0", "x"),)}, ArtifactError, "there is no class 'x'"),
    ],
)
def test_refusals(
    digits: Dataset, values: dict[str, Any], error: type[Exception], text: str
) -> None:
    name = digits.train.sample_ids[0]
    if values.get("noise") == (("index:0", "x"),):
        values = {"noise": ((name, "x"),)}
    with pytest.raises(error, match=text):
        relabelled(digits, LabelRules(**values))


def test_labels_of_a_file(digits: Dataset, tmp_path: Path) -> None:
    names = [digits.train.sample_ids[row] for row in digits.fit_rows[:2].tolist()]
    (tmp_path / "n.csv").write_text(f"sample_id,label\n{names[0]},7\n{names[1]}, 8\n\n")
    noise = read_relabelling(tmp_path / "n.csv")
    data = relabelled(digits, LabelRules(noise=noise))
    known = known_of(data)
    assert (known[names[0]], known[names[1]]) == (7, 8)
    assert int((data.train.label_N != digits.train.label_N).sum()) <= 2
    for text, fault in (
        ("id,label\na,1\n", "its first line should be sample_id,label"),
        ("sample_id,label\na\n", "line 2: it should have two cells"),
        ("sample_id,label\na,1\na,2\n", "sample 'a' stands twice"),
    ):
        (tmp_path / "n.csv").write_text(text)
        with pytest.raises(ArtifactError, match=fault):
            read_relabelling(tmp_path / "n.csv")
    with pytest.raises(UsageError, match="cannot read label noise"):
        read_relabelling(tmp_path / "none.csv")


def test_a_table_that_excel_saved_has_a_mark_before_its_header(tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("sample_id,label\nindex:5,7\n", encoding="utf-8-sig")
    assert read_relabelling(tmp_path / "n.csv") == (("index:5", "7"),)


def test_groups_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("even: [0, 2]\nodd: [1, 3]\n")
    assert read_hierarchy(tmp_path / "g.yaml") == (("even", ("0", "2")), ("odd", ("1", "3")))
    for text in ("[a]", "{}", "even: 3", "even: []"):
        (tmp_path / "g.yaml").write_text(text)
        with pytest.raises(ArtifactError, match="coarse labels"):
            read_hierarchy(tmp_path / "g.yaml")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, loose images beside them, and a val/ of its own."""
    root = tmp_path_factory.mktemp("folders")
    for split, count in (("train", 30), ("val", 10), ("test", 4)):
        for label, name in enumerate("ab"):
            for number in range(count):
                picture(root / split / name / f"{number}.png", [(LEFT, TOP)[label]], seed=number)
    for number in range(6):
        picture(root / f"train/loose-{number}.png", [LEFT], seed=100 + number)
    return root


def test_a_folder_of_its_own_is_held_out_of_the_labels_too(folders: Path) -> None:
    """Its images that are not held out are no training images; loose ones stay unlabelled."""
    plain = open_dataset(str(folders))
    data = relabelled(plain, LabelRules(per_class=10, noise=Noise(kind="pair", rate=0.2)))
    assert data.labels is not None
    assert (data.labels.known, data.labels.held_out, data.labels.images) == (20, 2, 80)
    assert data.fit_rows.equal(plain.fit_rows)
    assert (len(data.val.label_N), data.labels.hidden) == (2, 60 - 18)
    noisy = relabelled(plain, LabelRules(noise=Noise(kind="pair", rate=0.2)))
    assert int((noisy.val.label_N != plain.val.label_N).sum()) == 2 * 2
    assert int((noisy.train.label_N != plain.train.label_N).sum()) == 2 * 6


def test_a_file_labels_no_image_that_has_no_label(folders: Path) -> None:
    """Loose images of train stay unlabelled: a row for one is refused, whatever it says."""
    plain = open_dataset(str(folders))
    loose = [name for name in plain.train.sample_ids if "loose" in name]
    assert len(loose) == 6
    rows = tuple((name, "a") for name in loose)
    with pytest.raises(
        ArtifactError, match=r"6 rows for images that have no label: .*loose-0.*, …"
    ):
        relabelled(plain, LabelRules(noise=rows))
    with pytest.raises(ArtifactError, match=rf"1 row for images that have no label: '{loose[3]}'"):
        relabelled(plain, LabelRules(noise=((plain.train.sample_ids[0], "b"), rows[3])))


def test_several_labels_an_image(tmp_path: Path) -> None:
    data = open_dataset(str(halves(tmp_path, 60)))
    assert len(relabelled(data, LabelRules(limit=20)).fit_rows) == 20
    for rules in (LabelRules(fraction=0.5), LabelRules(noise=SYM), LabelRules(omit=("left",))):
        with pytest.raises(UsageError, match="several labels may apply"):
            relabelled(data, rules)


def test_images_beside_the_data_change_no_draw(folders: Path, tmp_path: Path) -> None:
    """Rows of --unlabelled follow those of train; a limit takes as many of them at most."""
    for number in range(50):
        picture(tmp_path / f"{number}.png", [LEFT], seed=500 + number)
    alone, both = open_dataset(str(folders)), open_dataset(str(folders), unlabelled=str(tmp_path))
    for rules in (
        LabelRules(fraction=0.5),
        LabelRules(limit=20, per_class=6),
        LabelRules(noise=SYM),
    ):
        one, other = relabelled(alone, rules), relabelled(both, rules)
        assert known_of(one) == known_of(other)
        assert one.labels is not None
        assert other.labels is not None
        assert one.labels.digest == other.labels.digest, "held-out labels are found without them"
        assert one.val.label_N.equal(other.val.label_N)
        beside = other.fit_rows[len(one.fit_rows) :]
        assert one.fit_rows.equal(other.fit_rows[: len(one.fit_rows)])
        assert len(beside) == (50 if rules.limit is None else 20)
        assert bool((beside >= 66).all())
        assert bool((other.hidden_N[beside] == UNLABELLED).all())
