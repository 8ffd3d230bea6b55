"""Killed between any two of its writes, a command goes on or begins anew, to the same bits."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from distill_cli.errors import UsageError
from distill_cli.pipeline.folders import check_output, holds_run
from tests.cli.test_faults import pictures
from tests.conftest import Made, Outcome, invoke
from tests.data.test_disk_cache import settle
from tests.kills import kept, kill, writes_of
from tests.processes import fork, typed
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "-b", 64, "--lr", 0.1, "--quiet")
TEACHER = ("teacher", "train", "--data", "digits", *TINY)


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        args: Its arguments, but for its folder.
        trains: Whether it is refused a second time, and goes on with --resume.
        before: Makes what lies in its folder before.
    """

    args: tuple[object, ...]
    trains: bool = True
    before: Callable[[Path], object] = lambda out: None

    def to(self, out: Path) -> tuple[object, ...]:
        """All of its arguments."""
        return (*self.args, "--out", out)

    def again(self, out: Path) -> tuple[object, ...]:
        """The arguments by which it goes on; who replaces what is there does so again."""
        resumes = self.trains and "--overwrite" not in self.args
        return (*self.to(out), *(("--resume",) if resumes else ()))


def done(*args: object) -> None:
    outcome = invoke(*args)
    assert outcome.code == 0, outcome.err


def commands(made: Made, root: Path) -> dict[str, Command]:
    """One of each kind, on small data."""
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--shard-length", 900, "--quiet")
    for part in (1, 2):
        done(*dump, "--part", f"{part}/2", "--out", root / f"part-{part}")
    done("cache", "export", made.labels / "a", "--out", root / "labels.csv", "--quiet")
    file = ("cache", "import", root / "labels.csv", "--kind", "logits", "--data", "digits")
    both = f"{made.teacher},{made.other}"
    done(*TEACHER, "--limit", 40, "--epochs", 1, "--out", root / "small")
    cross_fit = (
        "cache-soft-labels",
        "--teachers",
        root / "small",
        "--cross-fit",
        2,
        "--force",
        "--quiet",
    )
    return {
        "teacher": Command((*TEACHER, "--epochs", 2)),
        "student": Command(("student", "--teachers", made.labels / "a", *TINY, "--epochs", 2)),
        "chain": Command(
            ("student", "--teachers", made.teacher, "--generations", 2, *TINY, "--epochs", 1)
        ),
        "hints": Command(("student", "--teachers", made.teacher, "--hints", *TINY, "--epochs", 1)),
        "rounds": Command(
            (
                *("self-train", "--data", "digits", "--limit", 300, "--labels-per-class", 6),
                *("--rounds", 2, "--threshold", 0.1, *TINY, "-b", 8, "--epochs", 1),
            )
        ),
        "seeds": Command((*TEACHER, "--epochs", 1, "--seeds", 2)),
        "overwrite": Command(
            (*TEACHER, "--epochs", 1, "--overwrite"),
            before=lambda out: done(*TEACHER, "--seed", 5, "--epochs", 1, "--out", out),
        ),
        "dump": Command(
            ("cache-soft-labels", "--teachers", both, *dump[3:], "--publish"), trains=False
        ),
        "dump over": Command(
            (*dump, "--overwrite"),
            trains=False,
            before=lambda out: done(*dump, "--codec", "fp16", "--out", out),
        ),
        "cross-fit": Command(
            (*cross_fit, "--overwrite"),
            trains=False,
            before=lambda out: done(*cross_fit, "--codec", "fp16", "--out", out),
        ),
        "merge": Command(
            ("cache", "merge", root / "part-1", root / "part-2", "--quiet"), trains=False
        ),
        "import": Command((*file, "--quiet"), trains=False),
    }


KINDS = (
    *("teacher", "student", "chain", "hints", "rounds", "seeds", "overwrite"),
    *("dump", "dump over", "cross-fit", "merge", "import"),
)


