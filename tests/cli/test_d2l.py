"""D2L through the command line, on the digits: rows, roll-back, resumption, refusals, the page."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from distill_cli import stopping
from distill_cli.training.loop import Trainer
from tests.conftest import Made, Outcome, on_host
from tests.saved import weights

Distill = Callable[..., Outcome]
EPOCHS, STEPS = 5, 20
COMMON = ("--data", "digits", "--epochs", EPOCHS, "-b", 64, "--lr", 0.1, "--augment", "shift:1")
TRAIN = ("teacher", "train", *COMMON, "--model", "mlp_16x1", "--dropout", 0.2)
FORCED = ("--set", "objective=[{name: d2l, turn_epoch: 3, samples: 256, batch: 64}]")
# What a clock says differs from run to run.
CLOCK = {"seconds", "images_per_second"}


def parts(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "last/checkpoint.pt", weights_only=True)["parts"]
    return found


def alike(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    return bool(one == two)


def rows(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in event.items() if key not in CLOCK}
        for event in events
        if event["event"] == "epoch"
    ]


def test_rows_of_a_forced_turn(here: Path, distill: Distill) -> None:
    outcome = distill(*TRAIN, *FORCED, "--out", "r")
    assert outcome.code == 0, outcome.err
    assert "d2l: the features' dimension turned in epoch 3" in " ".join(outcome.err.split())
    found = rows(here / "r")
    assert [row["turned"] for row in found] == [False, False, True, False, False]
    assert [row["alpha"] for row in found[:3]] == [1.0] * 3
    dimensions = [row["lid"] for row in found]
    assert all(lid > 1 for lid in dimensions)
    for finished in (3, 4):
        ratio = dimensions[finished - 1] / min(dimensions[:finished])
        expected = torch.tensor(-finished / EPOCHS * ratio, dtype=torch.float64).exp()
        assert found[finished]["alpha"] == pytest.approx(float(expected))
    # The undone epoch's figures are of the network that it is undone to.
    for name in ("val_top1", "val_nll", "val_ece"):
        assert found[2][name] == found[1][name]
    assert found[3]["val_nll"] != found[2]["val_nll"], "the next one moved on"
    table = list(csv.DictReader((here / "r/summary.csv").open()))
    assert [row["turned"] for row in table] == ["0", "0", "1", "0", "0"]
    rates = [float(row["lr"]) for row in table]
    assert rates[2] < rates[1], "the schedule goes on"
    page = distill("report", "r")
    assert page.code == 0, page.err
    text = (here / "r/report.html").read_text()
    assert "Local intrinsic dimension" in text
    assert "the turn in epoch 3" in text


def snapshots(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    """What the student, and what moves it, is when each epoch starts."""
    taken: dict[int, dict[str, Any]] = {}
    original = Trainer.epoch_steps

    def noting(self: Trainer) -> Iterator[None]:
        moving = {name: part.state_dict() for name, part in self.optimisation.of_student.items()}
        taken[self.state.epoch] = deepcopy({"network": self.network.state_dict(), **moving})
        return original(self)

    monkeypatch.setattr(Trainer, "epoch_steps", noting)
    return taken


@pytest.mark.parametrize("opt", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_the_turn_undoes_an_epoch_to_the_bit(
    opt: str, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = snapshots(monkeypatch)
    given = ("--opt", opt, "--ema", 0.9, "--model", "cifar_resnet8")
    outcome = distill(*TRAIN, *given, *FORCED, "--epochs", 4, "--out", "r", "--quiet")
    assert outcome.code == 0, outcome.err
    before, after, later = taken[2], taken[3], parts(here / "r")
    assert alike(before["network"], after["network"]), "buffers of batch norm too"
    assert alike(before["optimizer"]["state"], after["optimizer"]["state"])
    assert before["optimizer"]["state"]
    assert alike(before["ema"], after["ema"])
    assert not alike(after["network"], taken[1]["network"])
    assert not alike(after["network"], later["network"])
    rates = [each["optimizer"]["param_groups"][0]["lr"] for each in (before, after)]
    assert rates[0] != rates[1]


class AfterSteps(stopping.StopRequest):
    """Asks to stop once so many steps are taken; 0 for never."""

    steps = 0
    taken = 0

    @property
    def signal_number(self) -> int | None:
        return signal.SIGTERM if 0 < AfterSteps.steps <= AfterSteps.input_spec else None

    @signal_number.setter
    def signal_number(self, value: int | None) -> None:
        pass


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    original = Trainer.train_step

    def counting(self: Trainer, batch: Any) -> None:
        original(self, batch)
        AfterSteps.input_spec += 1

    monkeypatch.setattr(Trainer, "train_step", counting)
    monkeypatch.setattr(stopping, "StopRequest", AfterSteps)

    def set_steps(steps: int) -> None:
        AfterSteps.steps, AfterSteps.input_spec = steps, 0

    set_steps(0)
    return set_steps


# In the epoch before the turn, in the one of the turn, at its last step, and after it.
@on_host
@pytest.mark.parametrize(
    "steps",
    [
        *(2 * STEPS + 5, 3 * STEPS),
        *(pytest.param(s, marks=pytest.mark.slow) for s in (STEPS + 7, 3 * STEPS + 9)),
    ],
)
def test_stopped_and_resumed_to_the_same_bits(
    steps: int, here: Path, distill: Distill, stop_after: Callable[[int], None]
) -> None:
    given = (*TRAIN, *FORCED, "--ema", 0.9, "--quiet")
    assert distill(*given, "--out", "whole").code == 0
    stop_after(steps)
    assert distill(*given, "--out", "torn").code == 143
    halfway = parts(here / "torn")
    assert halfway["rollback"]["network"].keys() == halfway["network"].keys()
    stop_after(0)
    assert distill("teacher", "train", "--resume", "--out", "torn", "--quiet").code == 0
    assert rows(here / "whole") == rows(here / "torn")
    assert alike(weights(here / "whole"), weights(here / "torn"))
    assert alike(parts(here / "whole"), parts(here / "torn"))


def test_killed_while_an_epoch_ends_and_resumed_to_the_same_bits(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the epoch was judged and undone, before any of it was saved."""
    given = (*TRAIN, *FORCED, "--quiet")
    assert distill(*given, "--out", "whole").code == 0
    original = Trainer._save

    def dying(self: Trainer) -> None:
        if self.state.epoch == 3:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(Trainer, "_save", dying)
    assert distill(*given, "--out", "torn").code != 0
    monkeypatch.setattr(Trainer, "_save", original)
    assert distill("teacher", "train", "--resume", "--out", "torn", "--quiet").code == 0
    assert rows(here / "whole") == rows(here / "torn")
    assert alike(parts(here / "whole"), parts(here / "torn"))


