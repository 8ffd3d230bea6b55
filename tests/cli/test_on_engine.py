"""`cache-soft-labels --on ENGINE`: the bytes of a plain dump, whoever made them. fp32 on the CPU."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_cli.cli import cache_soft_labels
from distill_cli.errors import InternalError
from distill_cli.pipeline.labels import prepare
from distill_cli.pipeline.labels.dump_tasks import Begin, Make
from tests.cache.examples import contents
from tests.cli.test_faults import one_line
from tests.conftest import Made, Outcome
from tests.pipeline.engines.in_process import InProcess
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
DUMP = ("cache-soft-labels", "--views", 2, "--augment", "shift:1", "--shard-length", 600)


def files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not name.endswith(".lock")}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Stands for every engine."""
    made = InProcess()
    monkeypatch.setattr(cache_soft_labels, "engine_named", lambda *_, **__: made)
    return made


@pytest.fixture
def dump(engine: InProcess, distill: Distill, made: Made, here: Path) -> Callable[..., Outcome]:
    def call(*args: object, out: str = "c", teachers: object = made.teacher) -> Outcome:
        return distill(*DUMP, "--on", "ray", "--teachers", teachers, "--out", out, *args)

    return call


def test_it_has_the_bytes_of_a_plain_dump(
    made: Made, dump: Callable[..., Outcome], engine: InProcess
) -> None:
    outcome = dump("--json", teachers=f"{made.teacher},{made.other}")
    assert outcome.code == 0, outcome.err
    assert files(Path("c")) == files(made.labels)
    for cache in json.loads(outcome.out)["caches"]:
        assert {worker["node"] for worker in cache["made_by"]} == {"node-0", "node-1"}
        assert sum(worker["shards"] for worker in cache["made_by"]) == cache["shards"] == 6
    # A task a shard, one for what lies beside the shards, and one that opens everything first.
    assert [type(task) for _, task in engine.ran] == [Begin, *7 * [Make]]
    again = dump(teachers=f"{made.teacher},{made.other}")
    assert "nothing was left to do" in again.err
    assert [type(task) for _, task in engine.ran[8:]] == [Begin]


def test_it_makes_only_what_is_missing_or_damaged(
    made: Made, dump: Callable[..., Outcome], engine: InProcess
) -> None:
    assert dump("--quiet", "--tasks", 2).code == 0
    assert [len(task.shards) for _, task in engine.ran[1:]] == [0, 3, 3]
    whole = files(Path("c"))
    (Path("c") / "view-0000" / "shard-00001.safetensors").unlink()
    shard = Path("c") / "view-0001" / "shard-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0\1")
    (Path("c") / "eval.safetensors").unlink()
    (Path("c") / "view-0000" / ".tmp-0123456789abcdef").write_bytes(b"of a killed worker")
    engine.ran.clear()
    assert dump("--quiet").code == 0
    made_again = [file for _, task in engine.ran[1:] for _, file in task.files]
    assert made_again == ["eval.safetensors", *sorted(made_again[1:])]
    assert len(made_again) == 3
    assert files(Path("c")) == whole


def test_files_come_through_a_staging_place(
    made: Made, dump: Callable[..., Outcome], engine: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose workers do not see the caches' folders."""
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "store", {})
    both = f"{made.teacher},{made.other}"
    outcome = dump("--staging", "memory://bucket/dump", "--quiet", teachers=both)
    assert outcome.code == 0, outcome.err
    assert files(Path("c")) == files(made.labels)
    assert MemoryFileSystem.store == {}


@pytest.mark.slow
def test_files_come_through_s3(
    made: Made, dump: Callable[..., Outcome], engine: InProcess, s3: str
) -> None:
    outcome = dump("--staging", f"{s3}/dump", "--quiet")
    assert outcome.code == 0, outcome.err
    assert files(Path("c")) == files(made.labels / made.teacher.name)
    import s3fs

    assert s3fs.S3FileSystem(use_listings_cache=False).find("bucket") == []


def test_a_file_that_changed_in_the_staging_place_is_refused(
    dump: Callable[..., Outcome], engine: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "store", {})
    plain = MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        MemoryFileSystem, "pipe_file", lambda self, path, value: plain(self, path, value[:-1])
    )
    outcome = dump("--staging", "memory://bucket/dump", "--quiet")
    assert outcome.code == 3
    assert "has other bytes than the worker wrote" in one_line(outcome)
    assert not list(Path("c").rglob("*.safetensors"))


