"""`python -m benchmarks.engines`: what Ray costs a shard, and a dump whose workers and nodes die.

Two parts, on a cluster of Ray's own test utilities, all of it on the loopback of this machine:

- overhead: tasks that do nothing but sleep, on the engine and in a plain loop, and a dump of tiny
  shards: milliseconds a shard, and the seconds of a shard from which on that is under 2 %;
- faults: workers killed −9 while a shard of theirs is half written, one node leaves and another joins
  meanwhile; the cache has to have the bytes of a plain dump.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distill_cli.pipeline.engines.ray_engine import RayEngine, RayOptions

RESULTS = Path(__file__).parent / "results" / "engines.md"
ROOT = Path(__file__).parents[1]
COMMON = ("--threads", "1", "--augment", "shift:1")
# Workers write the second half of a file so much later that it can be caught in between.
SLOW_DISK = """
import os, time
_fdopen = os.fdopen
class _Slow:
    def __init__(self, file): self.file = file
    def __getattr__(self, name): return getattr(self.file, name)
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, data):
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        time.sleep({seconds})
        return half + self.file.write(data[half:])
def _open(descriptor, mode="r", *args, **options):
    file = _fdopen(descriptor, mode, *args, **options)
    return _Slow(file) if mode == "w+b" else file
os.fdopen = _open
"""


@contextmanager
def cluster(*cpus: int) -> Iterator[tuple[Any, list[Any]]]:
    """A Ray cluster with a head that does no work, and a node for each number of processors."""
    # Its name is Ray's: 0 keeps every process of Ray on the loopback, on any system.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **common},
    )
    try:
        nodes = [made.add_node(num_cpus=count, **common) for count in cpus]
        yield made, nodes
    finally:
        made.shutdown()


def distill(*args: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """The command line, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "distill_cli", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})},
    )


def ended(process: subprocess.Popen[str]) -> str:
    """The output of a command that succeeded."""
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return out


