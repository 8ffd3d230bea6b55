"""Other images of the same samples, which live teachers see in place of the student's: --teacher-data."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from distill_cli.data.dataset import open_dataset
from distill_cli.data.reading import read_parallel
from distill_cli.data.rules import DataRules
from distill_cli.data.split_images import ImageTable
from distill_cli.errors import UsageError
from distill_cli.models import load_model
from distill_cli.pipeline.inputs.teacher_data import check_teacher_data
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.training.loop import Trainer
from distill_cli.types import EARLIER_FRAMING, Batch
from tests.conftest import Outcome, invoke, on_host
from tests.data.pictures import LEFT, TOP, listing, picture
from tests.reliability import Reliability
from tests.saved import same

Distill = Callable[..., Outcome]
CLASSES: dict[str, list[str]] = {"both": [LEFT, TOP], "left": [LEFT], "top": [TOP]}
EXACT = ("--precision", "fp32", "--model", "mlp_16x1", "--augment", "shift:1")
BRIEF = (*EXACT, "--epochs", 2, "-b", 8, "--lr", 0.02, "--quiet")


def sharp(folder: Path, *, colour: bool = False, side: int = 16) -> Path:
    """Class folders of three splits, in which the classes can be told apart."""
    for name, bright in CLASSES.items():
        for split, count in (("train", 10), ("test", 8)):
            for number in range(count):
                path = folder / split / name / f"{number:03}.png"
                picture(path, bright, seed=1000 * len(split) + number, side=side)
                if colour:
                    Image.merge(
                        "RGB", [*[Image.open(path)] * 2, Image.new("L", (side, side), 9)]
                    ).save(path)
    return folder


def dull(folder: Path, like: Path) -> Path:
    """The same samples by their ids, of half the size, in which there is nothing but noise."""
    generator = np.random.default_rng(7)
    for file in sorted(like.rglob("*.png")):
        path = folder / file.relative_to(like)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 60, (8, 8)).astype(np.uint8)).save(path)
    return folder


@dataclass(frozen=True)
class Made:
    sharp: Path
    dull: Path
    teacher: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images, other ones of the same samples, and a teacher that was trained on these; never to be changed."""
    folder = tmp_path_factory.mktemp("teacher-data")
    seen = sharp(folder / "sharp")
    found = Made(seen, dull(folder / "dull", seen), folder / "teacher")
    train = ("teacher", "train", *EXACT, "--quiet", "--data", seen, "--epochs", 12, "--lr", 0.05)
    outcome = invoke(*train, "--out", found.teacher)
    assert outcome.code == 0, outcome.err
    return found


def student(made: Made, *more: object, out: str = "s") -> tuple[object, ...]:
    return ("student", *BRIEF, "--teachers", made.teacher, "--data", made.dull, "--out", out, *more)


def result_of(run: Path) -> dict[str, float]:
    return dict(json.loads((run / "result.json").read_text()))


@on_host
def test_teachers_see_the_other_images(
    made: Made, here: Path, distill: Distill, shown: list[Batch]
) -> None:
    """The counterpart of each sample, moved as the student's is; gated and compared on them too."""
    talks = [part for part in student(made, "--teacher-data", made.sharp) if part != "--quiet"]
    outcome = distill(*talks)
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "teachers see sharp: 16×16 grey as they were trained on; 30 of 30 training" in err
    assert "3 of 3 held-out, 24 of 24 test images matched by sample id" in err
    train = open_dataset(str(made.sharp)).train
    for batch in shown:
        assert batch.teacher_TCHW is not None
        assert batch.teacher_TCHW.shape[1:] == (1, 16, 16)
        for row, image_HW in zip(batch.index_B.tolist(), batch.teacher_TCHW[:, 0], strict=True):
            whole = train.images_NCHW[row, 0] / 255
            shifts = [
                torch.roll(whole, (down, right), (0, 1))[1:-1, 1:-1]
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
            ]
            assert any(torch.allclose(image_HW[1:-1, 1:-1], one) for one in shifts)
    figures = result_of(here / "s")
    network = load_model(made.teacher)
    held_out = open_dataset(str(made.sharp)).val
    right = network(held_out.images_NCHW / 255).argmax(dim=1) == held_out.label_N
    assert f"right on {100 * float(right.double().mean()):.1f} % of 3 held-out images" in err
    test = open_dataset(str(made.sharp)).test
    said_N = network(test.images_NCHW / 255).argmax(dim=1)
    answered_N = load_model(here / "s")(open_dataset(str(made.dull)).test.images_NCHW / 255).argmax(
        dim=1
    )
    assert figures["teacher_agreement"] == pytest.approx(
        float((said_N == answered_N).double().mean())
    )
    kept = yaml.safe_load((here / "s/recipe.yaml").read_text())
    assert kept["teacher_data"] == str(made.sharp)
    assert kept["recorded"]["teacher_data"]["height"] == 16


