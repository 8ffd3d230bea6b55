"""What ranks make together is what one process makes: runs, chains, seeds, hints, evaluations.

In fp32 on the CPU. Ranks sum the gradients in another order than one process, and go on to the same
bits as the same number of ranks.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distill_cli.training import pauses
from tests.conftest import Made, Outcome
from tests.processes import Written, fork, in_files, typed
from tests.ranks import by_ranks, placed, port

Cli = Callable[..., Outcome]
COMMON = ("--precision", "fp32", "-b", 144, "--lr", 0.05, "--epochs", 2, "--quiet")
TEACHER = ("teacher", "train", "--data", "digits", "--model", "mlp_32x1", "--dropout", 0.2)


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_near(run: Path, other: Path) -> None:
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-4, rtol=1e-3, msg=name)


def assert_equal(run: Path, other: Path) -> None:
    one, two = weights(run), weights(other)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def assert_ended(written: list[Written], code: int = 0) -> None:
    for rank in written:
        assert rank.code == code, rank.err.decode()


def figures(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text())
    return values


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_run_is_that_of_one_process(distill: Cli, here: Path, ranks: int) -> None:
    """Dropout and views too; and again to the bit."""
    alone = distill(*TEACHER, *COMMON, "--augment", "shift:1", "--out", "one")
    assert alone.code == 0, alone.err
    for out in ("a", "b"):
        command = (*TEACHER, *COMMON, "--augment", "shift:1", "--out", out)
        assert_ended(by_ranks(ranks, *command))
    assert_near(here / "one", here / "a")
    assert_equal(here / "a", here / "b")
    assert figures(here / "a")["test_samples"] == figures(here / "one")["test_samples"]
    assert figures(here / "a")["val_top1"] == pytest.approx(
        figures(here / "one")["val_top1"], abs=0.02
    )


MODES = {
    "random": (),
    "relabel": (),
    "ensemble": ("--teacher-weights", "0.7,0.3"),
}


@pytest.mark.parametrize(
    ("mode", "cached"),
    [
        ("random", True),
        pytest.param("relabel", False, marks=pytest.mark.slow),
        pytest.param("ensemble", True, marks=pytest.mark.slow),
        pytest.param("random", False, marks=pytest.mark.slow),
        pytest.param("relabel", True, marks=pytest.mark.slow),
        pytest.param("ensemble", False, marks=pytest.mark.slow),
    ],
)
def test_every_mode(distill: Cli, here: Path, made: Made, mode: str, cached: bool) -> None:
    """Of live teachers, and from caches."""
    teachers = (made.labels,) if cached else (made.teacher, made.other)
    named = (
        "--teachers",
        ",".join(map(str, teachers)),
        "--model",
        "mlp_8x1",
        "--mode",
        mode,
        *MODES[mode],
    )
    assert distill("student", *named, *COMMON, "--out", "one").code == 0
    assert_ended(by_ranks(2, "student", *named, *COMMON, "--out", "two"))
    assert_near(here / "one", here / "two")


@pytest.mark.slow
def test_chains_hints_and_seeds(distill: Cli, here: Path, made: Made) -> None:
    """Stages and seeds are run one after another, by all ranks."""
    chain = (
        "student",
        "--teachers",
        made.teacher,
        "--model",
        "mlp_8x2",
        "--hints",
        "--hint-epochs",
        1,
    )
    seeds = (*TEACHER, "--seeds", "2")
    for command, name in ((chain, "chain"), (seeds, "seeds")):
        one = distill(*command, *COMMON, "--out", f"{name}-one")
        assert one.code == 0, one.err
        assert_ended(by_ranks(2, *command, *COMMON, "--out", f"{name}-two"))
    assert_near(here / "chain-one", here / "chain-two")
    for seed in ("seed-0", "seed-1"):
        assert_near(here / "seeds-one" / seed, here / "seeds-two" / seed)
    rows = json.loads((here / "seeds-two" / "seeds.json").read_text())
    assert len(rows["seeds"]) == 2


def stopping_after(steps: int) -> Callable[[], None]:
    """A `before`: this process gets SIGTERM after so many steps."""

    def plant() -> None:
        import os
        import signal

        from distill_cli.training.update import Update

        plain, left = Update.__call__, [steps]

        def counted(self: Update, *args: Any) -> None:
            plain(self, *args)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        Update.__call__ = counted  # type: ignore[method-assign]

    return plant


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_any_number(here: Path) -> None:
    """To the same bits with as many, and near with fewer; all ranks stop after the same step."""
    command = (*TEACHER, *COMMON, "--augment", "shift:1")
    assert_ended(by_ranks(4, *command, "--out", "whole"))
    for out, ranks in (("four", 4), ("one", 1)):
        at = port()

        def plant(rank: int, at: int = at) -> None:
            placed(rank, 4, at)()
            if rank == 2:
                stopping_after(11)()

        typed_out = typed((*command, "--out", out))
        stopped = [
            fork(typed_out, before=lambda rank=rank, plant=plant: plant(rank)) for rank in range(4)
        ]
        assert_ended([child.end() for child in stopped], 143)
        again = (*command, "--out", out, "--resume")
        assert_ended(by_ranks(ranks, *again) if ranks > 1 else [in_files(*again)])
    assert_equal(here / "whole", here / "four")
    assert_near(here / "whole", here / "one")


def test_evaluations_are_shared_out(distill: Cli, here: Path, made: Made) -> None:
    command = ("evaluate", made.student, "--teacher", made.teacher, "--json")
    alone, together = json.loads(distill(*command).out), by_ranks(2, *command)
    assert_ended(together)
    values = json.loads(together[0].out)
    alone.pop("latency_ms"), values.pop("latency_ms")
    assert values == alone


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(("-b", 100), "The nearest that is: 99 or 102", marks=pytest.mark.slow),
        (("-b", 144, "--accumulate", 5), "The nearest that is: 135 or 150"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(here: Path, options: Any, words: str) -> None:
    written = by_ranks(3, *TEACHER, *COMMON, *options, "--out", "r")
    assert_ended(written, 2)
    assert words in " ".join(written[0].err.decode().split())
    assert not (here / "r").exists()


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a cache but the record of the machine."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "recipe.yaml")
    }


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_dumps_are_shared_out(distill: Cli, here: Path, made: Made, ranks: int) -> None:
    """The same bytes, whichever rank made a shard; and of a dump that goes on."""
    command = (
        *("cache-soft-labels", "--teachers", f"{made.teacher},{made.other}", "--views", 2),
        *("--augment", "shift:1", "--shard-length", 300, "--threads", 1, "--quiet"),
    )
    alone = distill(*command, "--out", "one")
    assert alone.code == 0, alone.err
    assert_ended(by_ranks(ranks, *command, "--out", "two"))
    assert len(files(here / "one")) > 20
    assert files(here / "one") == files(here / "two")
    lost = sorted((here / "two").rglob("shard-*"))[1::2]
    for path in lost:
        path.unlink()
    assert_ended(by_ranks(ranks, *command, "--out", "two"))
    assert files(here / "one") == files(here / "two")


@pytest.mark.slow
def test_states_are_kept_by_one_clock(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks whose weights lie in parts keep them after the same step, whatever their clocks say."""
    # A second each 50 ms, and every rank reads it a little differently.
    monkeypatch.setattr(pauses, "clock", lambda: 20 * time.monotonic() + os.getpid() % 7 / 10)
    command = (*TEACHER, "--shard", "student", "--checkpoint-every", "1s", "--rank-timeout", "10s")
    assert_ended(by_ranks(2, *command, *COMMON[:-2], 6, "--quiet", "--out", "r"))
    assert len(list((here / "r" / "last").glob("shard-*"))) == 4


def test_hints_of_teachers_in_parts(here: Path, made: Made) -> None:
    """The held-out images are one batch, which one of the ranks asks the teacher for."""
    command = ("hint-init", "--teachers", made.teacher, "--model", "mlp_8x1", "--shard", "teachers")
    assert_ended(by_ranks(2, *command, *COMMON, "--rank-timeout", "20s", "--out", "h"))


@pytest.mark.slow
def test_seeds_of_teachers_in_parts_go_on(here: Path, made: Made) -> None:
    command = ("student", "--teachers", made.teacher, "--model", "mlp_8x1", "--seeds", 2)
    command += (*COMMON, "--shard", "teachers", "--rank-timeout", "20s", "--out", "s")
    assert_ended(by_ranks(2, *command))
    (here / "s/seed-1/result.json").unlink()
    assert_ended(by_ranks(2, *command, "--resume"))
    assert (here / "s/seed-1/result.json").is_file()