def content(folder: Path) -> dict[str, bytes]:
    """The files of a cache."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def made_teacher(folder: Path) -> Path:
    """A small teacher on the digits."""
    args = ("--data", "digits", "--model", "mlp_32x1", "--epochs", 3, "-b", 16, "--lr", 0.1)
    ended(distill("teacher", "train", *args, "--augment", "shift:1", "-q", "--out", folder))
    return folder


@dataclass(frozen=True)
class Kill:
    """A worker that was killed.

    Attributes:
        pid: Its process.
        temporary: The file that it was writing, which lay there after its end.
        size: Its length then.
    """

    pid: int
    temporary: Path
    size: int


def writers_of(folder: Path) -> list[tuple[int, Path]]:
    """The processes that hold a temporary file in a cache open, each with its file."""
    there = {str(path) for path in folder.glob("view-*/.tmp-*")}
    found = []
    for process in Path("/proc").iterdir() if there else ():
        if not process.name.isdigit():
            continue
        try:
            names = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
        except OSError:
            continue
        found += [(int(process.name), Path(name)) for name in names if name in there]
    return found


def kill_a_writer(folder: Path, spared: set[int], deadline: float) -> Kill:
    """Kills a worker −9 while it writes a shard."""
    while time.monotonic() < deadline:
        for pid, temporary in writers_of(folder):
            if pid not in spared:
                os.kill(pid, signal.SIGKILL)
                while Path(f"/proc/{pid}/fd").exists() and time.monotonic() < deadline:
                    if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                        break
                    time.sleep(0.01)
                if temporary.exists():
                    return Kill(pid, temporary, temporary.stat().st_size)
        time.sleep(0.005)
    raise AssertionError("no worker was caught while it wrote")


def wait(happened: Callable[[], bool], what: str, process: subprocess.Popen[str]) -> None:
    """Waits for something while a command runs."""
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, f"ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@dataclass(frozen=True)
class Faults:
    """What the faulty dump came to.

    Attributes:
        shards: Shards of the cache.
        kills: The workers that were killed.
        made_by: Shards by worker: host, node, pid.
        left: Name of the node that left.
        joined: Name of the node that joined.
        size: The least length of a shard that is whole.
        same: Whether the cache has the bytes of a plain dump.
        seconds: The faulty dump's time.
    """

    shards: int
    kills: list[Kill]
    made_by: list[dict[str, Any]]
    left: str
    joined: str
    size: int
    same: bool
    seconds: float


def faults(folder: Path, *, kills: int = 3, views: int = 12, seconds: float = 0.8) -> Faults:
    """A dump on two nodes during which workers are killed, a node leaves and another joins."""
    teacher, plain, out = made_teacher(folder / "teacher"), folder / "plain", folder / "labels"
    args = ("cache-soft-labels", "--teachers", teacher, "--views", views, "--shard-length", 120)
    ended(distill(*args, *COMMON, "-q", "--out", plain))
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW_DISK.format(seconds=seconds))
    path = f"{folder / 'slow'}{os.pathsep}{ROOT}"
    with cluster(1, 2) as (made, (leaving, _)):
        start = time.perf_counter()
        env = {"RAY_ADDRESS": made.address, "PYTHONPATH": path}
        process = distill(*args, *COMMON, "--on", "ray", "--json", "--out", out, env=env)
        try:
            wait(lambda: any(out.glob("view-*/shard-*")), "the first shard", process)
            killed: list[Kill] = []
            while len(killed) < kills:
                spared = {process.pid, *(kill.pid for kill in killed)}
                killed.append(kill_a_writer(out, spared, time.monotonic() + 120))
            joining = made.add_node(
                num_cpus=1, object_store_memory=80 << 20, node_ip_address="127.0.0.1"
            )
            made.remove_node(leaving, allow_graceful=False)
            document = json.loads(ended(process))["caches"][0]
        finally:
            process.kill()
    return Faults(
        shards=document["shards"],
        kills=killed,
        made_by=document["made_by"],
        left=leaving.node_id,
        joined=joining.node_id,
        size=min(path.stat().st_size for path in plain.glob("view-*/*")),
        same=content(plain) == content(out),
        seconds=time.perf_counter() - start,
    )


# Makes a worker whose tasks sleep.
SLEEPER = partial(partial, time.sleep)


def overheads(cases: Sequence[tuple[int, float]], repeats: int) -> list[float]:
    """Milliseconds that the engine adds to a task, on one worker that is there; the median.

    Args:
        cases: Number of tasks and the seconds that each sleeps.
        repeats: How often each is measured.
    """
    found: list[list[float]] = [[] for _ in cases]
    with RayEngine(None, RayOptions(workers=1)).started(print) as session:
        for _ in range(repeats):
            for (tasks, seconds), added in zip(cases, found, strict=True):
                ends: list[float] = []

                def done(task: float, answer: object, ends: list[float] = ends) -> None:
                    ends.append(time.perf_counter())

                session.run(SLEEPER, [seconds] * tasks, done=done, look=lambda running: None)
                # From the end of the first on: the worker's start is not a task's.
                added.append(1000 * ((ends[-1] - ends[0]) / (tasks - 1) - seconds))
    return [statistics.median(added) for added in found]


def dumps(folder: Path, repeats: int, views: int = 41) -> dict[str, list[float]]:
    """Seconds a shard of a dump of small shards: in this process, and on one worker of Ray.

    By when the files were written, so that no start is in it.
    """
    teacher = made_teacher(folder / "teacher")
    found: dict[str, list[float]] = {"plain": [], "ray": []}
    for repeat in range(repeats):
        for name, extra in (
            ("plain", ()),
            ("ray", ("--on", "ray", "--engine-option", "workers=1")),
        ):
            out = folder / f"{name}-{repeat}"
            args = ("--teachers", teacher, "--views", views, "--shard-length", 150)
            ended(distill("cache-soft-labels", *args, *COMMON, *extra, "-q", "--out", out))
            times = sorted(path.stat().st_mtime for path in out.glob("view-*/*"))
            found[name].append((times[-1] - times[0]) / (len(times) - 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "dumps").mkdir()
        idle, busy = overheads(((300, 0.0), (50, 0.05)), given.repeats)
        speeds = dumps(root / "dumps", given.repeats)
        (root / "faults").mkdir()
        came_to = faults(root / "faults")
    given.out.write_text(page(idle, busy, speeds, came_to))
    print(given.out.read_text())


def page(idle: float, busy: float, speeds: Mapping[str, list[float]], came_to: Faults) -> str:
    """The results in Markdown."""
    import ray

    plain, on_ray = (1000 * statistics.median(speeds[name]) for name in ("plain", "ray"))
    worst = max(idle, busy, on_ray - plain)
    nodes = {worker["node"] for worker in came_to.made_by}
    joined = sum(w["shards"] for w in came_to.made_by if w["node"] == came_to.joined)
    sizes = ", ".join(f"{kill.size:,}" for kill in came_to.kills)
    return f"""# What an engine costs, and what it survives

`python -m benchmarks.engines` with Ray {ray.__version__} on {os.cpu_count()} cores ({platform.machine()}),
a cluster of its own on the loopback, one worker of one thread. Medians of {len(speeds["ray"])}.

| | ms a shard |
|---|---|
| tasks that do nothing | {idle:.2f} |
| tasks that sleep 50 ms, beside their sleep | {busy:.2f} |
| a dump of shards of 150 rows in this process | {plain:.2f} |
| the same on a worker of Ray | {on_ray:.2f} |

The most of the three differences is {worst:.1f} ms a shard: under 2 % from {worst / 20:.2f} s a shard on.
The start of workers, which is once and not of a shard, is left out.

## Workers and nodes that die

{came_to.shards} shards on two nodes; {len(came_to.kills)} workers were killed −9 while they wrote (the
temporary files that they left have {sizes} bytes, a whole one {came_to.size:,} at least); then one node left without a word, and another joined.
{len(came_to.made_by)} processes on {len(nodes)} nodes made shards, the joined node {joined} of them, in
{came_to.seconds:.0f} s. The cache has {"the" if came_to.same else "NOT the"} bytes of a plain dump.
"""


if __name__ == "__main__":
    main()
