"""Images without labels from a source of their own, behind the rows of train: --unlabelled."""

from __future__ import annotations

import json
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from distill_cli.cache.manifest import read_plan
from distill_cli.cache.reader import CacheReader
from distill_cli.data.dataset import open_dataset
from distill_cli.data.open_splits import open_splits
from distill_cli.data.unlabelled import open_unlabelled
from distill_cli.training.loop import Trainer
from distill_cli.types import Batch
from tests.conftest import Outcome, invoke, on_host
from tests.data.pictures import LEFT, TOP, listing, picture
from tests.reliability import Reliability
from tests.saved import same

Distill = Callable[..., Outcome]
CLASSES: dict[str, list[str]] = {"both": [LEFT, TOP], "left": [LEFT], "top": [TOP]}
LABELLED, OTHERS = 10, 40
EXACT = ("--precision", "fp32", "--model", "mlp_16x1", "--augment", "shift:1", "--quiet")
BRIEF = (*EXACT, "--epochs", 2, "-b", 16, "--lr", 0.02)


def labelled(folder: Path, *, side: int = 8) -> Path:
    """Class folders of three splits: ten of each class to train on, of which one is held out."""
    for name, bright in CLASSES.items():
        for split, count in (("train", LABELLED), ("test", 12)):
            for number in range(count):
                path = folder / split / name / f"{number:03}.png"
                picture(path, bright, seed=1000 * len(split) + number, side=side)
    return folder


def others(folder: Path, *, count: int = OTHERS, side: int = 8) -> Path:
    """A flat folder of images that nobody labelled."""
    for number in range(count):
        bright = list(CLASSES.values())[number % 3]
        picture(folder / f"{number:03}.png", bright, seed=9000 + number, side=side)
    return folder


@dataclass(frozen=True)
class Made:
    data: Path
    more: Path
    teacher: Path
    labels: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images, more of them without labels, a teacher, and its labels of all; never to be changed."""
    folder = tmp_path_factory.mktemp("unlabelled-source")
    found = Made(
        labelled(folder / "data"), others(folder / "more"), folder / "teacher", folder / "labels"
    )
    train = ("teacher", "train", *EXACT, "--data", found.data, "--epochs", 12, "--lr", 0.05)
    outcome = invoke(*train, "--out", found.teacher)
    assert outcome.code == 0, outcome.err
    dump = (
        "cache-soft-labels",
        "--teachers",
        found.teacher,
        "--unlabelled",
        found.more,
        "--views",
        2,
    )
    outcome = invoke(*dump, *DUMP, "--out", found.labels)
    assert outcome.code == 0, outcome.err
    return found


DUMP = ("--augment", "shift:1", "--shard-length", 16, "--quiet")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that runs are shown."""
    batches: list[Batch] = []
    plain = Trainer.train_step
    monkeypatch.setattr(
        Trainer, "train_step", lambda self, batch: (batches.append(batch), plain(self, batch))[1]
    )
    return batches


def stopped_after(steps: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Outcome]) -> None:
    """Runs a command that is asked to stop in a step."""
    plain, taken = Trainer.train_step, [0]

    def step(self: Trainer, batch: Batch) -> object:
        taken[0] += 1
        if taken[0] == steps:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        assert run().code == 128 + signal.SIGTERM


def recipe_of(folder: Path) -> dict[str, object]:
    return dict(yaml.safe_load((folder / "recipe.yaml").read_text()))


def test_rows_follow_those_of_train(made: Made) -> None:
    """Which keep their numbers, labels and held-out rows; the identity is theirs, with a key more."""
    plain = open_dataset(str(made.data))
    data = open_dataset(str(made.data), unlabelled=str(made.more))
    assert data.train.sample_ids[:30] == plain.train.sample_ids
    assert data.train.sample_ids[30:] == tuple(f"unlabelled/{n:03}.png" for n in range(OTHERS))
    assert data.train.label_N.tolist() == plain.train.label_N.tolist() + [-1] * OTHERS
    assert data.fit_rows.tolist() == plain.fit_rows.tolist() + list(range(30, 30 + OTHERS))
    assert data.val.sample_ids == plain.val.sample_ids
    assert data.test.sample_ids == plain.test.sample_ids
    assert data.identity.with_unlabelled_of(None) == plain.identity
    assert (data.identity.samples, data.identity.rows) == (30, 30 + OTHERS)
    assert "unlabelled" not in plain.identity.to_json()
    assert type(data.identity).from_json(data.identity.to_json()) == data.identity
    assert data.mean != plain.mean, "statistics are over all images to train on"


