"""The cache on disk: round trips, commits, damage, and statistics against plain loops."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.cache.codec import codec
from distill_cli.cache.manifest import Plan, expand, plan_differences, read_manifest, read_plan
from distill_cli.cache.reader import CacheReader, require_same
from distill_cli.cache.writer import CacheWriter
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.types import DatasetIdentity, ViewSpec


def plan(
    rows: int = 50, classes: int = 4, length: int = 20, views: int = 2, **other: object
) -> Plan:
    made = Plan(
        dataset=DatasetIdentity(
            fingerprint="data",
            ids_digest="ids",
            samples=rows,
            class_names=tuple(f"class {k}" for k in range(classes)),
            split_seed=0,
            val_fraction=0.1,
        ),
        view_spec=ViewSpec(augment=("flip",), channels=3, height=8, width=8, seed=0),
        views=views,
        teacher_fingerprint="teacher",
        architecture="net",
        codec="fp32",
        precision="fp32",
        teacher_batch=16,
        shard_length=length,
        versions={"torch": "2"},
        cpu_capability="AVX2",
    )
    return replace(made, **other)


def labels(made: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (V, N, K) and targets (N), some of them unlabelled."""
    generator = torch.Generator().manual_seed(1)
    shape = (made.views, made.dataset.samples, len(made.dataset.class_names))
    target_N = torch.randint(-1, shape[2], shape[1:2], generator=generator)
    return torch.randn(shape, generator=generator) * 4, target_N


def write(folder: Path, made: Plan, first: int | None = None) -> CacheWriter:
    """Commits the first shards, or all of them and the manifest."""
    writer = CacheWriter(folder, made)
    logits_VNK, target_N = labels(made)
    for key in writer.missing()[:first]:
        rows = slice(key.start, key.stop)
        writer.commit(key, logits_VNK[key.view, rows], target_N[rows])
    if first is None:
        writer.write_eval(
            {"val": (logits_VNK[0, :7], target_N[:7]), "test": (logits_VNK[1], target_N)}
        )
        writer.finish()
    return writer


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@given(
    rows=st.integers(1, 40),
    classes=st.integers(2, 6),
    length=st.integers(1, 50),
    views=st.integers(1, 3),
    data=st.data(),
)
def test_any_gather_gives_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    classes: int,
    length: int,
    views: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("c") / "cache"
    made = plan(rows, classes, length, max(2, views))
    write(folder, made)
    size = data.draw(st.integers(1, 30))
    index = data.draw(st.lists(st.integers(0, rows - 1), min_size=size, max_size=size))
    view = data.draw(st.lists(st.integers(0, made.views - 1), min_size=size, max_size=size))
    logits_VNK, _ = labels(made)
    got = CacheReader(folder).gather(torch.tensor(index), torch.tensor(view))
    assert torch.equal(got, logits_VNK[view, index])


@pytest.mark.parametrize(("name", "bits"), [("fp16", 11), ("bf16", 8)])
def test_lossy_codecs_keep_the_probabilities(name: str, bits: int) -> None:
    logits = torch.randn(200, 10) * 8
    made = codec(name)
    again = made.decode(made.encode(logits))
    shifted = logits - logits.amax(1, keepdim=True)
    assert ((again - shifted).abs() <= shifted.abs() * 2.0**-bits + 1e-6).all()
    huge = torch.tensor([[1e9, 0.0, -1e9]])
    assert made.decode(made.encode(huge)).isfinite().all()
    assert made.decode(made.encode(huge)).argmax() == 0


def test_statistics_equal_a_loop(tmp_path: Path) -> None:
    made = plan(codec="fp16")
    write(tmp_path, made)
    manifest = read_manifest(tmp_path)
    logits_VNK, target_N = labels(made)
    reader = CacheReader(tmp_path)
    correct = count = 0
    nll = entropy = 0.0
    bins = [[0.0, 0] for _ in range(15)]
    worst = dict.fromkeys((1, 4, 20), 0.0)
    for view in range(made.views):
        stored = reader.gather(torch.arange(50), torch.full((50,), view)).double()
        for row in range(50):
            p = logits_VNK[view, row].double().softmax(0).tolist()
            entropy -= sum(x * math.log(x) for x in p)
            for t in worst:
                a = (logits_VNK[view, row].double() / t).log_softmax(0)
                b = (stored[row] / t).log_softmax(0)
                worst[t] = max(worst[t], float((a.exp() * (a - b)).sum()))
            label = int(target_N[row])
            if label < 0:
                continue
            count += 1
            guess = max(range(4), key=lambda k: p[k])
            correct += guess == label
            nll -= math.log(p[label])
            cell = bins[min(14, math.ceil(p[guess] * 15) - 1)]
            cell[0] += p[guess]
            cell[1] += guess == label
    assert manifest.teacher_accuracy == pytest.approx(correct / count)
    assert manifest.teacher_nll == pytest.approx(nll / count)
    assert manifest.teacher_ece == pytest.approx(sum(abs(c - r) for c, r in bins) / count)
    assert manifest.entropy == pytest.approx(entropy / 100)
    for t, value in worst.items():
        assert manifest.truncation_error[str(t)]["worst_kl"] == pytest.approx(value, rel=1e-6)


