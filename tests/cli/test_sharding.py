"""`--shard` through the command line: checkpoints in parts, killed, planted and gone on with; refusals.

Each rank is a forked child, on the CPU.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

# Children have imported what this process has.
import torch
import torch.distributed.fsdp
from safetensors.torch import load_file

from distill_cli.data import open_splits
from distill_cli.files import TEMPORARY
from distill_cli.models import load_model
from tests.conftest import Outcome
from tests.kills import TORN, Watch, kept
from tests.processes import Written, fork, typed
from tests.ranks import by_ranks, placed, port
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
RUN: tuple[Any, ...] = (
    *("teacher", "train", "--data", "digits", "--device", "cpu", "--precision", "fp32"),
    *("--model", "mlp_16x1", "--epochs", 3, "-b", 216, "--quiet"),
)
IN_PARTS = (*RUN, "--shard", "student")
# A run keeps to what it was begun with.
IN_WHOLE = (*RUN, "--shard", "none")


def dying(
    rank: int, dies: Callable[[int, str, Path], None], out: Path, *args: Any
) -> list[Written]:
    """`distill ARGS` by two ranks, of which one is told of each of its writes below a folder."""
    at, children = port(), []
    for number in range(2):
        place = placed(number, 2, at)

        def before(place: Callable[[], None] = place, number: int = number) -> None:
            place()
            if number == rank:
                Watch(out, dies).begin()

        children.append(fork(typed(args), before=before))
    return [child.end() for child in children]


def at_name(name: str) -> Callable[[int, str, Path], None]:
    """Dies before a file of this name is moved."""

    def dies(_: int, event: str, path: Path) -> None:
        if event == "os.rename" and path.name == name:
            os.kill(os.getpid(), signal.SIGKILL)

    return dies


def at_number(number: int, *, torn: bool) -> Callable[[int, str, Path], None]:
    """Dies before its write of that number, or in its middle."""

    def dies(now: int, event: str, path: Path) -> None:
        if now == number and torn and event == "open":
            size = path.stat().st_size if path.name in ("metrics.jsonl", "summary.csv") else 0
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + TORN, size + TORN))
        elif now == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return dies


def results(run: Path) -> dict[str, Any]:
    """What a run left, but for how it lies in its checkpoints, and how many share it."""
    found = kept(run)
    del found["recipe.yaml"]
    found["result.json"].pop("latency_ms", None)
    return {name: value for name, value in found.items() if not name.startswith("last/")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole` and `parts`, of two ranks; `killed`, whose rank 1 died with a half of a checkpoint."""
    root = tmp_path_factory.mktemp("sharding")
    # Children have read what this process has.
    open_splits._digits()
    for name, args in (("whole", RUN), ("parts", IN_PARTS)):
        for ended in by_ranks(2, *args, "--out", root / name):
            assert ended.code == 0, ended.err.decode()
    out = root / "killed"
    ends = dying(1, at_name(f"{TEMPORARY}shard-2-1.safetensors"), out, *IN_PARTS, "--out", out)
    assert [ended.code for ended in ends] == [1, -signal.SIGKILL]
    assert "rank 1 on " in ends[0].err.decode()
    return root


def files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "last").iterdir())