@pytest.mark.parametrize("kind", ["classes", "splits", "flat splits", "tar", "csv", "column"])
def test_any_source(made: Made, tmp_path: Path, kind: str) -> None:
    """Its labels are not looked at; of splits only train is, and all where there are none."""
    spec, expected = tmp_path / "more", [f"{n:03}.png" for n in range(OTHERS)]
    if kind == "tar":
        with tarfile.open(spec := tmp_path / "more.tar", "w") as tar:
            tar.add(made.more, "")
    elif kind in ("csv", "column"):
        shutil.copytree(made.more, tmp_path, dirs_exist_ok=True)
        split = "train" if kind == "column" else "x"
        lines = [f"{name},{split}" for name in expected[:-1]] + [f"{expected[-1]},test"]
        spec = listing(
            tmp_path / "more.csv", ["file,split" if kind == "column" else "file,note", *lines]
        )
        expected = expected[:-1] if kind == "column" else expected
    else:
        parts = {
            "classes": ("a", "b"),
            "splits": ("train/a", "test/a"),
            "flat splits": ("train", "test"),
        }
        for number, name in enumerate(expected):
            path = spec / parts[kind][number % 2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made.more / name, path)
        first = 1 if kind == "classes" else 2
        below = [f"{parts[kind][n % 2]}/{name}" for n, name in enumerate(expected)]
        expected = sorted(below) if first == 1 else below[::2]
    data = open_dataset(str(made.data), unlabelled=str(spec))
    ids = [name.removeprefix("unlabelled/") for name in data.train.sample_ids[30:]]
    assert ids == expected
    assert set(data.train.label_N[30:].tolist()) == {-1}
    glanced = open_dataset(str(made.data), unlabelled=str(spec), glance=True)
    assert glanced.identity.rows == data.identity.rows
    again = open_dataset(str(made.data), unlabelled=str(spec))
    assert again.identity == data.identity


def test_of_built_in_data_the_train_split() -> None:
    source = open_unlabelled("digits")["train"]
    assert len(source) == len(open_splits("digits")["train"]) < 1797
    assert source.sample_id(0) == "unlabelled/index:0"
    assert {source.label(row) for row in range(len(source))} == {-1}


def test_images_are_made_alike(made: Made, tmp_path: Path) -> None:
    """In the size and channels of the data; of large ones, read by workers too."""
    data = open_dataset(str(made.data), unlabelled=str(others(tmp_path / "u", count=3, side=20)))
    assert data.train.size == (1, 8, 8)
    assert not data.from_files
    large = labelled(tmp_path / "large", side=130)
    data = open_dataset(str(large), unlabelled=str(made.more))
    assert data.from_files
    assert data.train.size == (1, 130, 130)
    alone = open_dataset(str(large))
    parts = [next(part.iter_plain()) for part in (alone.train, data.train)]
    assert parts[1][: len(parts[0])].equal(parts[0])
    assert len(parts[1]) == 30 + OTHERS