def test_two_dumps_and_a_broken_one_are_byte_identical(tmp_path: Path) -> None:
    write(tmp_path / "a", plan())
    write(tmp_path / "b", plan())
    for done in (1, 2, 1):
        write(tmp_path / "c", plan(), first=done)
    write(tmp_path / "c", plan())
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_a_rerun_repeats_no_committed_shard(tmp_path: Path) -> None:
    write(tmp_path, plan(), first=4)
    assert [key.file for key in CacheWriter(tmp_path, plan()).missing()] == [
        "view-0001/shard-00001.safetensors",
        "view-0001/shard-00002.safetensors",
    ]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_rerun_makes_damaged_shards_anew(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "whole", plan())
    write(tmp_path / "c", plan(), first=4)
    shard = tmp_path / "c" / "view-0000" / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes({"flip": content, "truncate": content[:-9], "empty": b""}[damage])
    write(tmp_path / "c", plan())
    assert contents(tmp_path / "whole") == contents(tmp_path / "c")


def test_another_plan_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    write(tmp_path, plan(), first=1)
    other = plan(teacher_fingerprint="someone else", shard_length=21)
    with pytest.raises(ArtifactError, match="shard_length: 21 here, 20") as caught:
        CacheWriter(tmp_path, other)
    assert "someone else" in str(caught.value)
    assert len(plan_differences(plan(), other)) == 2


def test_an_unfinished_cache_is_refused(tmp_path: Path) -> None:
    write(tmp_path, plan(), first=2)
    with pytest.raises(ArtifactError, match="did not finish"):
        CacheReader(tmp_path)
    assert read_plan(tmp_path) == plan()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_teacher_that_says_nan_is_refused(tmp_path: Path, bad: float) -> None:
    writer = CacheWriter(tmp_path, plan())
    key = writer.missing()[1]
    logits = torch.zeros(20, 4)
    logits[3, 2] = bad
    with pytest.raises(ArtifactError, match="row 23"):
        writer.commit(key, logits, torch.zeros(20, dtype=torch.int64))


def edit(folder: Path, name: str, change: object) -> None:
    value = json.loads((folder / name).read_text())
    change(value)  # type: ignore[operator]
    (folder / name).write_text(json.dumps(value))


def test_paths_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "c", plan())
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"x")
    for name in ("../outside.safetensors", str(outside)):
        edit(tmp_path / "c", "manifest.json", lambda m, n=name: m["shards"][0].update(file=n))
        with pytest.raises(ArtifactError, match="leads out"):
            CacheReader(tmp_path / "c")
    write(tmp_path / "d", plan())
    shard = tmp_path / "d" / "view-0000" / "shard-00000.safetensors"
    shard.unlink()
    shard.symlink_to(outside)
    with pytest.raises(ArtifactError, match="leads out"):
        CacheReader(tmp_path / "d")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format_version=2),
        lambda m: m.pop("shards"),
        lambda m: m.pop("view_spec"),
        lambda m: m["shards"].pop(),
        lambda m: m.update(shard_length=0),
        lambda m: m["view_spec"].update(unknown=1),
    ],
)
def test_malformed_manifests(tmp_path: Path, change: object) -> None:
    write(tmp_path, plan())
    edit(tmp_path, "manifest.json", change)
    with pytest.raises(ArtifactError) as caught:
        CacheReader(tmp_path)
    assert "\n" not in str(caught.value)


def test_caches_must_go_together(tmp_path: Path) -> None:
    write(tmp_path / "a", plan())
    write(tmp_path / "b", plan(teacher_fingerprint="other"))
    write(tmp_path / "c", plan(view_spec=replace(plan().view_spec, augment=("crop:2",))))
    one, two, three = (CacheReader(tmp_path / name) for name in "abc")
    require_same([one, two])
    with pytest.raises(ArtifactError, match="crop:2"):
        require_same([one, three])
    with pytest.raises(ArtifactError, match="samples: expected 50, found 51"):
        one.require_dataset(replace(plan().dataset, samples=51))
    assert [path.name for path in expand(tmp_path)] == ["a", "b", "c"]


def test_unknown_codec() -> None:
    with pytest.raises(UsageError, match="fp16"):
        codec("fp17")


KILLED = """
import sys, pathlib, time
sys.path.insert(0, {root!r})
from tests.cache.test_cache import plan, labels
from distill_cli.cache.writer import CacheWriter
made = plan(rows=4000, classes=50, length=100, views=3)
logits, target = labels(made)
writer = CacheWriter(pathlib.Path({folder!r}), made)
print("ready", flush=True)
for key in writer.missing():
    writer.commit(key, logits[key.view, key.start:key.stop], target[key.start:key.stop])
writer.finish()
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])

    def start(folder: Path) -> subprocess.Popen[bytes]:
        code = KILLED.format(root=root, folder=str(folder))
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

    assert start(tmp_path / "whole").wait() == 0
    for kill in range(2):
        process = start(tmp_path / "c")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.05 * kill)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "c").wait() == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "c")
