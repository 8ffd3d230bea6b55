"""`distill query`, through the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.label_rules import LabelRules
from distill_cli.data.labels import relabelled
from distill_cli.models import load_model
from distill_cli.pipeline import answers
from tests.conftest import Made, Outcome, invoke, tree
from tests.data.pictures import LEFT, TOP, picture
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
FEW = ("--labels-per-class", 8, "--augment", "none", "-b", 16, "--lr", 0.1, "--quiet")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on 80 labels of digits."""
    out = tmp_path_factory.mktemp("seeds") / "s"
    train = ("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--epochs", 2)
    outcome = invoke(*train, *FEW, "--seeds", 2, "--out", out)
    assert outcome.code == 0, outcome.err
    return out


def unknown() -> Dataset:
    """Digits as these runs knew them."""
    return relabelled(open_dataset("digits"), LabelRules(per_class=8))


@torch.no_grad()
def probabilities(folder: Path, dataset: Dataset) -> tuple[list[str], Tensor]:
    rows = dataset.fit_rows[dataset.train.label_N[dataset.fit_rows] < 0]
    images = dataset.train.take(rows)
    network = load_model(folder)
    batches = [network(batch / 255).double().softmax(dim=-1) for batch in images.iter_plain()]
    return list(images.sample_ids), torch.cat(batches)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("by", ["margin", "entropy", "disagreement"])
def test_the_least_sure_are_asked_first(seeds: Path, here: Path, distill: Distill, by: str) -> None:
    """Scores written anew, from the networks' probabilities in fp64."""
    asked = [seeds / "seed-0", seeds / "seed-1"][: 2 if by == "disagreement" else 1]
    outcome = distill("query", ",".join(map(str, asked)), "--budget", 20, "--by", by, "--json")
    assert outcome.code == 0, outcome.err
    answers_of = [probabilities(folder, unknown()) for folder in asked]
    ids = answers_of[0][0]
    probs_MNK = torch.stack([probs_NK for _, probs_NK in answers_of])
    mean_NK = probs_MNK.mean(dim=0)
    first_N, second_N = mean_NK.sort(dim=-1, descending=True).values[:, :2].T
    entropy_N = -(mean_NK * mean_NK.log()).sum(dim=-1)
    apart_N = (probs_MNK * (probs_MNK / mean_NK).log()).sum(dim=-1).mean(dim=0)
    score_N = {"margin": first_N - second_N, "entropy": entropy_N, "disagreement": apart_N}[by]
    expected = dict(zip(ids, score_N.tolist(), strict=True))
    listed = rows_of(here / "query.csv")
    assert [row["rank"] for row in listed] == [str(rank) for rank in range(1, 21)]
    assert all(row["label"] == "" for row in listed)
    for row in listed:
        assert float(row["score"]) == pytest.approx(expected[row["sample_id"]], abs=1e-5)
    sign = 1 if by == "margin" else -1
    bound = sorted(sign * score for score in expected.values())[19]
    assert all(sign * expected[row["sample_id"]] <= bound + 2e-5 for row in listed)
    document = json.loads(outcome.out)
    assert (document["by"], document["candidates"], document["out"]) == (by, 1358, "query.csv")
    for key in ("sample_id", "predicted"):
        assert [row[key] for row in document["samples"]] == [row[key] for row in listed]


def test_random_goes_by_seed_and_sample_alone(seeds: Path, here: Path, distill: Distill) -> None:
    ways = {
        "a": (seeds / "seed-0", "--seed", 3),
        "b": (seeds / "seed-1", "--seed", 3),
        "c": (seeds / "seed-0", "--seed", 4),
    }
    for name, given in ways.items():
        outcome = distill("query", *given, "--by", "random", "--budget", 30, "--out", name)
        assert outcome.code == 0, outcome.err
    a, b, c = ([row["sample_id"] for row in rows_of(here / name)] for name in ways)
    assert a == b
    assert len(set(a) & set(c)) < 10
    # A larger budget asks the same and more.
    more = ("--by", "random", "--budget", 60, "--out", "d", "--seed", 3)
    assert distill("query", seeds / "seed-0", *more).code == 0
    assert [row["sample_id"] for row in rows_of(here / "d")][:30] == a


