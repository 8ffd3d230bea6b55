"""`--seeds`: several runs of one recipe, each as if it were alone, and the table of them all."""

from __future__ import annotations

import json
import shutil
import signal
import statistics
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from distill_cli.training.loop import Trainer
from distill_cli.types import Batch
from tests.conftest import Made, Outcome, on_host, tree
from tests.processes import slowed, start
from tests.saved import recipe_of

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "-b", 128, "--quiet")
SHORT = (*TRAIN, "--epochs", 1)
# Figures of time, which no two runs share.
TIMES = ("latency_ms", "images_per_second", "seconds")


def table(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "seeds.json").read_text())
    return content


def untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Nested containers of tensors and plain values, to the bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (one, two) in enumerate(zip(a, b, strict=True)):
            assert_equal(one, two, f"{path}.{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b or (a != a and b != b), path


def assert_same_run(a: Path, b: Path) -> None:
    """Two run folders are the same but for their names and times."""
    files = [
        sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        for run in (a, b)
    ]
    assert files[0] == files[1]
    recipes = [recipe_of(run) for run in (a, b)]
    assert "seeds" not in recipes[0]
    assert list(recipes[0]) == list(recipes[1]), "in the same order"
    assert recipes[0] == recipes[1]
    for name in ("model/config.json", "model/model.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    kept = [
        torch.load(run / "last/checkpoint.pt", weights_only=True, map_location="cpu")
        for run in (a, b)
    ]
    for name in ("format", "key", "parts", "rng"):
        assert_equal(kept[0][name], kept[1][name], name)
    results = [untimed(json.loads((run / "result.json").read_text())) for run in (a, b)]
    assert results[0] == results[1]
    events = [
        [untimed(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (a, b)
    ]
    assert events[0] == events[1]


@pytest.mark.parametrize(
    "args",
    [
        ("teacher", "train", "--data", "digits", "--dropout", 0.3, "--ema", 0.9, "--accumulate", 2),
        pytest.param(
            ("student", "--teachers", "{labels}", "--mode", "random"), marks=pytest.mark.slow
        ),
        ("student", "--teachers", "{teacher}", "--objective", "kd,hint", "--augment", "mixup"),
    ],
    ids=["hard", "cached", "live"],
)
def test_each_has_the_same_bits_as_alone(
    args: tuple[object, ...], made: Made, here: Path, distill: Distill
) -> None:
    words = [str(word).format(labels=made.labels, teacher=made.teacher) for word in args]
    common = (*words, "--model", "mlp_8x2", "--epochs", 2, "--deterministic", "--quiet")
    outcome = distill(*common, "--seed", 3, "--seeds", 2, "--out", "several")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "several"
    for seed in (3, 4):
        assert distill(*common, "--seed", seed, "--out", f"alone-{seed}").code == 0
        assert_same_run(here / f"several/seed-{seed}", here / f"alone-{seed}")
    weights = [load_file(here / f"alone-{s}/model/model.safetensors") for s in (3, 4)]
    assert not all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the runs take their steps in turn."""
    monkeypatch.setattr("distill_cli.pipeline.run.seeds.take_turns", lambda recipe: True)


TURNS = (
    *(
        "teacher",
        "train",
        "--data",
        "digits",
        "--model",
        "mlp_8x2",
        "--set",
        "model_args.drop_rate=0.3",
    ),
    *("--epochs", 2, "--deterministic", "--ema", 0.9),
)


@pytest.mark.usefixtures("in_turn")
def test_runs_that_take_turns_have_the_bits_that_they_have_alone(
    here: Path, distill: Distill
) -> None:
    """Dropout too, whose draws each run has from a generator of its own."""
    outcome = distill(*TURNS, "--seeds", 3, "--out", "several")
    assert outcome.code == 0, outcome.err
    assert "seed 2: " in outcome.err
    for seed in range(3):
        assert distill(*TURNS, "--seed", seed, "--quiet", "--out", f"alone-{seed}").code == 0
        assert_same_run(here / f"several/seed-{seed}", here / f"alone-{seed}")
    assert len(json.loads((here / "several/seeds.json").read_text())["runs"]) == 3


@on_host
@pytest.mark.usefixtures("in_turn")
def test_runs_that_take_turns_stop_together_and_go_on(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (*TURNS, "--seeds", 2, "--quiet")
    assert distill(*whole, "--out", "whole").code == 0
    plain, steps = Trainer.train_step, count(1)

    def stopping(self: Trainer, batch: Batch) -> None:
        plain(self, batch)
        if next(steps) == 15:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        outcome = distill(*whole, "--out", "torn")
    assert outcome.code == 143
    assert "Go on with --resume --out torn" in outcome.err
    for seed in range(2):
        assert (here / f"torn/seed-{seed}/last/checkpoint.pt").is_file(), "each is kept"
    assert distill("teacher", "train", "--resume", "--out", "torn", "--quiet").code == 0
    for seed in range(2):
        assert_same_run(here / f"torn/seed-{seed}", here / f"whole/seed-{seed}")


@on_host
@pytest.mark.usefixtures("in_turn")
def test_one_of_those_that_take_turns_diverges_alone(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Trainer.train_step

    def ruined(self: Trainer, batch: Batch) -> None:
        plain(self, batch)
        if self.loader.seed == 1 and self.state.step == 2:
            next(self.network.parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(Trainer, "train_step", ruined)
    outcome = distill(*TURNS, "--seeds", 3, "--quiet", "--out", "r")
    assert outcome.code == 4
    assert not (here / "r/seed-1/result.json").exists()
    assert all((here / f"r/seed-{seed}/result.json").is_file() for seed in (0, 2))


def test_the_table_is_of_all_seeds_and_of_the_sample(here: Path, distill: Distill) -> None:
    outcome = distill(*SHORT, "--seeds", "7,2,5", "--out", "out", "--json")
    assert outcome.code == 0, outcome.err
    content = table(here / "out")
    assert json.loads(outcome.out) == {"run": "out", **content}
    assert content["seeds"] == [2, 5, 7]
    assert [run["run"] for run in content["runs"]] == ["seed-2", "seed-5", "seed-7"]
    assert {run["state"] for run in content["runs"]} == {"done"}
    results = [
        json.loads((here / "out" / run["run"] / "result.json").read_text())
        for run in content["runs"]
    ]
    assert [run["figures"] for run in content["runs"]] == results
    assert content["figures"].keys() == results[0].keys() - {"warnings"}
    for name, spread in content["figures"].items():
        values = [result[name] for result in results]
        if values[0] is None:
            assert spread == {"mean": None, "sd": None}
            continue
        assert spread["mean"] == pytest.approx(sum(values) / 3)
        square = sum((value - sum(values) / 3) ** 2 for value in values) / 2
        assert spread["sd"] == pytest.approx(square**0.5)
    assert content["figures"]["test_errors"]["sd"] > 0
    kept = yaml.safe_load((here / "out/seeds.yaml").read_text())
    assert (kept["seeds"], "seed" in kept) == ([7, 2, 5], False)


@on_host
def test_the_table_is_printed_below_displays_that_name_their_seed(
    here: Path, distill: Distill
) -> None:
    loud = [word for word in SHORT if word != "--quiet"]
    outcome = distill(*loud, "--seeds", "4,6", "--out", "out")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("digits: 1,797 images") == 1
    assert "teacher, seed 4 (1 of 2): epoch 1/1" in outcome.err
    assert "teacher, seed 6 (2 of 2): epoch 1/1" in outcome.err
    lines = outcome.err.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("seed  "))
    assert lines[head].split()[:4] == ["seed", "test", "errors", "accuracy"]
    content = table(here / "out")
    for row, run in zip(lines[head + 1 :], content["runs"], strict=False):
        assert row.split()[:2] == [str(run["seed"]), str(run["figures"]["test_errors"])]
    spread = content["figures"]["test_errors"]
    assert lines[head + 3].startswith(f"mean ± sd  {spread['mean']:.1f} ± {spread['sd']:.1f}  ")
    assert lines[-1] == "2 runs of 2 → out"
    alone = distill(*loud, "--seeds", "4,", "--out", "one")
    assert table(here / "one")["figures"]["test_errors"]["sd"] is None
    [mean] = [line for line in alone.err.splitlines() if line.startswith("mean ± sd")]
    assert "±" not in mean.removeprefix("mean ± sd")


def test_the_data_are_opened_once(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_cli.pipeline.inputs import data

    opened = []
    plain = data.open_dataset

    def counting(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return plain(*args, **options)

    monkeypatch.setattr(data, "open_dataset", counting)
    assert distill(*SHORT, "--seeds", 3, "--out", "out").code == 0
    assert len(opened) == 1
    shutil.rmtree(here / "out/seed-1")
    assert distill("teacher", "train", "--resume", "--out", "out", "--quiet").code == 0
    assert len(opened) == 2


@pytest.mark.slow
def test_gates_are_on_the_mean_or_on_each(here: Path, distill: Distill) -> None:
    assert distill(*SHORT, "--seeds", 3, "--out", "out").code == 0
    errors = [run["figures"]["test_errors"] for run in table(here / "out")["runs"]]
    between = (min(errors) + statistics.fmean(errors)) / 2
    beyond = (max(errors) + statistics.fmean(errors)) / 2

    def gated(gate: str) -> Outcome:
        return distill(*SHORT, "--seeds", 3, "--resume", "--out", "out", "--require", gate)

    assert gated(f"test_errors<={beyond}").code == 0
    missed = gated(f"test_errors<={between}")
    assert missed.code == 5
    assert f"the mean is {statistics.fmean(errors)}" in missed.err
    assert gated(f"each:test_errors<={max(errors)}").code == 0
    missed = gated(f"each:test_errors<={beyond}")
    assert missed.code == 5
    for seed, value in enumerate(errors):
        assert (f"seed {seed} is {value}" in missed.err) == (value > beyond)
    assert (here / "out/seeds.json").is_file()


def test_a_gate_on_each_is_of_a_run_alone_too(here: Path, distill: Distill) -> None:
    assert distill(*SHORT, "--out", "a", "--require", "each:test_top1>=0").code == 0
    assert distill(*SHORT, "--out", "b", "--require", "each:test_top1>1").code == 5


def diverging(monkeypatch: pytest.MonkeyPatch, *seeds: int) -> None:
    """Has training of these seeds begin from a weight that is not a number."""
    from distill_cli.pipeline.run import train as module

    plain = module.trainer_of

    def trainer_of(prepared: Any, sink: Any) -> Any:
        trainer = plain(prepared, sink)
        if prepared.recipe.seed in seeds:
            nn.init.constant_(next(trainer.network.net.parameters()), float("nan"))
        return trainer

    monkeypatch.setattr(module, "trainer_of", trainer_of)


def test_one_that_diverges_ends_alone(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        diverging(patch, 1)
        outcome = distill(*SHORT, "--seeds", 3, "--out", "out", "--require", "test_top1>1")
    assert outcome.code == 4
    assert "seed 1 diverged (the loss is no longer a number" in outcome.err
    assert "not met: test_top1>1" in outcome.err
    content = table(here / "out")
    assert content["seeds"] == [0, 1, 2]
    assert [run["state"] for run in content["runs"]] == ["done", "diverged", "done"]
    assert "no longer a number" in content["runs"][1]["reason"]
    done = [content["runs"][index]["figures"]["test_nll"] for index in (0, 2)]
    assert content["figures"]["test_nll"]["mean"] == pytest.approx(statistics.fmean(done))
    compared = distill("compare", "out", "--json")
    [group] = json.loads(compared.out)
    assert group["seeds"] == [0, 2]
    assert "out: seed 1 diverged" in compared.err
    refused = distill("student", "--teachers", "out", "--out", "s", "--quiet")
    assert refused.code == 3
    assert "out/seed-0,out/seed-2" in refused.err
    # It is tried again: elsewhere, it may not diverge.
    assert distill("teacher", "train", "--resume", "--out", "out", "--quiet").code == 5
    assert [run["state"] for run in table(here / "out")["runs"]] == ["done"] * 3


def test_all_that_diverge(here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, 0, 1)
    outcome = distill(*SHORT, "--seeds", 2, "--out", "out", "--require", "test_top1>1")
    assert outcome.code == 4
    assert "saved" not in outcome.err
    assert table(here / "out")["figures"] == {}
    assert distill("compare", "out").code == 3


def test_resume_makes_what_is_missing_and_leaves_the_rest_alone(
    here: Path, distill: Distill
) -> None:
    assert distill(*SHORT, "--seeds", 3, "--out", "out").code == 0
    figures = untimed(table(here / "out")["figures"])
    before = tree(here / "out/seed-0", here / "out/seed-2")
    shutil.rmtree(here / "out/seed-1")
    (here / "out/seeds.json").unlink()
    for refused in (("compare", "out"), ("student", "--teachers", "out", "--out", "s")):
        outcome = distill(*refused)
        assert outcome.code == 3
        assert "--resume --out out" in outcome.err
    assert distill("teacher", "train", "--resume", "--out", "out", "--quiet").code == 0
    assert untimed(table(here / "out")["figures"]) == figures
    assert tree(here / "out/seed-0", here / "out/seed-2") == before
    # More seeds may be asked for than there are, fewer not; and no other recipe.
    again = ("teacher", "train", "--resume", "--out", "out", "--quiet")
    assert distill(*again, "--seeds", 4).code == 0
    assert table(here / "out")["seeds"] == [0, 1, 2, 3]
    assert tree(here / "out/seed-0", here / "out/seed-2") == before
    outcome = distill(*again, "--seeds", "0,3")
    assert (outcome.code, "leave out 1, 2" in outcome.err) == (2, True)
    outcome = distill(*again, "--epochs", 2)
    assert (outcome.code, "epochs 1 → 2" in outcome.err) == (3, True)
    assert tree(here / "out/seed-0", here / "out/seed-2") == before


def test_a_run_made_alone_is_one_of_them(here: Path, distill: Distill) -> None:
    assert distill(*SHORT, "--seed", 1, "--out", "out/seed-1").code == 0
    before = tree(here / "out/seed-1")
    outcome = distill(*SHORT, "--seeds", 2, "--out", "out")
    assert (outcome.code, "out/seed-1 already holds a run" in outcome.err) == (2, True)
    assert distill(*SHORT, "--seeds", 2, "--out", "out", "--resume").code == 0
    assert tree(here / "out/seed-1") == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_resumed_to_the_same_bits(
    here: Path, distill: Distill, number: int, code: int
) -> None:
    args = (*TRAIN, "--epochs", 4, "--seeds", 2)
    late = slowed("distill_cli.training.loop", "Trainer._end_epoch", seconds=1.5, at=6)
    process = start(*args, "--out", here / "out", before=late)
    second = here / "out/seed-1/summary.csv"
    process.until(
        lambda: second.exists() and len(second.read_text().splitlines()) > 1, "the second run"
    )
    process.send(number)
    ended = process.end()
    assert ended.code == code, ended.err
    assert f"--resume --out {here / 'out'}\n" in ended.err.decode()
    assert not (here / "out/seeds.json").exists()
    before = tree(here / "out/seed-0")
    assert distill("teacher", "train", "--resume", "--out", here / "out", "--quiet").code == 0
    assert tree(here / "out/seed-0") == before
    alone = (*TRAIN, "--epochs", 4, "--seed", 1, "--out", here / "alone")
    assert distill(*alone).code == 0
    one, two = (
        load_file(run / "model/model.safetensors") for run in (here / "out/seed-1", here / "alone")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_overwriting_replaces_all_seeds_and_nothing_else(here: Path, distill: Distill) -> None:
    assert distill(*SHORT, "--seeds", 3, "--out", "out").code == 0
    (here / "out/notes.txt").write_text("mine")
    (here / "out/seed-2/notes.txt").write_text("mine")
    before = tree(here / "out")
    assert distill(*SHORT, "--seeds", 2, "--out", "out").code == 2
    bad = (*SHORT, "--seeds", 2, "--out", "out", "--overwrite", "--set", "augment=[rrc:9]")
    assert distill(*bad).code == 2
    inside = ("student", "--teachers", "out/seed-0", "--seeds", 2, "--out", "out", "--overwrite")
    assert distill(*inside).code == 2
    assert tree(here / "out") == before
    assert distill(*SHORT, "--seeds", "1,", "--out", "out", "--overwrite").code == 0
    assert table(here / "out")["seeds"] == [1]
    assert not (here / "out/seed-0").exists()
    assert [path.name for path in (here / "out/seed-2").iterdir()] == ["notes.txt"]
    # One run in the place of several, and the other way round.
    assert distill(*SHORT, "--out", "out").code == 2
    (here / "r.yaml").write_text("command: teacher train\n")
    assert distill(*SHORT, "-r", "r.yaml", "--out", "out", "--resume").code == 2
    assert distill(*SHORT, "--out", "out", "--overwrite").code == 0
    assert not (here / "out/seed-1").exists()
    assert not (here / "out/seeds.json").exists()
    assert distill(*SHORT, "--seeds", 1, "--out", "out", "--resume").code == 2
    assert distill(*SHORT, "--seeds", 1, "--out", "out", "--overwrite").code == 0
    assert not (here / "out/model").exists()
    assert (here / "out/notes.txt").read_text() == "mine"


def test_a_dry_run_prices_all_and_writes_nothing(here: Path, distill: Distill) -> None:
    loud = [word for word in SHORT if word != "--quiet"]
    before = tree(here)
    outcome = distill(*loud, "--seeds", "3,9", "--out", "out", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    assert tree(here) == before
    assert "seeds 3, 9, as much each: in all about" in outcome.err
    said = json.loads(outcome.out)
    assert (said["seeds"], "seed" in said) == ([3, 9], False)
    assert distill(*SHORT, "--seeds", 2, "--out", "out").code == 0
    shutil.rmtree(here / "out/seed-0")
    before = tree(here)
    again = (*loud, "--seeds", 2, "--out", "out", "--resume", "--dry-run")
    outcome = distill(*again)
    assert "seed 1: done before" in outcome.err
    assert "seed 0, as much each" in outcome.err
    assert distill(*again, "--lr", 0.5).code == 3
    assert distill(*again[:-2], "--dry-run").code == 2
    assert tree(here) == before
    assert distill("teacher", "train", "--resume", "--out", "out", "--quiet").code == 0
    assert "all seeds are done" in distill(*again).err


def test_a_dry_run_costs_as_many_times_as_much(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_cli.pipeline.run import dry_run

    monkeypatch.setattr(dry_run, "seconds_of", lambda *args: 100.0)
    loud = [word for word in SHORT if word != "--quiet"]
    outcome = distill(*loud, "--seeds", 4, "--out", "out", "--dry-run")
    assert "in all about 6.7 minutes" in outcome.err, outcome.err


def test_teachers_and_comparisons_take_the_folder(here: Path, distill: Distill) -> None:
    args = ("--epochs", 3, "--lr", 0.1, "-b", 32)
    assert distill(*TRAIN, *args, "--seeds", "10,9", "--out", "out").code == 0
    student = ("student", "--teachers", "out", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    assert distill(*student, "--out", "s").code == 0
    kept = yaml.safe_load((here / "s/recipe.yaml").read_text())
    assert kept["teachers"] == ["out/seed-9", "out/seed-10"]
    assert kept["mode"] == "ensemble"
    dump = ("cache-soft-labels", "--teachers", "out", "--out", "labels", "--quiet")
    assert distill(*dump).code == 0
    assert sorted(path.name for path in (here / "labels").glob("*/")) == ["seed-10", "seed-9"]
    groups = json.loads(distill("compare", "s", "out", "out/seed-9", "--json").out)
    assert [group["seeds"] for group in groups] == [[0], [9, 10]]
    mean = table(here / "out")["figures"]["test_top1"]
    assert groups[1]["figures"]["test_top1"] == pytest.approx(mean)
    for verb in (("evaluate", "out"), ("report", "out"), ("predict", "out", "out/seed-9")):
        outcome = distill(*verb)
        assert (outcome.code, "out/seed-N" in outcome.err) == (2, True)
    outcome = distill(*student, "--init", "out", "--out", "i")
    assert (outcome.code, "out/seed-N" in outcome.err) == (2, True)
    assert "holds 2 teachers" in distill("evaluate", "s", "--teacher", "out").err


@pytest.mark.slow
def test_stages_are_run_for_each(made: Made, here: Path, distill: Distill) -> None:
    common = ("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--epochs", 1)
    common = (*common, "--force", "--generations", 2, "--quiet")
    outcome = distill(*common, "--seeds", "2,5", "--out", "out")
    assert outcome.code == 0, outcome.err
    assert distill(*common, "--seed", 5, "--out", "alone").code == 0
    for path in ("stages/generation-1", "."):
        one, two = (
            load_file(here / run / path / "model/model.safetensors")
            for run in ("out/seed-5", "alone")
        )
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert "seeds" not in yaml.safe_load((here / "out/seed-5/stages.yaml").read_text())
    [group] = json.loads(distill("compare", "out", "--json").out)
    assert group["seeds"] == [3, 6], "of the second generation"
    # A chain that is refused half-way keeps its first half.
    shutil.rmtree(here / "out")
    stages = "stages=[{name: a}, {name: b, model_args: {nonsense: 1}}]"
    chain = (*common[:-3], "--set", stages, "--seeds", "2,", "--out", "out", "--quiet")
    assert distill(*chain).code == 2
    assert (here / "out/seed-2/stages/a/result.json").is_file()


def test_hint_inits_have_their_own_figures(made: Made, here: Path, distill: Distill) -> None:
    hints = ("hint-init", "--teachers", made.teacher, "--model", "mlp_8x2", "--epochs", 1)
    outcome = distill(*hints, "--seeds", 2, "--out", "out")
    assert outcome.code == 0, outcome.err
    assert "held-out hint loss  best epoch" in outcome.err
    assert table(here / "out")["figures"]["val_hint"]["sd"] > 0


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--seeds", "1,2", "--seed", 0), 2, "--seeds 1,2 names every seed, and --seed 0 another"),
        (("--seeds", "1,1"), 2, "distinct"),
        (("--seeds", "0"), 2, "a single number is a count"),
        (("--seeds", "x"), 2, "neither a count"),
        (("--seeds", "2", "--seed", 2**63 - 1), 2, "leads beyond"),
        (("--seeds", "2", "--data", "nowhere"), 2, "nowhere does not exist"),
        (("--seeds", "2", "--batch-size", "0"), 2, "batch_size"),
        (("--seeds", "2", "--require", "each:test_top>1"), 2, "no figure 'test_top'"),
    ],
)
def test_refused_before_anything_is_written(
    args: tuple[object, ...], code: int, said: str, here: Path, distill: Distill
) -> None:
    for more in ((), ("--dry-run",)):
        outcome = distill(*SHORT, *args, "--out", "out", *more)
        assert outcome.code == code, outcome.err
        assert said in outcome.err
        assert not any(here.iterdir())


def test_a_recipe_may_name_seeds(here: Path, distill: Distill) -> None:
    values = {"command": "teacher train", "data": "digits", "model": "mlp_4x1", "epochs": 1}
    (here / "r.yaml").write_text(yaml.safe_dump({**values, "seeds": [4, 8], "out": "out"}))
    assert distill("recipes", "run", "r.yaml", "--quiet").code == 0
    assert table(here / "out")["seeds"] == [4, 8]
    # A run's recipe says its seed, which a list that is typed replaces.
    kept = "out/seed-4/recipe.yaml"
    words = ("teacher", "train", "-r", kept, "--seeds", "6,", "--out", "o", "--quiet")
    assert distill(*words).code == 0
    assert table(here / "o")["seeds"] == [6]
    (here / "r.yaml").write_text(yaml.safe_dump({**values, "seeds": [4, 8], "seed": 1}))
    assert distill("recipes", "validate", "r.yaml").code == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("graphs", ["on", "off"])
def test_on_a_gpu_those_at_once_have_the_bits_that_they_have_alone(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, graphs: str
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    common = (*TURNS, "--device", "cuda", "--graphs", graphs, "--quiet")
    outcome = distill(*common, "--seeds", 8, "--out", "several")
    assert outcome.code == 0, outcome.err
    for seed in range(8):
        assert distill(*common, "--seed", seed, "--out", f"alone-{seed}").code == 0
        alone, one = (
            load_file(here / run / "model/model.safetensors")
            for run in (f"alone-{seed}", f"several/seed-{seed}")
        )
        assert all(torch.equal(alone[key], one[key]) for key in alone), seed