def test_another_machine_that_would_make_other_labels_is_refused(
    dump: Callable[..., Outcome],
    engine: InProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def before(worker: int, task: Any) -> None:
        if worker == 1:
            monkeypatch.setattr(prepare, "cpu_capability", lambda: "Z80")
            # As on a machine that began from nothing: plan.json is what it is compared with.
            monkeypatch.setattr(prepare, "continued", lambda folder, plan: plan)

    engine.before = before
    outcome = dump("--quiet")
    assert outcome.code == 3
    assert "would make other labels" in one_line(outcome)
    assert "Z80" in outcome.err
    assert not (Path("c") / "manifest.json").exists()


def test_a_worker_without_the_shared_disk_is_refused(
    dump: Callable[..., Outcome], engine: InProcess, reliability: Reliability
) -> None:
    def before(worker: int, task: Any) -> None:
        if isinstance(task, Make):
            # To this worker the folder is another.
            Path("c/plan.json").rename("elsewhere.json")

    engine.before = before
    outcome = dump("--quiet")
    assert outcome.code == 3
    assert "is not the folder that the dump was begun in" in one_line(outcome)
    assert "--staging" in outcome.err
    reliability(
        "Caches",
        "a worker of an engine does not see the folder of `--out`",
        "distill cache-soft-labels … --on ray",
        outcome,
        message=one_line(outcome).replace(os.uname().nodename, "HOST"),
    )
    assert not list(Path("c").rglob("*.safetensors"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_and_leaves_finished_shards(
    made: Made,
    dump: Callable[..., Outcome],
    engine: InProcess,
    reliability: Reliability,
    number: int,
) -> None:
    def before(worker: int, task: Any) -> None:
        if len(engine.ran) == 4:
            os.kill(os.getpid(), number)

    engine.before = before
    outcome = dump("--quiet")
    assert outcome.code == 128 + number
    assert "stopped after" in outcome.err
    assert len(list(Path("c").glob("view-*/*"))) == 3
    assert not (Path("c") / "manifest.json").exists()
    if number == signal.SIGTERM:
        reliability(
            "Kills, disks and streams",
            "SIGTERM during a dump on an engine",
            "distill cache-soft-labels … --on ray",
            outcome,
            message="\n".join(outcome.err.splitlines()[-1:]),
        )
    engine.before = lambda worker, task: None
    assert dump("--quiet").code == 0
    assert files(Path("c")) == files(made.labels / made.teacher.name)


def test_a_fault_on_a_worker_names_its_machine_and_keeps_its_code(
    dump: Callable[..., Outcome], engine: InProcess, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path("broken") / "model").mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (Path("broken/model") / file).write_bytes((made.teacher / "model" / file).read_bytes()[:99])
    outcome = dump("--quiet", "--data", "digits", teachers="broken")
    assert outcome.code == 3
    assert f"error: on {os.uname().nodename}: " in one_line(outcome)
    assert not Path("c").exists()

    def died(worker: int, task: Any) -> None:
        raise InternalError("a task's worker died 6 times")

    engine.before = died
    assert dump("--quiet").code == 1


def test_a_dry_run_says_the_tasks(dump: Callable[..., Outcome], engine: InProcess) -> None:
    assert "# 6 tasks of 1 shard on ray" in dump("--dry-run").out.splitlines()
    assert "# 4 tasks of 1 or 2 shards on ray" in dump("--dry-run", "--tasks", 4).out.splitlines()
    assert json.loads(dump("--dry-run", "--json").out)["tasks"] == 6
    assert dump("--quiet").code == 0
    (Path("c") / "view-0000" / "shard-00001.safetensors").unlink()
    assert "# 1 task of 1 shard on ray" in dump("--dry-run").out.splitlines()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--on", "rey"), "there is no such engine"),
        (("--on", "ray:head"), "ray://HOST:PORT"),
        (("--on", "ray://head"), "ray://HOST:PORT"),
        (("--on", "ray", "--part", "1/2"), "--part"),
        (("--tasks", 3), "--on"),
        (("--staging", "s3://x/y"), "--on"),
        (("--engine-option", "workers=3"), "--on"),
        (("--on", "ray", "--engine-option", "workers"), "KEY=VALUE"),
        (("--on", "ray", "--engine-option", "wokers=3"), "'workers'"),
        (("--on", "ray", "--engine-option", "workers=many"), "a number"),
        (("--on", "ray", "--engine-option", "workers=0"), "from 1 on"),
        (("--on", "slurm", "--staging", "nowhere://x/y"), "nowhere://"),
        (("--on", "slurm", "--staging", "s3://"), "names no place"),
    ],
)
def test_what_cannot_be_meant(
    here: Path, distill: Distill, made: Made, args: tuple[object, ...], said: str
) -> None:
    outcome = distill(*DUMP, "--teachers", made.teacher, "--quiet", "--out", "c", *args)
    assert outcome.code == 2
    assert said in one_line(outcome)
    assert not Path("c").exists()


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed(
    here: Path,
    distill: Distill,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
    engine: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    args = ("--teachers", made.teacher, "--quiet", "--out", "c", "--on", engine)
    outcome = distill(*DUMP, *args)
    assert outcome.code == 2
    assert f"pip install 'distill-cli[{engine}]'" in one_line(outcome)
    assert not Path("c").exists()
    if engine == "slurm":
        reliability(
            "Usage and recipes",
            "the package of an engine is not installed",
            "distill cache-soft-labels … --on slurm",
            outcome,
        )
