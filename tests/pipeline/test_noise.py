"""Estimates of label noise: on answers whose matrix is known, and of a run through the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.data.dataset import open_dataset
from distill_cli.models import load_model
from distill_cli.pipeline.inputs.class_groups import rule_of
from distill_cli.pipeline.inputs.noise_matrix import read_noise, write_noise
from distill_cli.pipeline.noise import noise_from
from tests.conftest import Made, Outcome, tree

Distill = Callable[..., Outcome]
NAMES = tuple("abcd")


def noise(seed: int, classes: int = 4) -> Tensor:
    """A matrix whose labels are right more often than wrong in any one way."""
    draw = torch.rand(
        classes, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    mixed = draw / draw.sum(dim=1, keepdim=True) * 0.4
    return mixed + 0.6 * torch.eye(classes, dtype=torch.float64)


def answers(noise_KK: Tensor, counts: list[int], seed: int, anchors: float = 0.3) -> Tensor:
    """Answers on noisy labels: for a share of anchors the class is sure, the others lie between."""
    generator = torch.Generator().manual_seed(seed)
    clean = []
    for label, number in enumerate(counts):
        sure = torch.rand(number, 1, generator=generator, dtype=torch.float64) < anchors
        sure[: max(1, int(0.04 * sum(counts)))] = True
        spread = torch.rand(number, len(counts), generator=generator, dtype=torch.float64)
        spread = 0.5 * spread / spread.sum(dim=1, keepdim=True)
        spread[:, label] += 0.5
        one = F.one_hot(torch.tensor(label), len(counts)).double()
        clean.append(torch.where(sure, one, spread))
    rows = torch.cat(clean)
    return (rows @ noise_KK)[torch.randperm(len(rows), generator=generator)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("percentile", [97, 100])
def test_a_known_matrix_is_recovered(seed: int, percentile: float) -> None:
    known = noise(seed)
    found = noise_from(answers(known, [100, 120, 80, 100], seed), percentile, NAMES)
    torch.testing.assert_close(found.noise_KK, known, rtol=1e-9, atol=1e-9)
    assert (found.by_maximum, found.never, found.samples) == ((), (), 400)


def test_samples_that_were_learnt_by_heart_spoil_the_maximum_alone() -> None:
    known = noise(1)
    probs = answers(known, [100] * 4, 1)
    learnt = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    probs = torch.cat([probs, learnt])
    torch.testing.assert_close(noise_from(probs, 97, NAMES).noise_KK, known, rtol=1e-9, atol=1e-9)
    assert torch.equal(noise_from(probs, 100, NAMES).noise_KK, torch.eye(4, dtype=torch.float64))


def test_a_class_that_the_percentile_misses_has_its_surest_sample() -> None:
    """One class of 2 %, and as many classes as each has less than 3 %; and it is told."""
    known = noise(2)
    counts = [200, 200, 8, 200]
    probs = answers(known, counts, 2, anchors=1.0)
    found = noise_from(probs, 97, NAMES)
    assert found.by_maximum == ("c",)
    torch.testing.assert_close(found.noise_KK, known, rtol=1e-9, atol=1e-9)
    many = noise(3, classes=40)
    names = tuple(map(str, range(40)))
    found = noise_from(answers(many, [10] * 40, 3, anchors=1.0), 97, names)
    assert found.by_maximum == names
    torch.testing.assert_close(found.noise_KK, many, rtol=1e-9, atol=1e-9)


def test_a_class_that_nothing_is_taken_for_is_named() -> None:
    found = noise_from(torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4]]), 97, ("a", "b", "c"))
    assert found.never == ("b", "c")
    assert found.noise_KK[1].tolist() == pytest.approx([0.6, 0.3, 0.1])


def test_what_is_written_is_read_to_the_bit(tmp_path: Path) -> None:
    known = noise(4)
    names = ("a,b", 'say "x"', "ü", "1")
    write_noise(tmp_path / "m.csv", known, names)
    assert torch.equal(read_noise(tmp_path / "m.csv", names), known)
    turned = read_noise(tmp_path / "m.csv", names[::-1])
    assert torch.equal(turned, known.flip(0).flip(1))


def test_a_table_that_excel_saved_has_a_mark_before_its_header(tmp_path: Path) -> None:
    """A matrix of noise may begin with the name of a class, and one of groups is read the same way."""
    (tmp_path / "m.csv").write_text("cat,dog\n0.9,0.1\n0,1\n", encoding="utf-8-sig")
    read = read_noise(tmp_path / "m.csv", ["cat", "dog"])
    assert read.tolist() == [[0.9, 0.1], [0.0, 1.0]]
    (tmp_path / "g.csv").write_text(",cat,dog\ncat,3,1\ndog,0,1\n", encoding="utf-8-sig")
    assert rule_of(str(tmp_path / "g.csv"), ["cat", "dog"]).tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_of_a_run(made: Made, here: Path, distill: Distill) -> None:
    """It is that of the network's own answers, and what --noise-matrix takes; the run stays as it is."""
    before = tree(made.teacher)
    outcome = distill("noise", "estimate", made.teacher, "--out", "m.csv", "--json")
    assert outcome.code == 0, outcome.err
    assert tree(made.teacher) == before
    found = json.loads(outcome.out)
    dataset = open_dataset("digits")
    network = load_model(made.teacher).eval()
    with torch.no_grad():
        images = torch.cat(list(dataset.train.iter_plain()))
        probs = network(images / 255).softmax(dim=-1)
    assert found["samples"] == len(images) == 1438
    for label, row in enumerate(found["matrix"]):
        # The 97th percentile of 1,438: 43 samples are above.
        sample = probs[:, label].argsort()[1437 * 97 // 100]
        assert row == pytest.approx(probs[sample].tolist(), abs=1e-5)
    with (here / "m.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["", *found["class_names"]]
    assert [[float(cell) for cell in row[1:]] for row in rows] == found["matrix"]
    forward = ("--objective", "forward", "--noise-matrix", "m.csv", "--epochs", 1, "--quiet")
    trained = distill("teacher", "train", "--data", "digits", *forward, "--out", "r")
    assert trained.code == 0, trained.err


def test_what_a_person_reads(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill("noise", "estimate", made.teacher, "--percentile", 100, "-o", "m.csv")
    assert outcome.code == 0, outcome.err
    assert "labelled as others" in outcome.out
    assert outcome.out.endswith("m.csv\n")
    assert "from 1,438 images" in outcome.err
    assert "by the maximum" not in outcome.err


def test_in_a_run_it_is_a_file_of_the_runs(made: Made, here: Path, distill: Distill) -> None:
    """Its default place; a run that learns by it goes elsewhere, and a run in its place removes it."""
    train = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    assert distill(*train, "--out", "r").code == 0
    assert distill("noise", "estimate", "r").code == 0
    assert (here / "r/noise-matrix.csv").is_file()
    forward = ("--objective", "forward", "--noise-matrix", "r/noise-matrix.csv")
    outcome = distill(*train, *forward, "--out", "r", "--overwrite")
    assert (outcome.code, "which is learnt from" in outcome.err) == (2, True), outcome.err
    assert (here / "r/noise-matrix.csv").is_file()
    assert distill(*train, "--out", "r", "--overwrite").code == 0
    assert not (here / "r/noise-matrix.csv").exists()


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("nowhere",), 2, "does not exist"),
        (("{run}", "--percentile", 0), 2, "above 0"),
        (("{run}", "--percentile", 100.5), 2, "100 at most"),
        (("{run}", "--percentile", "nan"), 2, "--percentile"),
        (("{run}", "--out", "{run}/recipe.yaml/m.csv"), 2, "is a file"),
        (("{run}/model",), 2, "Give --out"),
        (("{run}", "--data", "nowhere"), 2, "nowhere"),
    ],
)
def test_refusals(
    made: Made, here: Path, distill: Distill, given: tuple[object, ...], code: int, words: str
) -> None:
    filled = [str(word).format(run=made.teacher) for word in given]
    outcome = distill("noise", "estimate", *filled)
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert list(here.iterdir()) == []
