"""What is said where a run cannot go on, or its data have moved: what differs, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from distill_cli.data import source
from distill_cli.errors import ArtifactError
from tests.cli.test_cache import shapes
from tests.cli.test_faults import one_line
from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--augment", "none")


def test_other_options_are_named_with_both_values(here: Path, distill: Distill) -> None:
    train = (*TRAIN, "--epochs", 1, "--out", "r")
    assert distill(*train, "--quiet").code == 0
    more = ("teacher", "train", "--resume", "--out", "r", "--quiet")
    outcome = distill(*more, "--epochs", 3)
    assert outcome.code == 3
    line = one_line(outcome)
    assert "r was started from another recipe or other data: epochs 1 → 3. " in line
    assert line.endswith("for a longer training: --init r --out NEW --epochs 3")
    # What the hint says works, word for word.
    words = line.rpartition("longer training: ")[2].split()
    outcome = distill("teacher", "train", *words, "--quiet")
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load(Path("NEW/recipe.yaml").read_text())["data"] == "digits"
    outcome = distill(*more, "--seed", 5, "--label-smoothing", 0.2)
    assert outcome.code == 3
    line = one_line(outcome)
    assert "seed 0 → 5" in line
    assert "objective.label-smoothing.epsilon nothing → 0.2" in line
    assert "longer training" not in line


def test_the_way_to_a_longer_training_of_a_student_names_its_teachers(
    made: Made, here: Path, distill: Distill
) -> None:
    student = ("student", "--teachers", f"{made.teacher},{made.other}", "--model", "mlp_8x1")
    assert distill(*student, "--epochs", 1, "--out", "s", "--quiet").code == 0
    outcome = distill("student", "--resume", "--out", "s", "--epochs", 2, "--quiet")
    words = one_line(outcome).rpartition("longer training: ")[2].split()
    outcome = distill("student", *words, "--quiet")
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("NEW/result.json").read_text())["best_epoch"] in (1, 2)


def test_a_run_that_starts_from_another_has_its_data_split_and_channels(
    here: Path, distill: Distill
) -> None:
    """It has seen the training rows of that split; and grey views alone fit weights of grey views."""
    shapes(here / "data", 8)
    (here / "data/train/bars/03.png").write_bytes(b"no image")
    train = ("teacher", "train", "--epochs", 1, "-b", 4, "--quiet")
    options = ("--size", 10, "--skip-bad", "--split-seed", 3, "--val-fraction", 0.25)
    first = (*train, "--data", "data", *options, "--channels", 1, "--model", "mlp_8x1")
    assert distill(*first, "--out", "g").code == 0
    outcome = distill(*train, "--init", "g", "--out", "more")
    assert outcome.code == 0, outcome.err
    then, now = (yaml.safe_load(Path(run, "recipe.yaml").read_text()) for run in ("g", "more"))
    keys = ("data", "size", "skip_bad", "split_seed", "val_fraction", "channels")
    assert {key: now[key] for key in keys} == {key: then[key] for key in keys}
    assert now["recorded"]["dataset"] == then["recorded"]["dataset"]
    # Other data are split by their own options; their views have the channels all the same.
    shapes(here / "others", 8)
    outcome = distill(*train, "--init", "g", "--data", "others", "--size", 10, "--out", "o")
    assert outcome.code == 0, outcome.err
    other = yaml.safe_load(Path("o/recipe.yaml").read_text())
    assert (other["channels"], other["split_seed"], other["skip_bad"]) == (1, 0, False)
    # A plain model folder has no recipe that could say so.
    shutil.copytree("g/model", "model")
    again = (*train, "--init", "model", "--data", "others", "--size", 10, "--out", "m")
    line = one_line(distill(*again))
    assert "--init model takes images of 1 channel, and these are read with 3. " in line
    assert line.endswith("Give --channels 1")
    assert distill(*again, "--channels", 1).code == 0


def test_moved_data_of_a_run_that_is_started_from_are_asked_for(
    here: Path, distill: Distill
) -> None:
    shapes(here / "data", 4)
    train = ("teacher", "train", "--epochs", 1, "-b", 4, "--quiet")
    assert distill(*train, "--data", "data", "--model", "mlp_8x1", "--out", "r").code == 0
    shutil.move("data", "moved")
    outcome = distill(*train, "--init", "r", "--out", "new")
    assert outcome.code == 2
    assert "the data of r were at " in one_line(outcome)


def test_parameters_of_objectives_are_named(made: Made, here: Path, distill: Distill) -> None:
    student = ("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--epochs", 1)
    assert distill(*student, "--augment", "none", "--out", "s", "--quiet").code == 0
    outcome = distill("student", "--resume", "--out", "s", "-T", 2, "--quiet")
    assert outcome.code == 3
    assert "objective.kd.temperature 4.0 → 2.0" in one_line(outcome)
    outcome = distill("student", "--resume", "--out", "s", "--teachers", made.other, "--quiet")
    assert outcome.code == 3
    assert "teachers" in one_line(outcome)


def test_other_data_are_named(here: Path, distill: Distill) -> None:
    shapes(here / "data", 8)
    train = ("teacher", "train", "--data", "data", "--model", "mlp_8x1", "--epochs", 1, "-b", 4)
    assert distill(*train, "--out", "r", "--quiet").code == 0
    (here / "data/train/bars/03.png").unlink()
    outcome = distill("teacher", "train", "--resume", "--out", "r", "--quiet")
    assert outcome.code == 3
    line = one_line(outcome)
    assert "dataset.samples 16 → 15" in line
    assert "dataset.fingerprint" in line


def test_stages_name_what_differs(made: Made, here: Path, distill: Distill) -> None:
    chain = ("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--generations", 2)
    assert distill(*chain, "--epochs", 1, "--out", "r", "--quiet").code == 0
    outcome = distill(*chain, "--resume", "--epochs", 2, "--out", "r", "--quiet")
    assert outcome.code == 3
    assert "epochs 1 → 2" in one_line(outcome)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_too_small_for_batch_norm_is_refused_by_its_own_name(
    here: Path, distill: Distill, accumulate: int
) -> None:
    train = ("teacher", "train", "--data", "digits", "--model", "cifar_resnet8", "--epochs", 1)
    outcome = distill(*train, "-b", accumulate, "--accumulate", accumulate, "--out", "r", "--quiet")
    assert outcome.code == 2
    line = one_line(outcome)
    if accumulate == 1:
        assert "--batch-size 1: the network has batch norm" in line
        assert "--accumulate" not in line
    else:
        assert "--accumulate 2: a batch of 2 has not so many parts of two" in line


@pytest.mark.slow
def test_data_that_moved_are_asked_for_by_whose_they_were(here: Path, distill: Distill) -> None:
    shapes(here / "data", 8)
    common = ("--epochs", 1, "--quiet", "--force")
    train = ("teacher", "train", "--data", "data", "--model", "mlp_8x1", "-b", 4)
    assert distill(*train, *common[:3], "--out", "t").code == 0
    dump = ("cache-soft-labels", "--teachers", "t", "--augment", "none", *common[2:])
    assert distill(*dump, "--out", "c").code == 0
    student = ("student", "--model", "mlp_8x1", "-b", 4, *common)
    assert distill(*student, "--teachers", "c", "--out", "s").code == 0
    shutil.move("data", "moved")
    for owner, args in (
        ("t", (*student, "--teachers", "t", "--out", "s2")),
        ("c", (*student, "--teachers", "c", "--out", "s2")),
        ("t", (*dump, "--out", "c2")),
        ("s", ("student", "--resume", "--out", "s", "--quiet")),
        ("t", ("teacher", "train", "--resume", "--out", "t", "--quiet")),
        ("s", ("evaluate", "s")),
        ("c", ("cache", "verify", "c", "--sample", 2, "--quiet")),
    ):
        outcome = distill(*args)
        assert outcome.code in (2, 3), (args, outcome.err)
        line = one_line(outcome)
        assert f"the data of {owner} were at " in line, (args, line)
        assert "Say where they are with --data" in line
    assert not (here / "s2").exists()
    assert distill(*student, "--teachers", "t", "--data", "moved", "--out", "s2").code == 0
    assert distill("evaluate", "s", "--data", "moved").code == 0
    # Of a published cache only the name is left.
    recipe = yaml.safe_load(Path("c/recipe.yaml").read_text())
    Path("c/recipe.yaml").write_text(yaml.safe_dump({**recipe, "data": "photos"}))
    outcome = distill(*student, "--teachers", "c", "--out", "s3")
    assert "the data of c were at photos" in one_line(outcome)


def test_a_reason_that_is_a_sentence_ends_with_one_full_stop(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes(here / "data", 4)

    def refuse(content: bytes, megapixels: int) -> Image.Image:
        raise OSError("The decoder gave up.")

    monkeypatch.setattr(source, "open_image", refuse)
    outcome = distill("teacher", "train", "--data", "data", "--model", "mlp_8x1", "--quiet")
    assert outcome.code == 3
    line = one_line(outcome)
    assert "The decoder gave up. Replace it" in line
    assert ArtifactError("cannot write ..", hint="Go up").args == ("cannot write ... Go up",)


@pytest.mark.slow
def test_a_moved_run_of_stages_goes_on(made: Made, here: Path, distill: Distill) -> None:
    """A stage begins from another one's weights, wherever both are now."""
    stages = "[{name: soft, objective: kd}, {name: hard, init: stage:soft}]"
    recipe = (
        f"command: student\nepochs: 1\nlimit: 50\nmodel: mlp_8x1\nforce: true\nstages: {stages}\n"
    )
    (here / "r.yaml").write_text(recipe)
    outcome = distill(
        *("student", "--recipe", "r.yaml", "--teachers", made.teacher, "--out", "runs/a", "--quiet")
    )
    assert outcome.code == 0, outcome.err
    (here / "runs/a").rename(here / "b")
    (here / "b/result.json").unlink()
    outcome = distill("student", "--resume", "--out", "b", "--quiet")
    assert outcome.code == 0, outcome.err