def test_what_is_saved_is_one_plain_model_and_the_last_two_checkpoints(runs: Path) -> None:
    one, other = (load_file(runs / name / "model/model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-6, rtol=1e-5)
    assert (runs / "parts/model/config.json").read_text() == (
        runs / "whole/model/config.json"
    ).read_text()
    load_model(runs / "parts")
    shards = [f"shard-{number}-{rank}.safetensors" for number in (2, 3) for rank in (0, 1)]
    assert files(runs / "parts") == ["checkpoint-before.pt", "checkpoint.pt", *shards]


@pytest.mark.slow
def test_killed_between_the_parts_of_a_checkpoint_it_goes_on_from_the_one_before(
    runs: Path, tmp_path: Path, distill: Distill
) -> None:
    """On as many ranks to the same bits; as one process, of whole weights, up to rounding."""
    shutil.copytree(runs / "killed", tmp_path / "two")
    shutil.copytree(runs / "killed", tmp_path / "one")
    assert "shard-2-0.safetensors" in files(tmp_path / "two")
    for ended in by_ranks(2, *IN_PARTS, "--out", tmp_path / "two", "--resume"):
        assert ended.code == 0, ended.err.decode()
    assert results(tmp_path / "two") == results(runs / "parts")
    assert len(files(tmp_path / "two")) == 6, "what no checkpoint has is removed"
    outcome = distill(*IN_WHOLE, "--out", tmp_path / "one", "--resume")
    assert outcome.code == 0, outcome.err
    assert files(tmp_path / "one") == ["checkpoint-before.pt", "checkpoint.pt"]
    one = load_file(tmp_path / "one/model/model.safetensors")
    for name, value in load_file(runs / "parts/model/model.safetensors").items():
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "ranks", "after"), [(1, 2, "student"), (2, 3, "student")])
def test_it_goes_on_in_other_parts(
    runs: Path, tmp_path: Path, before: int, ranks: int, after: str
) -> None:
    """From whole weights of one process to parts, and from two ranks to three."""
    out = tmp_path / "run"
    args = IN_PARTS if before > 1 else RUN
    if before > 1:
        shutil.copytree(runs / "killed", out)
    else:
        dies = Watch(out, at_name("checkpoint.pt"))
        assert fork(typed((*args, "--out", out)), before=dies.begin).end().code < 0
    for ended in by_ranks(ranks, *RUN, "--shard", after, "--out", out, "--resume"):
        assert ended.code == 0, ended.err.decode()
    one = load_file(out / "model/model.safetensors")
    for name, value in load_file(runs / "parts/model/model.safetensors").items():
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_at_any_write_it_goes_on_to_the_same_bits(
    runs: Path, tmp_path: Path, rank: int, torn: bool
) -> None:
    for number in count(1):
        out = tmp_path / f"{number}"
        ends = dying(rank, at_number(number, torn=torn), out, *IN_PARTS, "--out", out)
        if all(ended.code == 0 for ended in ends):
            assert number > 5
            return
        resumed = ("--resume",) if out.exists() and any(out.iterdir()) else ()
        for ended in by_ranks(2, *IN_PARTS, "--out", out, *resumed):
            assert ended.code == 0, (number, ended.err.decode())
        assert results(out) == results(runs / "parts"), number
        shutil.rmtree(out)


class Payload:
    """What makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def planted(run: Path, kind: str) -> Iterator[str]:
    """Plants something in both checkpoints of a run; what the refusal says of it."""
    pwned = run.parent / "pwned"
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        path = run / "last" / name
        content = torch.load(path, weights_only=True)
        if kind == "metadata":
            content["shards"] = Payload(pwned)
            yield "it holds more than tensors and plain values"
        elif kind == "shard":
            # With the right sum: whoever plants one makes the other.
            first = content["shards"][0]
            planted = pickle.dumps(Payload(pwned))
            (run / "last" / first["file"]).write_bytes(planted)
            first["sha256"] = hashlib.sha256(planted).hexdigest()
            yield "does not fit"
        elif kind == "path":
            content["shards"][0]["file"] = "../../shard-1-0.safetensors"
            yield "the names of its shards are damaged"
        elif kind == "flip":
            shard = run / "last" / content["shards"][1]["file"]
            data = bytearray(shard.read_bytes())
            data[-3] ^= 1
            shard.write_bytes(data)
            yield "does not agree"
        elif kind == "lost":
            (run / "last" / content["shards"][1]["file"]).unlink()
            yield "is missing"
        if kind not in ("flip", "lost"):
            # An archive without a sum is one of an earlier version.
            content.pop("checksum")
            torch.save(content, path)


FAULTS = {
    "metadata": "a pickle that runs code in the metadata of sharded weights",
    "shard": "a pickle in the place of a shard of weights, with its checksum",
    "path": "a shard's name that leads out of the folder",
    "flip": "a flipped bit in the shards of both checkpoints",
    "lost": "a shard of both checkpoints is missing",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_planted(
    runs: Path,
    tmp_path: Path,
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs / "parts", tmp_path / "a")
    (tmp_path / "a/result.json").unlink()
    reasons = list(planted(tmp_path / "a", kind))
    outcome = distill(*IN_WHOLE, "--out", "a", "--resume")
    assert outcome.code == 3, outcome.err
    assert reasons[0] in outcome.err
    assert not (tmp_path / "pwned").exists()
    command = "distill teacher train --shard none --resume --out a"
    reliability("Models and checkpoints", FAULTS[kind], command, outcome)


@pytest.mark.slow
def test_damage_to_the_last_gives_way_to_the_one_before(
    runs: Path, tmp_path: Path, distill: Distill
) -> None:
    shutil.copytree(runs / "parts", tmp_path / "a")
    (tmp_path / "a/result.json").unlink()
    (tmp_path / "a/last/shard-3-1.safetensors").unlink()
    shown = [arg for arg in IN_WHOLE if arg != "--quiet"]
    outcome = distill(*shown, "--out", tmp_path / "a", "--resume")
    assert outcome.code == 0, outcome.err
    assert "going on from the checkpoint before it" in outcome.err


def test_one_process_has_nobody_to_share_with(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    outcome = distill(*RUN, "--shard", "student", "--out", "a")
    assert outcome.code == 2
    assert not (here / "a").exists()
    command = "distill teacher train --shard student"
    reliability("Usage and recipes", "`--shard` in one process", command, outcome)
