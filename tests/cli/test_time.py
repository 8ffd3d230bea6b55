"""Checkpoints by time, runs that stop when their time is up, and signals that are in a hurry."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_cli.training import pauses
from distill_cli.training.loop import Trainer
from tests.conftest import Made, Outcome, tree
from tests.processes import Process, start
from tests.saved import same

Distill = Callable[..., Outcome]
# Ten steps an epoch.
TRAIN = (
    *("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--dropout", 0.3, "-b", 128),
    "--quiet",
)
CHAIN = ("--teachers", "{teacher}", "--model", "mlp_8x1")
MIXED = ("--ema", 0.9, "--accumulate", 2, "--augment", "shift,mixup", "--objective", "d2l")


def ticking() -> None:
    """Has each look at the clock find it a second later: a step takes one second."""
    seconds = count(1)
    pauses.clock = lambda: float(next(seconds))


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "clock", pauses.clock)
    ticking()


def state_of(run: Path, name: str = "checkpoint") -> dict[str, Any]:
    state: dict[str, Any] = torch.load(
        run / "last" / f"{name}.pt", weights_only=True, map_location="cpu"
    )["state"]
    return state


def rows(run: Path) -> list[list[str]]:
    """Every figure of every epoch, but for its times."""
    lines = [line.split(",") for line in (run / "summary.csv").read_text().splitlines()]
    return [line[:-2] for line in lines]


@pytest.mark.usefixtures("ticks")
@pytest.mark.parametrize(
    "more",
    [pytest.param((), marks=pytest.mark.slow, id="plain"), pytest.param(MIXED, id="mixed")],
)
def test_checkpoints_in_mid_epoch_change_nothing_and_resume_to_the_same_bits(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, more: tuple[object, ...]
) -> None:
    args = (*TRAIN, *more, "--epochs", 4, "--out")
    assert distill(*args, "whole", "--checkpoint-every", "2h").code == 0
    # Saved at other steps in each epoch; whoever is killed goes on from the last one.
    process = start(*args, here / "torn", "--checkpoint-every", "4s", before=killed_at(37))
    assert process.end().code == -signal.SIGKILL
    newest, before = state_of(here / "torn"), state_of(here / "torn", "checkpoint-before")
    assert newest["epoch"] == 3
    assert 0 < newest["step"] < 6
    assert (before["epoch"], before["step"]) < (newest["epoch"], newest["step"])
    assert len(rows(here / "torn")) == 1 + 3
    outcome = distill("teacher", "train", "--resume", "--out", "torn", "--quiet")
    assert outcome.code == 0, outcome.err
    assert distill(*args, "often", "--checkpoint-every", "3s").code == 0
    for run in ("torn", "often"):
        assert same(here / "whole", here / run), run
        assert rows(here / "whole") == rows(here / run), run


def killed_at(step: int) -> Callable[[], None]:
    """A `before`: the process is killed before that step, by the clock of the tests."""

    def patch() -> None:
        ticking()
        plain, steps = Trainer.train_step, count(1)

        def dying(self: Trainer, batch: Any) -> None:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            plain(self, batch)

        Trainer.train_step = dying  # type: ignore[method-assign]

    return patch


@pytest.mark.usefixtures("ticks")
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_line(
    here: Path, distill: Distill
) -> None:
    args = (*TRAIN, "--epochs", 3, "--out")
    assert distill(*args, "whole").code == 0
    process = start(*args, here / "torn", "--checkpoint-every", "4s", before=killed_at(28))
    assert process.end().code == -signal.SIGKILL
    before = state_of(here / "torn", "checkpoint-before")
    path = here / "torn/last/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    # With --quiet nothing is said; else one line is.
    outcome = distill("teacher", "train", "--resume", "--out", "torn")
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.err.splitlines() if "checkpoint" in line]
    assert len(lines) == 1
    assert "torn/last/checkpoint.pt cannot be read" in lines[0]
    assert "going on from the checkpoint before it" in lines[0]
    assert (before["epoch"], before["step"]) > (0, 0)
    assert same(here / "whole", here / "torn")
    assert rows(here / "whole") == rows(here / "torn")


@pytest.mark.usefixtures("ticks")
def test_weights_that_are_no_numbers_are_not_kept(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is still finite when the step ruins the weights."""
    plain, steps = Trainer.train_step, count(1)

    def ruined(self: Trainer, batch: Any) -> None:
        plain(self, batch)
        if next(steps) == 15:
            next(self.network.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(Trainer, "train_step", ruined)
    outcome = distill(*TRAIN, "--epochs", 3, "--out", "t", "--checkpoint-every", "1s")
    assert outcome.code == 4, outcome.err
    assert (state_of(here / "t")["epoch"], state_of(here / "t")["step"]) == (1, 4)
    kept = torch.load(here / "t/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "parts"
    ]["network"]
    assert all(value.isfinite().all() for value in kept.values())
    assert json.loads((here / "t/last/outcome.json").read_text())["code"] == 4
    monkeypatch.setattr(Trainer, "train_step", plain)
    assert distill("teacher", "train", "--resume", "--out", "t", "--quiet").code == 0
    assert not (here / "t/last/outcome.json").exists()


@pytest.mark.usefixtures("ticks")
def test_time_that_is_up_is_a_clean_stop_that_goes_on(here: Path, distill: Distill) -> None:
    args = (*TRAIN, "--epochs", 3, "--out")
    assert distill(*args, "whole").code == 0
    outcome = distill(*args, "torn", "--max-time", "18s")
    assert outcome.code == 0
    assert outcome.out == "torn\n"
    assert "stopped in epoch 2 of 3: --max-time 18s is up" in outcome.err
    assert "Go on with --resume --out torn" in outcome.err
    assert not (here / "torn/result.json").exists()
    assert 0 < state_of(here / "torn")["step"] < 10
    # A script finds out by the folder, or by --json.
    resumed = ("teacher", "train", "--resume", "--out", "torn", "--json", "--quiet")
    again = distill(*resumed, "--max-time", "18s")
    assert again.code == 0
    assert json.loads(again.out) == {"run": "torn", "state": "resumable"}
    first = state_of(here / "torn")
    # These options are no part of what is trained.
    more = ("--max-time", "2h", "--checkpoint-every", "1s", "--grace", "9s")
    last = distill("teacher", "train", "--resume", "--out", "torn", "--json", "--quiet", *more)
    assert last.code == 0, last.err
    assert "test_top1" in json.loads(last.out)
    assert first["epoch"] >= 1
    assert same(here / "whole", here / "torn")
    assert rows(here / "whole") == rows(here / "torn")


@pytest.mark.usefixtures("ticks")
@pytest.mark.parametrize(
    ("kind", "options", "runs"),
    [
        (TRAIN[:2], TRAIN[2:], ["run"]),
        (TRAIN[:2], (*TRAIN[2:], "--seeds", 2), ["seed-0", "seed-1"]),
        (("student",), (*CHAIN, "--generations", 2, "--force"), ["generation-1", "run"]),
    ],
    ids=["run", "seeds", "stages"],
)
def test_the_time_of_a_command_ends_with_it(
    made: Made,
    here: Path,
    distill: Distill,
    kind: tuple[str, ...],
    options: tuple[object, ...],
    runs: list[str],
) -> None:
    """What the line says to go on with goes on to the end."""
    given = [str(word).format(teacher=made.teacher) for word in options]
    args = (*kind, *given, "--epochs", 2, "--quiet", "--out", "run")
    outcome = distill(*args, "--max-time", "8s")
    assert outcome.code == 0, outcome.err
    assert "Go on with --resume --out run" in outcome.err
    last = distill(*kind, "--resume", "--out", "run", "--quiet")
    assert last.code == 0, last.err
    assert "--max-time" not in last.err
    assert sorted(path.parent.name for path in (here / "run").rglob("result.json")) == runs


@pytest.mark.slow
@pytest.mark.usefixtures("ticks")
def test_a_chain_shares_its_time(made: Made, here: Path, distill: Distill) -> None:
    args = ("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--generations", 2)
    args = (*args, "--epochs", 2, "--lr", 0.5, "-b", 128, "--force", "--quiet", "--out")
    assert distill(*args, "whole").code == 0
    # More than one stage takes, and less than both.
    outcome = distill(*args, "run", "--max-time", "38s")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "run\n"
    assert "--max-time 38s is up. Go on with --resume --out run" in outcome.err
    assert (here / "run/stages/generation-1/result.json").exists()
    assert state_of(here / "run")["step"] > 0
    assert not (here / "run/result.json").exists()
    # Less than to the end of an epoch, which goes on all the same.
    codes = []
    while not (here / "run/result.json").exists() and len(codes) < 9:
        again = ("student", "--resume", "--out", "run", "--quiet", "--max-time", "8s")
        codes.append(distill(*again).code)
    assert codes == [0] * len(codes)
    assert 1 < len(codes) < 9
    assert same(here / "whole", here / "run")


def digest(folder: Path) -> str:
    return hashlib.sha256(repr(sorted(tree(folder).items())).encode()).hexdigest()


@pytest.mark.parametrize(
    "verb",
    [
        ("student", "--teachers", "half", "--model", "mlp_8x1"),
        ("student", "--teachers", "{teacher},half", "--model", "mlp_8x1"),
        ("student", "--teachers", "{teacher}", "--init", "half"),
        ("teacher", "train", "--data", "digits", "--init", "half"),
        ("hint-init", "--teachers", "half", "--model", "mlp_8x2"),
        ("cache-soft-labels", "--teachers", "half"),
        ("student", "--teachers", "half", "--model", "mlp_8x1", "--resume", "--out", "new"),
        ("student", "--teachers", "half", "--model", "mlp_8x1", "--dry-run"),
        ("evaluate", "{teacher}", "--teacher", "half"),
    ],
)
def test_an_unfinished_run_is_not_learnt_from(
    made: Made, here: Path, distill: Distill, verb: tuple[str, ...]
) -> None:
    """It has a model, the best so far, which would teach as if it were the whole."""
    shutil.copytree(made.teacher, here / "half")
    (here / "half/result.json").unlink()
    before = digest(here)
    outcome = distill(*(word.format(teacher=made.teacher) for word in verb))
    assert outcome.code == 2
    assert outcome.err.startswith("error: run half is not finished. ")
    assert "--resume --out half" in outcome.err
    assert "half/model" in outcome.err
    assert digest(here) == before


def test_the_best_so_far_teaches_where_it_is_named(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.teacher, here / "half")
    args = ("student", "--model", "mlp_8x1", "--epochs", 2, "--quiet", "--out", "s", "--teachers")
    assert distill(*args, "half", "--max-time", "1h").code == 0
    (here / "half/result.json").unlink()
    assert distill(*args[:-2], "again", "--teachers", "half/model").code == 0
    # What was begun before, by a version that let it, goes on.
    assert distill("student", "--resume", "--out", "s", "--quiet").code == 0


@pytest.mark.parametrize("flag", ["--checkpoint-every", "--max-time", "--grace"])
@pytest.mark.parametrize("text", ["10", "soon", "0s"])
def test_nonsense_is_refused(here: Path, distill: Distill, flag: str, text: str) -> None:
    outcome = distill(*TRAIN, flag, text)
    assert outcome.code == 2
    assert flag.strip("-").replace("-", "_") in outcome.err
    assert "90s, 5m, 2h or 1h30m" in outcome.err
    assert not list(here.iterdir())


# SIGTERM, and steps that take longer than anybody waits.


def stuck_in_c() -> None:
    """The third step is one long call, in which Python runs no handler."""
    plain, steps = Trainer.train_step, count(1)

    def stuck(self: Trainer, batch: Any) -> None:
        if next(steps) == 13:
            os.write(2, b"stuck here\n")
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
        plain(self, batch)

    Trainer.train_step = stuck  # type: ignore[method-assign]


def until_stuck(process: Process) -> None:
    def seen() -> bool:
        return b"stuck here" in os.pread(process.err.fileno(), 1 << 16, 0)

    process.until(seen, "the step that takes long")


@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(("--augment", "rotate,trivialaugment", "-j", 1), marks=pytest.mark.slow),
    ],
    ids=["alone", "workers"],
)
def test_a_long_step_does_not_outlast_the_grace(
    here: Path, distill: Distill, more: tuple[object, ...]
) -> None:
    args = (*TRAIN, *more, "--epochs", 3)
    process = start(*args, "--out", here / "t", "--grace", "1s", before=stuck_in_c)
    until_stuck(process)
    begun = time.monotonic()
    process.send(signal.SIGTERM)
    ended = process.end()
    assert ended.code == 143
    # Stuck, it would go on for minutes.
    assert 0.8 < time.monotonic() - begun < 30
    said = ended.err.decode().replace("stuck here\n", "").strip()
    assert said.startswith("stopped at once: the step under way was not over within --grace 1s")
    assert said.endswith(f"Go on with --resume --out {here / 't'}")
    assert state_of(here / "t")["epoch"] == 1, "the end of the first epoch is kept"
    assert distill("teacher", "train", "--resume", "--out", "t", "--quiet").code == 0
    assert distill(*args, "--out", "whole").code == 0
    assert same(here / "whole", here / "t")


