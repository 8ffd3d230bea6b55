"""The command lines of docs/scaling.md, to the letter: on one machine, two, under torchrun and Slurm.

Two network namespaces stand for two machines, each with a host name, an address and a loopback of its
own; where none can be made, two process groups. Slurm's commands are stood in for by scripts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.rank_kills import ranks_of
from tests.processes import ROOT

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
WEIGHTS = "runs/a/model/model.safetensors"
PATIENCE = 240


def section(heading: str) -> str:
    """The text of the page below a heading."""
    return re.split(r"^## ", PAGE.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


def commands(heading: str) -> list[str]:
    """The indented command lines of a section."""
    blocks = re.findall(r"(?:^    .+\n)+", section(heading), re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks]


ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("DISTILL_")},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass
class Machine:
    """What stands for a machine: a prefix of commands that has them run on it."""

    name: str
    prefix: tuple[str, ...] = ()

    def start(self, command: str, cwd: Path) -> subprocess.Popen[str]:
        named = f"hostname {self.name}; {command}" if self.prefix else command
        command = named if self.prefix else command.replace("node0:", "127.0.0.1:")
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [*self.prefix, "bash", "-c", command],
            cwd=cwd,
            env=ENVIRONMENT,
            start_new_session=True,
            **streams,
        )


def shell(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """Two machines that reach each other by names, and nothing else."""
    spaces = [f"distill-{os.getpid()}-{number}" for number in range(2)]
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "hostname"))):
        yield [Machine(f"node{number}") for number in range(2)]
        return
    hosts = "".join(f"10.77.0.{number + 1} node{number}\n" for number in range(2))
    pair = [f"dst{os.getpid() % 10**6}{end}" for end in "ab"]
    try:
        shell("ip", "link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
        for number, space in enumerate(spaces):
            shell("ip", "netns", "add", space)
            folder = Path("/etc/netns") / space
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
            shell("ip", "link", "set", pair[number], "netns", space)
            at = f"10.77.0.{number + 1}/24"
            shell("ip", "-n", space, "addr", "add", at, "dev", pair[number])
            for device in ("lo", pair[number]):
                shell("ip", "-n", space, "link", "set", device, "up")
        enter = [("ip", "netns", "exec", space, "unshare", "--uts") for space in spaces]
        yield [Machine(f"node{number}", enter[number]) for number in range(2)]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        for pid in (*ranks_of(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"it did not end: {out} {err}") from None
    assert "Traceback" not in err, err
    return process.returncode, out, err


def test_two_machines_as_the_page_has_them(machines: list[Machine], tmp_path: Path) -> None:
    lines = commands("Two machines")
    assert len(lines) == 2
    processes = [one.start(line, tmp_path) for one, line in zip(machines, lines, strict=True)]
    (code, out, err), (other, nothing, words) = map(end, processes)
    assert (code, other) == (0, 0), err + words
    assert (out, nothing) == ("runs/a\n", "")
    assert "images used" in err
    assert "images used" not in words
    recorded = (tmp_path / "runs/a/recipe.yaml").read_text()
    assert re.search(r"^ +ranks: 4$", recorded, re.MULTILINE)


def test_a_machine_that_vanishes(machines: list[Machine], tmp_path: Path) -> None:
    if not machines[0].prefix:
        pytest.skip("without namespaces no machine vanishes")
    lines = [
        f"{line.rstrip()} --epochs 4000 --checkpoint-every 1s --rank-timeout 5s"
        for line in commands("Two machines")
    ]
    processes = [one.start(line, tmp_path) for one, line in zip(machines, lines, strict=True)]
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "runs/a/last/checkpoint.pt").exists():
        assert time.monotonic() < until
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.1)
    space = machines[1].prefix[3]
    for device in json.loads(subprocess.check_output(["ip", "-n", space, "-j", "link"])):
        shell("ip", "-n", space, "link", "set", device["ifname"], "down")
    started = time.monotonic()
    (code, _, err), (other, _, words) = map(end, processes)
    assert time.monotonic() - started < 60
    assert (code, other) == (1, 1)
    assert "on node1: it does not answer any more" in err, err
    assert "machine 0, node0, does not answer any more" in words, words
    outcome = json.loads((tmp_path / "runs/a/last/outcome.json").read_text())
    assert (outcome["code"], outcome["host"]) == (1, "node1")


@pytest.mark.parametrize("number", [0, 1], ids=["ranks", "torchrun"])
def test_one_machine_as_the_page_has_it(number: int, tmp_path: Path) -> None:
    line = commands("One machine")[number]
    code, out, err = end(Machine("here").start(f"{line.rstrip()} --json", tmp_path))
    assert code == 0, err
    assert json.loads(out)["run"] == "runs/a"
    assert err.count("images used") == 1


SRUN = """#!/usr/bin/env bash
# One task a machine, as srun has it; here both are this one.
for node in 0 1; do SLURM_NODEID=$node "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit "${code:-0}"
"""


def test_a_slurm_job_as_the_page_has_it(tmp_path: Path) -> None:
    script = re.search(r"```bash\n(.+?)```", section("Slurm jobs"), re.DOTALL)
    assert script is not None
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho 127.0.0.1\n"}.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(script[1])
    given = "SLURM_JOB_NODELIST='node[0-1]' SLURM_NNODES=2"
    command = f"PATH={tmp_path}/bin:$PATH {given} bash job.sh"
    for _ in range(2):
        # A job that is put back into the queue is the same job.
        code, out, err = end(Machine("here").start(command, tmp_path))
        assert code == 0, err
        assert out == "runs/a\n"