def test_hidden_labels_are_not_read(
    seeds: Path, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = seeds / "seed-0"
    assert distill("query", run, "--out", "clean").code == 0
    plain = answers.all_known

    def poisoned(dataset: Dataset, rules: LabelRules) -> Dataset:
        seen = plain(dataset, rules)
        return replace(seen, hidden_N=torch.where(seen.hidden_N >= 0, 0, seen.hidden_N))

    monkeypatch.setattr(answers, "all_known", poisoned)
    assert distill("query", run, "--out", "poisoned").code == 0
    assert (here / "clean").read_bytes() == (here / "poisoned").read_bytes()


def test_images_of_a_source_beside(seeds: Path, made: Made, here: Path, distill: Distill) -> None:
    """Under the ids that a training with the same --unlabelled gives them; the run's own are not asked."""
    for number in range(12):
        picture(here / "u" / f"{number:02}.png", [LEFT] if number % 2 else [TOP], seed=number)
    for run in (made.teacher, seeds / "seed-0"):
        outcome = distill("query", run, "--unlabelled", "u", "--out", "q.csv", "--overwrite")
        assert outcome.code == 0, outcome.err
        assert "12 images of 12" in outcome.err
        listed = {row["sample_id"] for row in rows_of(here / "q.csv")}
        assert listed == {f"unlabelled/{number:02}.png" for number in range(12)}
    then = open_dataset("digits", unlabelled=str(here / "u"))
    assert listed <= set(then.train.sample_ids)


ONE = ("--data", "digits", "--model", "mlp_16x1", "--epochs", 1, *FEW)
ROUNDS = ("self-train", *ONE, "--rounds", 2, "--threshold", 0.2)
LOOKED_AT = {
    "--limit": ("teacher", "train", *ONE, "--limit", 300),
    "--fold": ("teacher", "train", *ONE, "--fold", "1/3"),
    "a soft self-training": (*ROUNDS, "--soft"),
    "a hard self-training": ROUNDS,
}


def test_labels_of_a_round_are_nobodys_wherever_their_list_lies(
    here: Path, distill: Distill
) -> None:
    """Without the first round's folder, with another list of the person's, and in a run of that list."""
    data = open_dataset("digits")
    rows = data.fit_rows[:40:4].tolist()
    ids = [data.train.sample_ids[row] for row in rows]
    said = [f"{name},{int(data.train.label_N[row])}" for name, row in zip(ids, rows, strict=True)]
    (here / "l.csv").write_text("\n".join(["sample_id,label", *said]))
    outcome = distill(*ROUNDS, "--relabel", "l.csv", "--out", "r")
    assert outcome.code == 0, outcome.err
    shutil.copy(here / "r/stages/round-2-chosen.csv", here / "mine.csv")
    again = ("teacher", "train", *ONE, "--relabel", "mine.csv", "--out", "s")
    assert distill(*again).code == 0

    def counts(run: str) -> tuple[int, int]:
        asked = distill("query", run, "--budget", 5, "--out", "q.csv", "--overwrite", "--json")
        assert asked.code == 0, asked.err
        audited = distill("audit", run, "--out", f"a-{run}", "--overwrite", "--json")
        assert audited.code == 0, audited.err
        return json.loads(asked.out)["candidates"], json.loads(audited.out)["labelled"]

    candidates, labelled = counts("r")
    assert candidates + labelled == 1438
    assert 80 < labelled <= 90
    assert counts("s") == (candidates, labelled)
    shutil.rmtree(here / "r/stages/round-1")
    (here / "l.csv").write_text("sample_id,label\nindex:1,3\n")
    assert counts("r") == (candidates, labelled)


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[pytest.mark.slow] if "soft" in way else []) for way in LOOKED_AT],
)
def test_images_that_a_run_did_not_learn_from_are_asked_too(
    way: str, seeds: Path, here: Path, distill: Distill
) -> None:
    """Candidates are all images without a label that a person gave; and an audit judges no other label."""
    outcome = distill(*LOOKED_AT[way], "--out", "r")
    assert outcome.code == 0, outcome.err
    run = here / "r"
    known = yaml.safe_load((run / "recipe.yaml").read_text())["recorded"]["labels"]["known"]
    if way != "--limit":
        # The labels are drawn as for any run of 8 a class.
        known = 80
    outcome = distill("query", run, "--budget", 2000, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["candidates"] == 1438 - known
    if way != "--limit":
        assert distill("query", seeds / "seed-0", "--budget", 2000, "--out", "s.csv").code == 0
        asked, plain = (
            {row["sample_id"] for row in rows_of(here / name)} for name in ("query.csv", "s.csv")
        )
        assert asked == plain
    outcome = distill("audit", run, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["labelled"] == known


def test_a_limit_hides_no_label(made: Made, here: Path, distill: Distill) -> None:
    run = ("--model", "mlp_8x1", "--epochs", 1, "--limit", 100, "--augment", "none", "--quiet")
    assert distill("teacher", "train", "--data", "digits", *run, "--out", "r").code == 0
    outcome = distill("query", "r")
    assert outcome.code == 2
    assert "knew the labels of all" in outcome.err
    outcome = distill("audit", "r", "--json")
    assert json.loads(outcome.out)["labelled"] == 1438


def test_lists_are_of_their_own_images(here: Path, distill: Distill) -> None:
    """Other images of the same names have no label by the run's list, and are not its own."""
    for number in range(12):
        for folder, seed in (("u", number), ("v", 100 + number)):
            squares = [LEFT] if number % 2 else [TOP]
            picture(here / folder / f"{number:02}.png", squares, seed=seed)
    rows = ["sample_id,label", *(f"unlabelled/{number:02}.png,1" for number in range(5))]
    (here / "l.csv").write_text("\n".join(rows) + "\n")
    train = ("teacher", "train", *ONE, "--unlabelled", "u", "--relabel", "l.csv", "--out", "r")
    outcome = distill(*train)
    assert outcome.code == 0, outcome.err
    for source, count in (("u", 7), ("v", 12)):
        given = ("--unlabelled", source, "--out", "q.csv", "--overwrite", "--json")
        outcome = distill("query", "r", *given)
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["candidates"] == count, source
    # Without a source named the run's own is meant, and has to be what it was.
    shutil.rmtree(here / "u")
    (here / "v").rename(here / "u")
    for verb in ("query", "audit"):
        outcome = distill(verb, "r", *(("--overwrite",) if verb == "query" else ()))
        assert outcome.code == 3, verb
        assert "was trained beside other images than" in outcome.err


def test_what_is_labelled_is_not_asked_again(seeds: Path, here: Path, distill: Distill) -> None:
    """The filled-in list goes into the next training, whose query then asks others."""
    assert distill("query", seeds / "seed-0", "--budget", 10).code == 0
    first = rows_of(here / "query.csv")
    dataset = open_dataset("digits")
    label_of = dict(zip(dataset.train.sample_ids, dataset.train.label_N.tolist(), strict=True))
    for row in first[:7]:
        row["label"] = str(label_of[row["sample_id"]])
    with (here / "query.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(first[0]))
        writer.writeheader()
        writer.writerows(first)
    train = ("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--epochs", 1, *FEW)
    outcome = distill(*train, "--relabel", "query.csv", "--out", "next")
    assert outcome.code == 0, outcome.err
    outcome = distill("query", "next", "--budget", 2000, "--out", "more.csv", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["candidates"] == 1358 - 7
    more = {row["sample_id"] for row in rows_of(here / "more.csv")}
    assert more.isdisjoint(row["sample_id"] for row in first[:7])
    assert more.issuperset(row["sample_id"] for row in first[7:])


def test_labels_of_images_beside_the_data(here: Path, distill: Distill) -> None:
    """A run that has some asks for the others of its source; of another source, for all."""
    for folder in "uv":
        for number in range(6):
            picture(here / folder / f"{folder}{number}.png", [TOP], seed=number)
    (here / "known.csv").write_text("sample_id,label\nunlabelled/u1.png,3\nunlabelled/u4.png,7\n")
    train = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1, *FEW)
    outcome = distill(*train, "--unlabelled", "u", "--relabel", "known.csv", "--out", "r")
    assert outcome.code == 0, outcome.err
    for folder, count in (("u", 4), ("v", 6)):
        outcome = distill("query", "r", "--unlabelled", folder, "--out", folder + ".csv", "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["candidates"] == count
    # Those that are held out are known without the source, too.
    outcome = distill("evaluate", "r", "--split", "val")
    assert outcome.code == 0, outcome.err


def test_seeds_are_several_runs(seeds: Path, here: Path, distill: Distill) -> None:
    outcome = distill("query", seeds, "--by", "disagreement", "--budget", 12)
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("query.csv\n")
    assert "12 images of 1,358" in outcome.err
    assert "the first 10 above" in outcome.err
    both = f"{seeds / 'seed-0'},{seeds / 'seed-1'}"
    assert distill("query", both, "--by", "disagreement", "--budget", 12, "-o", "b").code == 0
    assert (here / "query.csv").read_bytes() == (here / "b").read_bytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("nowhere",), "'nowhere' does not exist"),
        (("{run}",), "knew the labels of all of its images"),
        (("{run}", "--by", "disagreement"), "it agrees with itself"),
        (("{labels}",), "is no run folder"),
        (("{run}/model",), "is no run folder"),
        (("{run}", "--budget", "0"), "--budget"),
        (("{run}", "--unlabelled", "nowhere"), "--unlabelled nowhere does not exist"),
        (("{run}", "--unlabelled", "digits", "--out", "no/such/"), None),
    ],
)
def test_refusals(
    made: Made, here: Path, distill: Distill, given: tuple[str, ...], words: str | None
) -> None:
    before = tree(made.teacher)
    filled = [word.format(run=made.teacher, labels=made.labels / "a") for word in given]
    outcome = distill("query", *filled)
    if words is None:
        assert outcome.code == 0, outcome.err
        return
    assert (outcome.code, words in outcome.err) == (2, True), outcome.err
    assert list(here.iterdir()) == []
    assert tree(made.teacher) == before


def test_a_list_that_may_be_filled_in(
    seeds: Path, here: Path, distill: Distill, reliability: Reliability
) -> None:
    (here / "query.csv").write_text("sample,label\n")
    outcome = distill("query", seeds / "seed-0")
    assert (here / "query.csv").read_text() == "sample,label\n"
    reliability(
        "Folders and paths", "a list of queries is there already", "distill query RUN", outcome
    )
    assert distill("query", seeds / "seed-0", "--overwrite").code == 0
    assert len(rows_of(here / "query.csv")) == 100


def test_one_run_disagrees_with_nobody(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    (here / "r").symlink_to(made.teacher)
    outcome = distill("query", "r", "--by", "disagreement")
    reliability(
        "Usage and recipes",
        "disagreement of a single run",
        "distill query r --by disagreement",
        outcome,
    )


def test_the_same_run_twice_disagrees_with_nobody(
    seeds: Path, here: Path, distill: Distill
) -> None:
    """Whatever it is called: by a link, or beside the folder that it lies in."""
    one = seeds / "seed-0"
    (here / "link").symlink_to(one)
    for names in (f"{one},{one}", f"{one},link", f"{seeds},{one}"):
        outcome = distill("query", names, "--by", "disagreement")
        assert (outcome.code, "are one and the same. Name it once" in outcome.err) == (2, True)
    assert not (here / "query.csv").exists()


def test_a_list_replaces_nothing_but_a_list(seeds: Path, here: Path, distill: Distill) -> None:
    """And lies in no run, whose own files it would take the place of."""
    run = next(path for path in sorted(seeds.iterdir()) if (path / "recipe.yaml").is_file())
    before = (run / "recipe.yaml").read_bytes()
    (here / "keep.txt").write_text("mine")
    for out in (run / "recipe.yaml", run / "q.csv", here / "keep.txt"):
        outcome = distill("query", run, "--out", out, "--overwrite")
        assert outcome.code == 2, outcome.err
    assert (run / "recipe.yaml").read_bytes() == before
    assert not (run / "q.csv").exists()