def test_a_run_that_never_turns_is_cross_entropy_and_says_so(here: Path, distill: Distill) -> None:
    plain = distill(*TRAIN, "--objective", "ce", "--out", "ce", "--quiet")
    assert plain.code == 0, plain.err
    never = distill(*TRAIN, "--objective", "d2l", "--out", "r")
    assert never.code == 0, never.err
    said = " ".join(never.err.split())
    assert "every label was trusted to the end (alpha 1)" in said
    assert not any(row["turned"] for row in rows(here / "r"))
    for key, value in weights(here / "ce").items():
        assert torch.allclose(value, weights(here / "r")[key], atol=1e-5), key
    assert "rollback" not in parts(here / "ce")
    assert distill("report", "r").code == 0
    assert "No turn" in (here / "r/report.html").read_text()


def test_it_turns_by_itself(here: Path, distill: Distill) -> None:
    """A window of two epochs is soon exceeded; the rule is applied to the rows that are kept."""
    own = "objective=[{name: d2l, initial_epochs: 0, window: 2, samples: 256, batch: 64}]"
    assert distill(*TRAIN, "--epochs", 12, "--set", own, "--out", "r", "--quiet").code == 0
    found = rows(here / "r")
    expected = None
    for place in range(2, len(found) - 1):
        one, two = found[place - 2]["lid"], found[place - 1]["lid"]
        mean, sd = (one + two) / 2, abs(one - two) / 2
        if found[place]["lid"] - mean > 2 * sd:
            expected = place
            break
    assert expected is not None, "the run is too short for this test"
    assert [row["turned"] for row in found].index(True) == expected
    assert sum(row["turned"] for row in found) == 1


def test_beside_a_teacher(made: Made, here: Path, distill: Distill) -> None:
    entries = "[{name: kd, weight: 0.5}, {name: d2l, weight: 0.5, turn_epoch: 2, samples: 128}]"
    outcome = distill(
        *("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--epochs", 4, "--quiet"),
        *("--set", f"objective={entries}", "--out", "s"),
    )
    assert outcome.code == 0, outcome.err
    assert [row["turned"] for row in rows(here / "s")] == [False, True, False, False]
    assert (
        distill(
            "student",
            "--teachers",
            made.teacher,
            *("--objective", "kd,d2l"),
            *("--epochs", 2, "--model", "mlp_8x1", "--quiet", "--out", "t"),
        ).code
        == 0
    )


def pictures(root: Path, *, labelled: bool) -> Path:
    """Noise in two classes; the training images perhaps in no folder of a class."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = root / split / (name if labelled or split != "train" else "")
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(8):
                pixels = torch.randint(0, 256, (8, 8), generator=generator).to(torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{name}{index}.png")
    return root


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--set", "objective=[{name: d2l, turn_epoch: 5}]"), 2, "no epoch comes after"),
        (("--set", "objective=[{name: d2l, turn_epoch: 0}]"), 2, "turn_epoch"),
        (("--set", "objective=[{name: d2l, initial_epochs: 3}]"), 2, "initial_epochs"),
        (("--set", "objective=[{name: d2l, k: 200}]"), 2, "neighbours"),
        (("--objective", "d2l", "--compile"), 2, "--compile"),
        (("--objective", "d2l", "--label-smoothing", 0.1), 2, "cannot be combined"),
        (("--objective", "d2l", "--targets", "sigmoid"), 2, "softmax"),
        (("--objective", "d2l,disturb-label"), 2, "the hard label"),
    ],
)
def test_refusals(
    given: tuple[object, ...], code: int, said: str, here: Path, distill: Distill
) -> None:
    outcome = distill(*TRAIN, *given, "--out", "r", "--quiet")
    assert outcome.code == code, outcome.err
    assert said in " ".join(outcome.err.split())
    assert not (here / "r").exists()


def test_without_labels_it_is_refused(here: Path, distill: Distill) -> None:
    data = pictures(here / "bare", labelled=False)
    common = ("--model", "mlp_8x1", "--epochs", 1, "--quiet", "-b", 8)
    outcome = distill(
        *("teacher", "train", "--data", data, "--objective", "d2l", *common, "--out", "r")
    )
    assert outcome.code == 3, outcome.err
    assert "no training image" in " ".join(outcome.err.split())
    assert not (here / "r").exists()
    # Fewer images than the probe asks for are no reason to refuse.
    data = pictures(here / "full", labelled=True)
    outcome = distill(
        *("teacher", "train", "--data", data, "--objective", "d2l", *common, "--out", "r")
    )
    assert outcome.code == 0, outcome.err
    assert rows(here / "r")[0]["lid"] > 0