@on_host
@pytest.mark.parametrize("side", [8, 130])
def test_a_student_learns_from_them(
    made: Made,
    here: Path,
    distill: Distill,
    shown: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
    side: int,
) -> None:
    """From tables and from files, in two halves to the bit of one; the header says how many."""
    data = made.data if side == 8 else labelled(here / "large", side=side)
    talks = [part for part in BRIEF if part != "--quiet"]
    student = ("student", *talks, "--teachers", made.teacher, "--data", data, "-j", 0)
    student = (*student, "--unlabelled", made.more)
    outcome = distill(*student, "--out", "s")
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert (
        "66 images used; 27 to train on, 3 held out, 36 test; + 40 unlabelled images of more" in err
    )
    rows = {int(row) for batch in shown for row in batch.index_B}
    # An epoch is four whole batches of 16: three of the 67 images are left over, other ones in each.
    assert 64 <= len(rows) <= 67
    assert rows <= set(open_dataset(str(data), unlabelled=str(made.more)).fit_rows.tolist())
    kept = recipe_of(here / "s")
    assert kept["unlabelled"] == str(made.more)
    recorded = kept["recorded"]
    assert isinstance(recorded, dict)
    assert recorded["dataset"]["unlabelled_samples"] == OTHERS
    if side == 8:
        stopped_after(3, monkeypatch, lambda: distill(*student, "--out", "r"))
        resumed = distill(*student, "--out", "r", "--resume")
        assert resumed.code == 0, resumed.err
        assert same(here / "s", here / "r")
        other = others(here / "other", count=OTHERS + 1)
        outcome = distill("student", "--resume", "--out", "r", "--unlabelled", other, "--quiet")
        assert outcome.code == 3
        assert "dataset.unlabelled" in outcome.err


def test_a_cache_has_their_labels(made: Made, here: Path, distill: Distill) -> None:
    plan = read_plan(made.labels)
    assert (plan.dataset.samples, plan.dataset.rows) == (30, 30 + OTHERS)
    reader = CacheReader(made.labels)
    ids = reader.sample_ids()
    assert ids is not None
    assert ids[30] == "unlabelled/000.png"
    verified = distill("cache", "verify", made.labels, "--sample", 100, "--json")
    assert verified.code == 0, verified.err
    assert json.loads(verified.out)["caches"][0]["replay"]["views"] == 100
    for part in ("1/2", "2/2"):
        dump = ("cache-soft-labels", "--teachers", made.teacher, "--unlabelled", made.more, *DUMP)
        outcome = distill(*dump, "--views", 2, "--part", part, "--out", f"p{part[0]}")
        assert outcome.code == 0, outcome.err
    assert distill("cache", "merge", "p1", "p2", "--out", "whole", "--quiet").code == 0
    for file in sorted(made.labels.rglob("*.safetensors")):
        assert file.read_bytes() == (here / "whole" / file.relative_to(made.labels)).read_bytes()
    exported = distill("cache", "export", made.labels, "--out", "labels.csv")
    assert f"--unlabelled {made.more}" in exported.err
    read = (
        "cache",
        "import",
        "labels.csv",
        "--kind",
        "logits",
        "--augment",
        "shift:1",
        "--views",
        2,
    )
    outcome = distill(*read, "--data", made.data, "--unlabelled", made.more, "--out", "back")
    assert outcome.code == 0, outcome.err
    assert read_plan(here / "back").dataset == plan.dataset
    alone = distill("cache-soft-labels", "--teachers", made.teacher, *DUMP, "--out", "alone")
    assert alone.code == 0, alone.err
    assert set(json.loads((here / "alone/plan.json").read_text())["dataset"]) == {
        *("fingerprint", "ids_digest", "samples")
    }


