"""Hashing a cache, and asking its teacher again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill_cli.cache.reader import CacheReader
from distill_cli.cache.replay import replay
from distill_cli.cache.verify import damaged
from tests.cache.examples import PLAN, dump, logits, plan


def nothing(done: int, total: int) -> None:
    pass


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    dump(tmp_path)
    assert damaged(tmp_path, workers=3, progress=nothing) == []
    shards = [tmp_path / shard.file for shard in PLAN.shards()]
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(content)
    shards[4].write_bytes(shards[4].read_bytes()[:-3])
    shards[6].unlink()
    (tmp_path / "eval.safetensors").unlink()
    (tmp_path / "ids.safetensors").write_bytes(b"ids")
    value = json.loads((tmp_path / "plan.json").read_text())
    value["view_spec"]["seed"] = 4
    (tmp_path / "plan.json").write_text(json.dumps(value))
    seen = []
    found = damaged(tmp_path, workers=3, progress=lambda done, total: seen.append((done, total)))
    assert [each.file for each in found] == [
        *(PLAN.shards()[n].file for n in (1, 4, 6)),
        *("eval.safetensors", "ids.safetensors", "plan.json"),
    ]
    assert seen == [(n, 10) for n in range(1, 11)]


def test_hashing_needs_no_torch(tmp_path: Path) -> None:
    dump(tmp_path)
    code = (
        "import sys; from pathlib import Path; from distill_cli.cache.verify import damaged\n"
        f"assert damaged(Path({str(tmp_path)!r}), workers=1, progress=lambda a, b: None) == []\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("codec", ["fp32", "fp16", "topk:1", "topk:3"])
def test_a_replay_sees_small_changes_through_any_codec(tmp_path: Path, codec: str) -> None:
    one = plan(codec=codec)
    dump(tmp_path, one)
    reader = CacheReader(tmp_path)
    said_VNK = torch.stack([logits(one, view) for view in range(one.views)])

    def same(index_B: Tensor, view_B: Tensor) -> Tensor:
        return said_VNK[view_B, index_B]

    def other(index_B: Tensor, view_B: Tensor) -> Tensor:
        return said_VNK[view_B, index_B] * 1.05

    found = replay(reader, same, sample=30)
    assert (found.views, found.difference, found.worst_kl) == (30, 0, 0)
    assert found.codec_kl <= found.recorded_kl + 1e-12
    assert found.agrees
    assert replay(reader, same, sample=10**6).views == 74
    assert not replay(reader, other, sample=30).agrees