def test_a_step_that_ends_in_time_is_kept(here: Path) -> None:
    """The end of the run is the end of the watch, too: nobody is killed in the middle of a write."""
    process = start(
        *(*TRAIN, "--epochs", 3, "--out", here / "t", "--grace", "20s"), before=slow_third_step
    )
    until_stuck(process)
    process.send(signal.SIGTERM)
    ended = process.end()
    assert ended.code == 143
    assert b"stopped in epoch 2 of 3" in ended.err
    assert state_of(here / "t")["step"] == 3


def slow_third_step() -> None:
    plain, steps = Trainer.train_step, count(1)

    def slow(self: Trainer, batch: Any) -> None:
        if next(steps) == 13:
            os.write(2, b"stuck here\n")
            time.sleep(1)
        plain(self, batch)

    Trainer.train_step = slow  # type: ignore[method-assign]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.usefixtures("ticks")
@pytest.mark.parametrize("graphs", ["on", "off"])
def test_on_a_gpu_too(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, graphs: str
) -> None:
    """A recording goes on in the memory that was read for a checkpoint, and in another process's."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    args = (
        *TRAIN,
        "--ema",
        0.9,
        "--epochs",
        4,
        "--set",
        "deterministic=true",
        "--device",
        "cuda:0",
    )
    args = (*args, "--graphs", graphs, "--out")
    assert distill(*args, "whole").code == 0
    assert distill(*args, "often", "--checkpoint-every", "3s").code == 0
    assert distill(*args, "torn", "--max-time", "18s").code == 0
    assert state_of(here / "torn")["step"] > 0
    more = ("--max-time", "2h", "--checkpoint-every", "4s", "--quiet")
    outcome = distill("teacher", "train", "--resume", "--out", "torn", *more)
    torch.use_deterministic_algorithms(False)
    assert outcome.code == 0, outcome.err
    for run in ("often", "torn"):
        assert same(here / "whole", here / run), run
        assert rows(here / "whole") == rows(here / run), run