def test_a_student_of_a_cache_adopts_them(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    """Where they lie elsewhere now, they are named again; others, or none, are refused."""
    student = ("student", *BRIEF, "--teachers")
    outcome = distill(*student, made.labels, "--out", "s")
    assert outcome.code == 0, outcome.err
    assert recipe_of(here / "s")["unlabelled"] == str(made.more)
    live = distill(*student, made.teacher, "--unlabelled", made.more, "--out", "live")
    assert live.code == 0, live.err
    for dry in ([], ["--dry-run"]):
        other = others(here / "other", count=OTHERS + 1)
        outcome = distill(*student, made.labels, "--unlabelled", other, "--out", "o", *dry)
        assert outcome.code == 3
        assert "--unlabelled names other images here than the 40 unlabelled images" in outcome.err
    moved = shutil.copytree(made.labels, here / "moved")
    recipe = recipe_of(moved) | {"unlabelled": str(here / "gone")}
    (moved / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    outcome = distill(*student, "moved", "--out", "m")
    assert outcome.code == 2
    assert "the unlabelled images of moved were at" in outcome.err
    assert "Say where they are with --unlabelled" in outcome.err
    assert distill(*student, "moved", "--unlabelled", made.more, "--out", "m").code == 0
    assert same(here / "m", here / "s")
    (moved / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"unlabelled": None}))
    outcome = distill(*student, "moved", "--out", "n")
    assert outcome.code == 3
    assert "it labels 40 unlabelled images beside them, which --unlabelled names" in outcome.err
    reliability(
        "Data",
        "a cache of other unlabelled images than the run's",
        "distill student --teachers CACHE --unlabelled DATA",
        outcome,
    )
    alone = distill("cache-soft-labels", "--teachers", made.teacher, *DUMP, "--out", "alone")
    assert alone.code == 0, alone.err
    outcome = distill(*student, "alone", "--unlabelled", made.more, "--out", "n")
    assert outcome.code == 3
    assert "it was made without --unlabelled" in outcome.err


def test_some_of_them_are_taken(made: Made, here: Path, distill: Distill) -> None:
    """By --limit, and the first line says how many."""
    student = ("student", *BRIEF, "--teachers", made.teacher, "--unlabelled", made.more)
    student = tuple(part for part in student if part != "--quiet")
    outcome = distill(*student, "--limit", 20, "--out", "s", "--dry-run")
    assert outcome.code == 0, outcome.err
    found = re.search(
        r"(\d+) to train on, 3 held out, 36 test; \+ (\d+) of 40 unlabelled", outcome.err
    )
    assert found is not None, outcome.err
    assert int(found[1]) <= 20
    assert 0 < int(found[2]) < 40


def test_stages_learn_from_them(made: Made, here: Path, distill: Distill) -> None:
    """Each one that can: the second generation of a cache's too, and no copy that hard labels train."""
    talks = [part for part in BRIEF if part != "--quiet"]
    student = ("student", *talks, "--teachers", made.labels, "--generations", 2, "--dry-run")
    outcome = distill(*student, "--out", "g")
    assert outcome.code == 0, outcome.err
    assert " ".join(outcome.err.split()).count("+ 40 unlabelled images of more") == 2
    teach = (
        "teacher",
        "train",
        *talks,
        "--data",
        made.data,
        "--unlabelled",
        made.more,
        "--dry-run",
    )
    outcome = distill(*teach, "--objective", "tfkd-self", "--out", "t")
    assert outcome.code == 0, outcome.err
    assert " ".join(outcome.err.split()).count("+ 40 unlabelled images of more") == 1


def test_hard_labels_learn_nothing_from_them(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.more, here / "more")
    teach = ("teacher", "train", *BRIEF, "--data", made.data, "--unlabelled", "more")
    outcome = distill(*teach, "--out", "t")
    assert outcome.code == 2
    assert (
        "ce learns from labels alone, and nothing would be learnt from these images" in outcome.err
    )
    reliability(
        "Data",
        "--unlabelled for hard labels alone",
        "distill teacher train --unlabelled DATA",
        outcome,
    )
    student = ("student", *BRIEF, "--objective", "dkd", "--teachers")
    outcome = distill(*student, made.teacher, "--unlabelled", made.more, "--out", "s")
    assert outcome.code == 2
    assert "ce and dkd learn from labels alone" in outcome.err
    # Of a cache that has them, the labelled rows are learnt from.
    outcome = distill(*student, made.labels, "--out", "s")
    assert outcome.code == 0, outcome.err


