"""`cache-soft-labels --on ray` on clusters of this machine's loopback: minutes, and Ray is no part of `.[test]`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_on_engine import DUMP, files
from tests.conftest import Made, Outcome
from tests.processes import from_shell

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
Distill = Callable[..., Outcome]
ON_RAY = ("--on", "ray", "--engine-option", "workers=2", "--threads", 1)


def test_workers_and_nodes_die_and_join(tmp_path: Path) -> None:
    """As `python -m benchmarks.engines` has it: killed while they write, by real signals."""
    from benchmarks.engines import faults

    came_to = faults(tmp_path)
    assert len({kill.pid for kill in came_to.kills}) == 3
    assert all(0 < kill.size < came_to.size for kill in came_to.kills)
    # What a killed worker had not finished was no shard.
    assert not any(kill.temporary.exists() for kill in came_to.kills)
    assert len({worker["pid"] for worker in came_to.made_by}) >= 2
    nodes = {worker["node"] for worker in came_to.made_by}
    assert len(nodes) >= 2
    assert came_to.joined in nodes
    assert came_to.same


def test_a_cluster_of_its_own(made: Made, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """stdout is the result's alone, and nothing of Ray stays behind."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    args = (*DUMP, "--teachers", f"{made.teacher},{made.other}", *ON_RAY)
    ended = from_shell(*args, "--out", "c", "--json").end()
    assert ended.code == 0, ended.err
    assert [cache["finished"] for cache in json.loads(ended.out)["caches"]] == [True, True]
    for name in (made.teacher.name, made.other.name):
        made_here, plain = files(here / "c" / name), files(made.labels / name)
        for recipe in (made_here, plain):
            recipe.pop("recipe.yaml")
        assert made_here == plain


def test_ctrl_c_ends_it_and_leaves_finished_shards(made: Made, here: Path) -> None:
    args = (*DUMP, "--teachers", made.teacher, *ON_RAY, "--views", 400, "--out", "c", "--quiet")
    process = from_shell(*args)
    process.until(lambda: len(list(here.glob("c/view-*/shard-*"))) > 3, "a few shards")
    os.killpg(process.pid, signal.SIGINT)
    ended = process.end()
    assert ended.code == 130, ended.err
    assert b"stopped after" in ended.err
    assert b"Traceback" not in ended.err
    there = len(list(here.glob("c/view-*/shard-*")))
    time.sleep(2)
    assert len(list(here.glob("c/view-*/shard-*"))) == there
    assert not (here / "c" / "manifest.json").exists()