@on_host
def test_both_move_alike(made: Made, here: Path, distill: Distill, shown: list[Batch]) -> None:
    """Under one augmentation; under another for the teacher the draws are apart, as without other images."""
    same_images = ("--teacher-data", made.sharp, "--data", made.sharp, "--force")
    base = [part for part in student(made) if part not in ("--data", made.dull)]
    outcome = distill(*base, *same_images)
    assert outcome.code == 0, outcome.err
    for batch in shown:
        assert batch.teacher_TCHW is not None
        assert batch.teacher_TCHW.equal(batch.images_BCHW)
    shown.clear()
    outcome = distill(*base, *same_images, "--teacher-augment", "none", "--overwrite")
    assert outcome.code == 0, outcome.err
    train = open_dataset(str(made.sharp)).train
    for batch in shown:
        assert batch.teacher_TCHW is not None
        assert batch.teacher_TCHW.equal(train.images_NCHW[batch.index_B] / 255)


def test_resumed_to_the_bit(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And refused with images of another content; the place may be another."""
    more = ("--teacher-data", made.sharp)
    assert distill(*student(made, *more)).code == 0
    plain, taken = Trainer.train_step, [0]

    def step(self: Trainer, batch: Batch) -> object:
        taken[0] += 1
        if taken[0] == 3:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        assert distill(*student(made, *more, out="r")).code == 143
    other = sharp(here / "other", side=17)
    refused = distill(*student(made, "--teacher-data", other, "--resume", out="r"))
    assert refused.code == 3
    assert "teacher_data.fingerprint" in refused.err
    moved = shutil.copytree(made.sharp, here / "moved")
    resumed = distill("student", "--resume", "--out", "r", "--quiet", "--teacher-data", moved)
    assert resumed.code == 0, resumed.err
    assert same(here / "s", here / "r")


@on_host
@pytest.mark.parametrize("kind", ["colour", "files"])
def test_any_kind_of_images(
    made: Made, here: Path, distill: Distill, shown: list[Batch], kind: str
) -> None:
    """Of another size and colour than the student's, in memory or read by workers; a dry run reads neither."""
    side = 16 if kind == "colour" else 140
    sharp(here / "seen", colour=kind == "colour", side=side)
    train = ("teacher", "train", *EXACT, "--quiet", "--data", "seen", "--epochs", 1, "-j", 0)
    assert distill(*train, "--out", "t").code == 0
    shown.clear()
    taught = ("student", *BRIEF, "--teachers", "t", "--data", made.dull, "--teacher-data", "seen")
    outcome = distill(*taught, "--force", "-j", 0, "--out", "s")
    assert outcome.code == 0, outcome.err
    for batch in shown:
        assert batch.teacher_TCHW is not None
        assert batch.teacher_TCHW.shape[1:] == (3 if kind == "colour" else 1, side, side)
    if kind == "files":
        dry = distill(*taught, "-j", 0, "--out", "dry", "--dry-run")
        assert dry.code == 0, dry.err
        assert not (here / "dry").exists()


@pytest.mark.parametrize("kind", ["splits", "csv", "column", "whole"])
def test_images_are_matched_by_id(made: Made, here: Path, kind: str) -> None:
    """In any source, with splits or without, in whatever order its images lie."""
    data, spec = open_dataset(str(made.dull)), made.sharp
    if kind != "splits":
        paths = sorted(made.sharp.rglob("*.png"), reverse=True)
        # Ids that tell the splits apart, where the source does not.
        names = [str(path.relative_to(made.sharp)).replace("/", "-", 1) for path in paths]
        for path, name in zip(paths, names, strict=True):
            (here / "seen" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, here / "seen" / name)
        split = ",split" if kind == "column" else ""
        lines = [f"{name}{split and f',{name[:5].rstrip(chr(45))}'}" for name in names]
        spec = here / "seen"
        if kind != "whole":
            spec = listing(here / "seen/all.csv", [f"file{split}", *lines])
    parallel = read_parallel(
        str(spec), None, False, EARLIER_FRAMING, 0, lambda done, total: None, False, DataRules()
    )
    assert parallel.whole == (kind in ("csv", "whole"))
    for split, images in (("train", data.train), ("test", data.test)):
        ids = images.sample_ids
        if kind != "splits":
            ids = tuple(f"{split}-{name}" for name in ids)
        matched = parallel.matched(split, replace(images, sample_ids=ids))
        assert not matched.missing.any()
        assert isinstance(matched.images, ImageTable)
        for name, pixels_1HW in zip(images.sample_ids, matched.images.images_NCHW, strict=True):
            with Image.open(made.sharp / split / name) as picture:
                assert (np.asarray(picture) == pixels_1HW[0].numpy()).all()
    absent = replace(data.train, sample_ids=("nobody", *data.train.sample_ids[1:]))
    assert parallel.matched("train", absent).missing[0]


def test_ids_that_are_missing(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    """Of images to train on they are refused; without test images there is no comparison."""
    less = shutil.copytree(made.sharp, here / "less")
    shutil.rmtree(less / "test")
    outcome = distill(*student(made, "--teacher-data", "less"))
    assert outcome.code == 0, outcome.err
    assert result_of(here / "s")["teacher_agreement"] is None
    for number in range(5):
        (less / f"train/top/{number:03}.png").unlink()
    outcome = distill(*student(made, "--teacher-data", "less", out="n"))
    assert outcome.code == 3
    assert "of 27 training images have no counterpart in --teacher-data" in outcome.err
    assert "top/00" in outcome.err
    assert not (here / "n").exists()
    reliability(
        "Data",
        "images to train on that are not in the teachers' images",
        "distill student --teacher-data DATA",
        outcome,
    )


def test_what_cannot_be_read_is_missing(made: Made, here: Path, distill: Distill) -> None:
    seen = shutil.copytree(made.sharp, here / "seen")
    kept = open_dataset(str(made.dull))
    [row] = kept.fit_rows[:1].tolist()
    bad = seen / "train" / kept.train.sample_ids[row]
    bad.write_bytes(bad.read_bytes()[:60])
    outcome = distill(*student(made, "--teacher-data", seen))
    assert outcome.code == 3
    assert f"cannot read image {bad}" in outcome.err
    outcome = distill(*student(made, "--teacher-data", seen, "--set", "skip_bad=true"))
    assert outcome.code == 3
    assert "1 of 27 training images has no counterpart" in outcome.err


def test_ids_of_several_samples(made: Made, here: Path, distill: Distill) -> None:
    flat = shutil.copytree(made.sharp / "train", here / "flat")
    outcome = distill(*student(made, "--teacher-data", flat))
    assert outcome.code == 3
    assert "24 sample ids of --data are in several of its splits (both/000.png" in outcome.err


def test_what_is_refused(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--quiet", "--out", "labels")
    assert distill(*dump).code == 0
    base = ("student", *BRIEF, "--data", made.dull, "--teacher-data", made.sharp, "--out", "s")
    outcome = distill(*base, "--teachers", "labels")
    assert outcome.code == 3
    assert "cache labels was made of other data" in outcome.err
    assert "Name the run that it was dumped from" in outcome.err
    reliability(
        "Caches",
        "a cache among teachers that are shown other images",
        "distill student --teachers CACHE --teacher-data DATA",
        outcome,
    )
    for more, code, text in (
        (("--hints",), 2, "--hints has its first stage learn"),
        (("--augment", "shift:1,mixup"), 2, "they do not go with --teacher-data"),
        (("--teacher-data", "nowhere"), 2, "--teacher-data nowhere does not exist"),
    ):
        outcome = distill(*base, "--teachers", made.teacher, *more)
        assert (outcome.code, text in outcome.err) == (code, True), outcome.err
    recipe = validate(StudentRecipe, {"teachers": "ema", "teacher_data": str(made.sharp)})
    with pytest.raises(UsageError, match="teacher ema is the student itself"):
        check_teacher_data(recipe, ["ema"])


def test_layers_and_unlabelled_images(made: Made, here: Path, distill: Distill) -> None:
    """The teacher's layers are of what it sees; images of --unlabelled need a counterpart too."""
    outcome = distill(*student(made, "--teacher-data", made.sharp, "--objective", "similarity"))
    assert outcome.code == 0, outcome.err
    more = here / "more"
    picture(more / "a.png", [LEFT], seed=5)
    both = ("--teacher-data", "seen", "--unlabelled", more)
    seen = shutil.copytree(made.sharp, here / "seen")
    outcome = distill(*student(made, *both, out="u"))
    assert outcome.code == 3
    assert "1 of 28 training images has no counterpart" in outcome.err
    picture(seen / "train/unlabelled/a.png", [LEFT], seed=6, side=16)
    outcome = distill(*student(made, *both, out="u"))
    assert outcome.code == 0, outcome.err


def test_test_images_are_learnt_where_somebody_labels_them(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    """A cache or counterparts without them are refused by what is the matter, and a cache with them serves."""
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--quiet", "--force")
    assert distill(*dump, "--out", "c").code == 0
    assert distill(*dump, "--unlabelled", made.dull / "train", "--out", "other").code == 0
    assert distill(*dump, "--unlabelled", made.sharp / "test", "--out", "test").code == 0
    student = (
        "student",
        "--transductive",
        "--force",
        "--model",
        "mlp_8x1",
        "--epochs",
        1,
        "--quiet",
    )
    student = (*student, "--data", made.sharp, "--out", "s")
    none = "it holds no labels to learn the test images by, as --transductive does. "
    dumped = "or dump again with --unlabelled and the folder of the test images"
    shown = ("--teacher-data", made.sharp)
    for args, words in (
        (("--teachers", "c"), (none, dumped)),
        (("--teachers", "other"), (none, dumped)),
        (("--teachers", "other", "--dry-run"), (none, dumped)),
        (("--teachers", "c", *shown), (f"{none}Leave --transductive out",)),
        (
            ("--teachers", made.teacher, *shown),
            ("has no counterparts for them", "Leave one of them out"),
        ),
        (("--teachers", "test", *shown), ("has no counterparts for them", "Leave one of them out")),
    ):
        outcome = distill(*student, *args)
        assert outcome.code == 3, outcome.err
        assert all(text in outcome.err for text in words), outcome.err
        assert not (here / "s").exists()
    reliability(
        *("Data", "a cache has no labels of the test images, which are to be learnt"),
        *("distill student --teachers c --transductive", distill(*student, "--teachers", "c")),
    )
    outcome = distill(*dump, "--transductive", "--out", "x")
    assert (outcome.code, "where --unlabelled names their folder" in outcome.err) == (2, True)
    outcome = distill(*student, "--teachers", "test")
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load((here / "s/recipe.yaml").read_text())
    assert (recipe["transductive"], recipe["unlabelled"]) == (True, None)