def test_copies_are_said_and_left_out(made: Made, here: Path, distill: Distill) -> None:
    """Those in test above all: an --unlabelled that is the test folder itself."""
    more = shutil.copytree(made.more, here / "more")
    for number, name in enumerate(("train/left/000.png", "test/left/000.png", "test/top/001.png")):
        shutil.copy(made.data / name, more / f"copy-{number}.png")
    student = ("student", *BRIEF, "--teachers", made.teacher, "--dry-run")
    student = tuple(part for part in student if part != "--quiet")
    outcome = distill(*student, "--unlabelled", more)
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "copies: 1 of --unlabelled in train, 2 of --unlabelled in test (--dedupe leaves" in err
    outcome = distill(*student, "--unlabelled", more, "--set", "dedupe=true")
    assert outcome.code == 0, outcome.err
    err = " ".join(outcome.err.split())
    assert "+ 40 unlabelled images of more" in err
    assert "left out 3 copies" in err
    test = made.data / "test"
    outcome = distill(*student, "--unlabelled", test)
    assert "36 of --unlabelled in test" in " ".join(outcome.err.split())
    outcome = distill(*student, "--unlabelled", test, "--set", "dedupe=true")
    assert outcome.code == 3
    assert "is a copy, and --dedupe leaves none" in outcome.err


def test_what_cannot_be_read(made: Made, here: Path, distill: Distill) -> None:
    more = shutil.copytree(made.more, here / "more")
    (more / "bad.png").write_bytes((more / "000.png").read_bytes()[:60])
    (more / "notes.txt").write_text("none of the images")
    student = ("student", *BRIEF, "--teachers", made.teacher, "--unlabelled", "more", "--out", "s")
    outcome = distill(*student)
    assert outcome.code == 3
    assert "bad.png" in outcome.err
    outcome = distill(*student, "--set", "skip_bad=true")
    assert outcome.code == 0, outcome.err
    lines = (here / "s/skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["unlabelled/bad.png", "unlabelled/notes.txt"]
    recorded = recipe_of(here / "s")["recorded"]
    assert isinstance(recorded, dict)
    assert recorded["skipped_images"] == 1


def test_what_is_no_source(made: Made, here: Path, distill: Distill) -> None:
    (here / "empty").mkdir()
    others(here / "only/test", count=2)
    clash = labelled(here / "clash")
    (clash / "train/both").rename(clash / "train/unlabelled")
    (clash / "test/both").rename(clash / "test/unlabelled")
    student = ("student", *BRIEF, "--teachers", made.teacher, "--out", "s", "--unlabelled")
    for spec, code, text in (
        ("nowhere", 2, "--unlabelled nowhere does not exist"),
        ("empty", 3, "holds no images"),
        ("only", 3, "has test/ and no train/"),
    ):
        outcome = distill(*student, spec)
        assert (outcome.code, text in outcome.err) == (code, True), outcome.err
    teach = (
        "teacher",
        "train",
        *EXACT,
        "--data",
        clash,
        "--epochs",
        12,
        "--lr",
        0.05,
        "--out",
        "t",
    )
    assert distill(*teach).code == 0
    student = ("student", *BRIEF, "--teachers", "t", "--unlabelled", made.more, "--out", "s")
    outcome = distill(*student)
    assert outcome.code == 3
    assert "10 sample ids of --unlabelled" in outcome.err
    assert "Give the folder unlabelled/ of --data another name" in outcome.err
    assert not (here / "s").exists()


def test_several_labels(here: Path, distill: Distill) -> None:
    """An image without labels is none to which no label applies: nothing is learnt of it but by kd."""
    lines = ["file,labels,split"]
    for number in range(48):
        bright = [name for bit, name in enumerate((LEFT, TOP)) if number >> bit & 1]
        picture(here / f"d/{number:03}.png", bright, seed=number)
        split = "test" if number % 4 == number // 4 % 4 else "train"
        lines.append(f"{number:03}.png,{';'.join(bright)},{split}")
    data, more = listing(here / "d/all.csv", lines), others(here / "more", count=8)
    teach = ("teacher", "train", *BRIEF, "--data", data, "--out", "t")
    assert distill(*teach).code == 0
    refused = distill(*teach, "--overwrite", "--unlabelled", more)
    assert refused.code == 2
    student = ("student", *BRIEF, "--teachers", "t", "--unlabelled", more, "--out", "s", "--force")
    outcome = distill(*student)
    assert outcome.code == 0, outcome.err
