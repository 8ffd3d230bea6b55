"""Folders as people have them, through the real commands: one line says all, every verb agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import Outcome
from tests.data.odd_folders import classes, colour, grey, odd, save

Distill = Callable[..., Outcome]
SHORT = ("--model", "mlp_8x1", "--epochs", 2, "-b", 8, "--lr", 0.2, "--set", "warmup_epochs=0")
TRAIN = ("teacher", "train", "--data", "data", *SHORT)


def recorded(run: str) -> dict:
    return yaml.safe_load(Path(run, "recipe.yaml").read_text())


def line(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    [found] = [line for line in outcome.err.splitlines() if line.startswith("data: ")]
    return found


def test_the_first_line_says_it_all(here: Path, distill: Distill) -> None:
    odd(here / "data")
    (here / "data/9/bad.png").write_bytes(b"no image")
    first = line(distill(*TRAIN, "--skip-bad", "--out", "t"))
    for part in (
        "data: 60 files, 57 images used",
        "skipped 1 image that cannot be read",
        "1 other file (1 .txt)",
        "not used: 1 image in no class folder (all in skipped.txt)",
        "2 classes of 28 to 29 images (7 to 9)",
        "8×8 (as they are) grey (",
    ):
        assert part in first, (part, first)
    assert "mirrored" not in first, "grey images are not mirrored anyway"
    skipped = Path("t/skipped.txt").read_text().splitlines()
    assert [text.partition("\t")[0] for text in skipped] == [
        "7/notes.txt",
        "9/bad.png",
        "loose.png",
    ]
    assert all(text.partition("\t")[2] for text in skipped)
    said = recorded("t")
    assert (said["data_rules"], said["split_by"]) == ("0.4.0", "content")
    assert (said["channels"], said["dedupe"], said["augment"]) == (1, False, ["shift:1"])
    assert distill("teacher", "train", "--resume", "--out", "t", "--quiet").code == 0


def test_labels_and_students_are_of_the_same_images(here: Path, distill: Distill) -> None:
    odd(here / "data")
    assert distill(*TRAIN, "--dedupe", "--out", "t", "--quiet").code == 0
    dump = ("cache-soft-labels", "--teachers", "t", "--views", 1, "--out", "c")
    first = line(distill(*dump))
    lines = Path("t/skipped.txt").read_text().splitlines()
    copies = [text for text in lines if "\ta copy of" in text]
    assert 1 <= len(copies) <= 6
    assert f"left out {len(copies)} cop" in first
    split = json.loads(Path("c/plan.json").read_text())["split"]
    assert split["dedupe"] is True
    assert Path("c/skipped.txt").read_text() == Path("t/skipped.txt").read_text()
    for teacher in ("c", "t"):
        student = ("student", "--teachers", teacher, *SHORT, "--out", f"s{teacher}", "--quiet")
        outcome = distill(*student)
        assert outcome.code == 0, outcome.err
        said = recorded(f"s{teacher}")
        assert said["dedupe"] is True
        assert said["recorded"]["dataset"] == recorded("t")["recorded"]["dataset"]
    assert distill("cache", "verify", "c", "--sample", 4).code == 0
    figures = json.loads(distill("evaluate", "t", "--json").out)
    result = json.loads(Path("t/result.json").read_text())
    assert figures["errors"] == result["test_errors"]


def test_predict_says_what_it_leaves_out_and_agrees_of_file_and_folder(
    here: Path, distill: Distill
) -> None:
    odd(here / "data")
    assert distill(*TRAIN, "--out", "t", "--quiet").code == 0
    folder = distill("predict", "t", "data/9", "--json")
    assert folder.code == 0, folder.err
    answers = {one["image"]: one for one in map(json.loads, folder.out.splitlines())}
    for name in ("data/9/other.jfif", "data/9/more.jp2"):
        [alone] = map(json.loads, distill("predict", "t", name, "--json").out.splitlines())
        assert alone["class"] == answers[name]["class"]
    evaluated = distill("evaluate", "t", "--json")
    assert "1 other file (1 .txt)" in evaluated.err
    assert "not used: 1 image in no class folder" in evaluated.err
    assert evaluated.out.count("\n{") == 0, "stdout is one document"
    seven = distill("predict", "t", "data/7", "--json")
    assert "1 other file (1 .txt)" in seven.err
    refused = distill("predict", "t", "data/7/notes.txt")
    assert refused.code == 3
    assert "its suffix (.txt) is none of those that are read" in refused.err


@pytest.mark.parametrize(("names", "flip"), [("79", False), ("ab", False), (("cat", "dog"), True)])
def test_characters_are_not_mirrored_by_default(
    here: Path, distill: Distill, names: tuple[str, ...], flip: bool
) -> None:
    classes(here / "data", 12, names=names, make=colour)
    first = line(distill(*TRAIN, "--out", "t"))
    augment = [step.partition(":")[0] for step in recorded("t")["augment"]]
    assert augment == (["crop", "flip"] if flip else ["crop"])
    assert ("not mirrored" in first) != flip
    first = line(distill(*TRAIN, "--augment", "crop,flip", "--out", "u"))
    assert [step.partition(":")[0] for step in recorded("u")["augment"]] == ["crop", "flip"]
    assert "not mirrored" not in first
    assert distill(*TRAIN, "--augment", "strong", "--out", "v", "--quiet").code == 0
    assert any(step.startswith("flip") for step in recorded("v")["augment"]) == flip


@pytest.mark.parametrize("size", [None, 136])
def test_one_colour_image_among_grey_ones_changes_nothing(
    here: Path, distill: Distill, size: int | None
) -> None:
    """Grey that is stored as red, green and blue is grey too; for large views as for small ones."""
    root = classes(here / "data", 12, make=lambda label, seed: grey(label, seed).convert("RGB"))
    save(root / "a" / "colour.png", colour(0, 99))
    sized = () if size is None else ("--size", size)
    outcome = distill(*TRAIN, *sized, "--out", "t", "-j", 0)
    assert " grey (" in line(outcome)
    assert "training images are grey" in line(outcome)
    assert (recorded("t")["channels"], recorded("t")["augment"][0][:5]) == (1, "shift")
    # By and by most images are of colour: the run that is there stays grey.
    for number in range(30):
        save(root / "b" / f"new-{number}.png", colour(1, 200 + number))
    evaluated = distill("evaluate", "t", "--json")
    assert evaluated.code == 0, evaluated.err
    assert " colour (" in line(distill(*TRAIN, *sized, "--out", "u", "-j", 0))
    dry = distill(*TRAIN, *sized, "--dry-run", "--out", "w", "-j", 0)
    assert " colour (" in line(dry)
    assert " grey (" in line(distill(*TRAIN, *sized, "--channels", 1, "--out", "v", "-j", 0))


def test_copies_are_said_and_dedupe_offered(here: Path, distill: Distill) -> None:
    classes(here / "data/train", 12)
    for number in range(3):
        save(
            here / "data/test" / "ab"[number % 2] / f"{number}.png", grey(number % 2, 500 + number)
        )
    tested = (here / "data/test/a/0.png").read_bytes()
    (here / "data/train/a/again.png").write_bytes(tested)
    first = line(distill(*TRAIN, "--out", "t"))
    assert "copies: 1 of test in " in first
    assert "(--dedupe leaves copies out)" in first
    first = line(distill(*TRAIN, "--dedupe", "--out", "u"))
    assert "left out 1 copy" in first
    assert "copies:" not in first
    # Nothing is left out of test: both were tested on the same images.
    compared = distill("compare", "t", "u")
    assert "training images (25 and 24); they were tested on the same" in compared.err


def test_splits_by_other_names_train_and_are_evaluated(here: Path, distill: Distill) -> None:
    for folder, count in (("Training", 12), ("Testing", 4), ("Validation", 4)):
        classes(here / "data" / folder, count)
    first = line(distill(*TRAIN, "--out", "t"))
    assert "24 to train on, 8 held out, 8 test" in first
    assert "copies: 8 of held-out in train" in first
    Path("data/Testing").rename("data/more")
    refused = distill(*TRAIN, "--out", "u")
    assert refused.code == 3
    assert "no test/<class>/" in refused.err


def test_a_teacher_of_another_split_of_the_same_images_is_refused(
    here: Path, distill: Distill
) -> None:
    """Where copies moved images between the splits: it has seen what is held out here."""
    for path in sorted(classes(here / "data/train", 20).rglob("*.png")):
        path.with_name(f"z{path.name}").write_bytes(path.read_bytes())
    for number in range(2):
        save(here / "data/test" / "ab"[number] / "1.png", grey(number, 900 + number))
    assert distill(*TRAIN, "--split-by", "id", "--out", "t", "--quiet").code == 0
    student = ("student", "--teachers", "t", *SHORT, "--quiet")
    assert distill(*student, "--out", "s").code == 0
    assert recorded("s")["split_by"] == "id", "it has its teacher's split"
    refused = distill(*student, "--split-by", "content", "--out", "u")
    assert refused.code == 3
    assert "was trained with split_by id, this run has content" in refused.err
    assert distill(*TRAIN, "--init", "t", "--out", "w", "--quiet").code == 0


@pytest.fixture
def copied(here: Path) -> Path:
    """Class folders without test/, in which each image is there twice: the seeded split differs."""
    for path in sorted(classes(here / "data", 20).rglob("*.png")):
        path.with_name(f"z{path.name}").write_bytes(path.read_bytes())
    return here


@pytest.mark.slow
def test_a_teacher_that_saw_the_test_images_is_refused(copied: Path, distill: Distill) -> None:
    """Without test/, another split_by or dedupe is another train split: other rows are test rows."""
    assert distill(*TRAIN, "--split-by", "id", "--out", "fli", "--quiet").code == 0
    assert distill(*TRAIN, "--out", "fl", "--quiet").code == 0
    student = ("student", *SHORT, "--force", "--quiet", "--teachers")
    for teachers, more, key, then, now in (
        ("fli", ("--split-by", "content"), "split_by", "id", "content"),
        ("fli,fl", (), "split_by", "content", "id"),
        ("fl,fli", (), "split_by", "id", "content"),
        ("fl", ("--dedupe",), "dedupe", "False", "True"),
    ):
        refused = distill(*student, teachers, *more, "--out", "s")
        assert refused.code == 3, (teachers, more, refused.err)
        assert f"was trained with {key} {then}, this run has {now}" in refused.err
        assert f"Leave --{key.replace('_', '-')} out to adopt the teacher's" in refused.err
        assert not Path("s").exists()
    refused = distill(*TRAIN, "--init", "fl", "--dedupe", "--out", "s", "--quiet")
    assert (refused.code, "Leave --dedupe out" in refused.err) == (3, True)
    assert distill(*TRAIN, "--dedupe", "--out", "without", "--quiet").code == 0
    assert "they were tested on the same" in distill("compare", "fl", "without").err
    assert "tested on different images" in distill("compare", "fl", "fli").err
    assert distill(*student, "fli", "--out", "same").code == 0
    assert recorded("same")["split_by"] == "id"
    # Other data may be split in any way: nothing that this teacher saw is held out there.
    Path("data").rename("moved")
    other = ("--data", "moved", "--split-by", "content")
    assert distill(*student, "fli", *other, "--out", "other").code == 0


def test_a_cache_of_another_split_of_the_same_data_is_refused(
    copied: Path, distill: Distill
) -> None:
    assert distill(*TRAIN, "--split-by", "id", "--out", "t", "--quiet").code == 0
    dump = ("cache-soft-labels", "--teachers", "t", "--force", "--quiet")
    assert distill(*dump, "--out", "labels").code == 0
    refused = distill(*dump, "--split-by", "content", "--out", "more")
    assert refused.code == 3
    assert "was trained with split_by id, this run has content" in refused.err
    student = ("student", "--teachers", "labels", *SHORT, "--force", "--quiet", "--out", "s")
    assert distill(*student, "--split-by", "content").code == 3
    assert distill(*student, "--dedupe").code == 3
    assert distill(*student).code == 0


def test_images_of_every_kind_are_read_alike_by_every_verb(here: Path, distill: Distill) -> None:
    """Palette, CMYK, 16 bits, alpha, one colour among grey: trained, labelled, evaluated, predicted."""
    root = classes(here / "data", 8)
    save(root / "a" / "palette.gif", colour(0, 50).convert("P"))
    save(root / "a" / "cmyk.jpg", colour(0, 51).convert("CMYK"))
    deep = np.asarray(grey(1, 52)).astype(np.uint16) * 257
    save(root / "b" / "deep.png", Image.fromarray(deep))
    save(root / "b" / "alpha.png", Image.merge("LA", [grey(1, 53), grey(0, 53)]))
    save(root / "b" / "bits.pbm", grey(1, 54).point(lambda value: 255 * (value > 99), "1"))
    outcome = distill(*TRAIN, "--out", "t")
    assert " grey (" in line(outcome)
    assert distill("cache-soft-labels", "--teachers", "t", "--out", "c", "--quiet").code == 0
    verified = distill("cache", "verify", "c", "--sample", 16)
    assert verified.code == 0, verified.err
    figures = json.loads(distill("evaluate", "t", "--json").out)
    assert figures["errors"] == json.loads(Path("t/result.json").read_text())["test_errors"]
    rows = distill("predict", "t", "data", "--json").out.splitlines()
    assert len(rows) == 21 == 16 + 5


def test_rules_of_a_run_are_those_of_its_data(here: Path, distill: Distill) -> None:
    """Weights that are started from, or evaluated on other images, bring no rules along."""
    odd(here / "data")
    assert distill(*TRAIN, "--split-by", "id", "--dedupe", "--out", "t", "--quiet").code == 0
    classes(here / "other/Training", 12)
    classes(here / "other/Testing", 6)
    other = ("teacher", "train", "--data", "other", *SHORT, "--init", "t", "--out", "u")
    outcome = distill(*other)
    assert outcome.code == 0, outcome.err
    assert "other: 36 images used; 22 to train on, 2 held out, 12 test" in outcome.err
    said = recorded("u")
    assert (said["split_by"], said["dedupe"]) == ("content", False)
    assert distill(*TRAIN, "--init", "t", "--out", "same", "--quiet").code == 0
    assert recorded("same")["split_by"] == "id", "of the same data it has seen this split"


def test_an_old_model_reads_other_data_by_the_rules_of_today(here: Path, distill: Distill) -> None:
    names = classes(here / "data", 12)
    assert names is not None
    assert distill(*TRAIN, "--out", "t", "--quiet").code == 0
    # As a run of 0.3.0, whose recipe has no such keys.
    kept = recorded("t")
    for key in ("data_rules", "split_by", "dedupe", "channels"):
        kept.pop(key)
    Path("t/recipe.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    classes(here / "new/Training", 8)
    classes(here / "new/Testing", 6)
    outcome = distill("evaluate", "t", "--data", "new", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["samples"] == 12


def test_one_picture_of_another_size_does_not_change_what_a_model_sees(
    here: Path, distill: Distill
) -> None:
    """Its views have the size that the images had, whatever comes to them."""
    classes(here / "data/train", 12)
    classes(here / "data/test", 8)
    assert distill(*TRAIN, "--out", "t", "--quiet").code == 0
    before = json.loads(distill("evaluate", "t", "--json").out)
    save(here / "data/train/a/zz.png", Image.new("L", (14, 14)))
    after = json.loads(distill("evaluate", "t", "--json").out)
    assert after["errors"] == before["errors"]
    assert after["nll"] == pytest.approx(before["nll"], abs=1e-9)


def test_of_channels_that_are_given_no_share_is_said(here: Path, distill: Distill) -> None:
    classes(here / "data", 12)
    outcome = distill(*TRAIN, "--size", 144, "--channels", 1, "--out", "t")
    assert "(as --channels or a teacher has it)" in line(outcome)


def test_evaluate_leaves_out_what_cannot_be_read_as_its_hint_says(
    here: Path, distill: Distill
) -> None:
    classes(here / "data", 12)
    train = ("teacher", "train", "--data", "data", "--model", "mlp_8x1", "--epochs", 1, "-b", 4)
    assert distill(*train, "--out", "t", "--quiet").code == 0
    classes(here / "others", 12)
    (here / "others/a/03.png").write_bytes(b"no image")
    refused = distill("evaluate", "t", "--data", "others")
    assert refused.code == 3
    assert "--skip-bad" in refused.err
    outcome = distill("evaluate", "t", "--data", "others", "--skip-bad", "--json")
    assert outcome.code == 0, outcome.err
    assert "skipped 1 image that cannot be read" in outcome.err