@pytest.fixture(scope="module")
def known(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    return commands(made, tmp_path_factory.mktemp("commands"))


def is_refused(command: Command, out: Path) -> bool:
    """Whether the command as it was typed is refused, because a run lies in its folder."""
    if not command.trains or "--overwrite" in command.args:
        return False
    try:
        check_output(out, resume=False, overwrite=False, seeds="--seeds" in command.args)
    except UsageError:
        return True
    return any(map(holds_run, (entry for entry in out.glob("seed-*") if entry.is_dir())))


def goes_on(command: Command, out: Path, unbroken: dict[str, Any]) -> list[str]:
    """Goes on after a kill, with --resume; and as it was typed, where that is not refused."""
    wrong = []
    ways = [command.again(out)]
    if command.again(out) != command.to(out) and not is_refused(command, out):
        plain = out.with_name("plain")
        shutil.rmtree(plain, ignore_errors=True)
        if out.exists():
            shutil.copytree(out, plain)
        ways.append(command.to(plain))
    for way in ways:
        outcome, folder = invoke(*way), Path(str(way[way.index("--out") + 1]))
        if outcome.code != 0:
            wrong.append(f"{outcome.code}: {outcome.err}")
            continue
        found = kept(folder)
        names = {*found, *unbroken}
        wrong += [name for name in sorted(names) if found.get(name) != unbroken.get(name)]
    return wrong


def begun(command: Command, here: Path, name: str = "run") -> Path:
    """The folder of a command, with what lies in it before."""
    shutil.rmtree(here / name, ignore_errors=True)
    command.before(here / name)
    return here / name


# The moments of a run that differ in kind; each takes a second.
MOMENTS = [
    ("open", ".tmp-config.json", 1, False),
    ("open", ".tmp-checkpoint.pt", 1, False),
    ("open", "summary.csv", 3, True),
    ("os.rename", ".tmp-checkpoint.pt", 2, False),
    ("os.rename", ".tmp-result.json", 1, False),
]


def test_a_run_goes_on_from_the_moments_that_differ(here: Path, reliability: Reliability) -> None:
    command = Command((*TEACHER, "--epochs", 2))
    writes = writes_of(command.to(here / "unbroken"), here / "unbroken")
    unbroken = kept(here / "unbroken")
    for event, name, nth, torn in MOMENTS:
        numbers = [at for at, write in enumerate(writes, start=1) if write == (event, name)]
        out = begun(command, here)
        kill(command.to(out), out, numbers[nth - 1], torn=torn)
        assert not (out / "result.json").exists()
        assert is_refused(command, out)
        wrong = goes_on(command, out, unbroken)
        assert not wrong, (event, name, wrong)
    reliability(
        *("Kills, disks and streams", "killed between any two writes of a run"),
        *("distill teacher train … --out t --resume", Outcome(0, "", "")),
        message="the bits of an unbroken run",
    )


def test_what_a_kill_left_of_several_seeds_is_tidied(here: Path) -> None:
    """In their own folder, where nobody else writes; the run of each tidies its own."""
    command = Command((*TEACHER, "--epochs", 1, "--seeds", 2))
    done(*command.to(here / "whole"))
    # Its folder and its lock come before.
    kill(command.to(here / "run"), here / "run", 4)
    assert list((here / "run").glob(".tmp*"))
    assert goes_on(command, here / "run", kept(here / "whole")) == []


def test_a_cache_that_is_replaced_is_replaced_by_the_same_command(
    made: Made, here: Path, reliability: Reliability
) -> None:
    """Killed among the removals of the old one's files, of which its plan is the last."""
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--overwrite", "--quiet")
    command = Command(dump, trains=False)
    shutil.copytree(made.labels / "a", here / "whole")
    writes = writes_of(command.to(here / "whole"), here / "whole")
    for name in ("recipe.yaml", "plan.json"):
        shutil.copytree(made.labels / "a", here / "run", dirs_exist_ok=True)
        kill(command.to(here / "run"), here / "run", writes.index(("os.remove", name)) + 1)
        assert not (here / "run/manifest.json").exists()
        assert (here / "run/plan.json").exists()
    done(*command.to(here / "run"))
    assert kept(here / "run") == kept(here / "whole")
    reliability(
        *("Kills, disks and streams", "killed between any two writes of a dump, merge or import"),
        *("distill cache-soft-labels … --out c", Outcome(0, "", "")),
        message="the bytes of an unbroken dump",
    )


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True], ids=["between", "within"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_between_any_two_writes(
    known: dict[str, Command], here: Path, kind: str, torn: bool
) -> None:
    command = known[kind]
    out = begun(command, here, "unbroken")
    writes = writes_of(command.to(out), out)
    unbroken, wrong = kept(out), {}
    for number, (event, name) in enumerate(writes, start=1):
        if torn and (event != "open" or name == ".lock"):
            continue
        out = begun(command, here)
        kill(command.to(out), out, number, torn=torn)
        if differing := goes_on(command, out, unbroken):
            wrong[number, event, name] = differing
    print(f"{kind}: {len(writes)} writes")
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True], ids=["between", "within"])
def test_what_is_remembered_of_pictures_is_whole_or_made_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """Killed between any two writes of decoded images and digests, which no run depends on."""
    # Files that changed a moment ago are not remembered.
    settle(pictures(here / "data"))
    command = Command(("teacher", "train", "--data", here / "data", *TINY, "--epochs", 1))
    monkeypatch.setenv("DISTILL_CACHE", str(here / "first"))
    writes = writes_of(command.to(here / "unbroken"), here / "first")
    assert len(writes) > 5
    unbroken = kept(here / "unbroken")
    for number in range(1, len(writes) + 1):
        memory = here / f"memory-{number}"
        monkeypatch.setenv("DISTILL_CACHE", str(memory))
        kill(command.to(here / "run"), memory, number, torn=torn)
        assert goes_on(command, here / "run", unbroken) == []
        shutil.rmtree(here / "run")


@pytest.mark.slow
def test_kills_at_random_moments(known: dict[str, Command], here: Path) -> None:
    """Fifty of them; every third run is killed once more while it goes on."""
    draw, kills, stages = random.Random(0), 0, []
    for number in count():
        if kills >= 50:
            break
        kind = KINDS[number % len(KINDS)]
        command = known[kind]
        out = begun(command, here, "unbroken")
        started = time.monotonic()
        writes = len(writes_of(command.to(out), out))
        seconds, unbroken = time.monotonic() - started, kept(out)
        out = begun(command, here)
        args = command.to(out)
        for _ in range(2 if number % 3 == 0 else 1):
            process = fork(typed(args))
            deadline = time.monotonic() + draw.uniform(0, seconds)
            while time.monotonic() < deadline and not process.ended:
                process.pause("a random moment")
            if not process.ended:
                process.send(signal.SIGKILL)
            ended = process.end()
            if ended.code != -signal.SIGKILL:
                # It was quicker than the unbroken one.
                assert ended.code == 0, (kind, ended.err.decode())
                break
            kills += 1
            stages.append(f"{kind}: {sum(path.is_file() for path in out.rglob('*'))} files")
            args = command.again(out)
        assert goes_on(command, out, unbroken) == [], (kind, writes)
    print(f"{kills} kills in {number} runs; there were, at each, {', '.join(stages)}")
