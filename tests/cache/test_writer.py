"""A dump: deterministic to the byte, and going on where it was stopped."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_cli.cache.manifest import read_manifest
from distill_cli.cache.safetensors_header import read_header
from distill_cli.cache.writer import CacheWriter
from distill_cli.errors import ArtifactError, InternalError, UsageError
from tests.cache.examples import PLAN, commit, contents, dump, evaluation, plan
from tests.processes import fork


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a dump of PLAN consists of."""
    folder = tmp_path_factory.mktemp("unbroken")
    dump(folder)
    return contents(folder)


def test_two_dumps_are_equal(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    dump(tmp_path)
    assert contents(tmp_path) == unbroken
    assert len(unbroken) == 8 + 4


def test_metadata_is_one_string_of_sorted_json(tmp_path: Path) -> None:
    dump(tmp_path)
    raw = (tmp_path / PLAN.shards()[0].file).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    [text] = json.loads(raw[8 : 8 + length])["__metadata__"].values()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@settings(max_examples=15)
@given(order=st.permutations(range(8)), stop=st.integers(0, 8))
def test_interrupted_and_completed(
    tmp_path_factory: pytest.TempPathFactory,
    unbroken: dict[str, bytes],
    order: list[int],
    stop: int,
) -> None:
    folder = tmp_path_factory.mktemp("interrupted")
    writer = CacheWriter(folder, PLAN)
    for number in order[:stop]:
        commit(writer, PLAN.shards()[number])
    left = CacheWriter(folder, PLAN).missing()
    assert left == [PLAN.shards()[number] for number in sorted(order[stop:])]
    dump(folder)
    assert contents(folder) == unbroken


def test_rerun_of_a_finished_cache_touches_nothing(tmp_path: Path) -> None:
    manifest = dump(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    writer = CacheWriter(tmp_path, PLAN)
    assert writer.missing() == []
    assert writer.has_eval
    assert writer.finish() == manifest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("damage", ["truncated", "longer", "empty", "gone", "text", "other"])
def test_a_damaged_shard_counts_as_missing(
    tmp_path: Path, unbroken: dict[str, bytes], damage: str
) -> None:
    dump(tmp_path)
    shard = PLAN.shards()[2]
    path = tmp_path / shard.file
    whole = path.read_bytes()
    path.unlink()
    if damage != "gone":
        other = (tmp_path / PLAN.shards()[1].file).read_bytes()
        path.write_bytes(
            {
                "truncated": whole[:-1],
                "longer": whole + b"\0",
                "empty": b"",
                "text": b"x" * len(whole),
                "other": other,
            }[damage]
        )
    assert CacheWriter(tmp_path, PLAN).missing() == [shard]
    dump(tmp_path)
    assert contents(tmp_path) == unbroken


def test_a_shard_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    dump(tmp_path)
    shard = PLAN.shards()[2]
    path = tmp_path / shard.file
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert CacheWriter(tmp_path, PLAN).missing() == [shard]
    with pytest.raises(ArtifactError, match=f"{shard.file} is a link"):
        dump(tmp_path)
    assert path.is_symlink()


def test_a_shard_of_another_plan_counts_as_missing(tmp_path: Path) -> None:
    dump(tmp_path, replace(PLAN, teacher_fingerprint="other"))
    (tmp_path / "plan.json").unlink()
    assert len(CacheWriter(tmp_path, PLAN).missing()) == 8
    assert not CacheWriter(tmp_path, PLAN).has_eval


def test_orphans_are_cleaned(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    writer = CacheWriter(tmp_path, PLAN)
    commit(writer, PLAN.shards()[0])
    (tmp_path / "view-0000" / ".tmp-shard-00001.safetensors").write_bytes(b"torn")
    dump(tmp_path)
    assert contents(tmp_path) == unbroken


def test_another_plan_is_refused(tmp_path: Path) -> None:
    dump(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ArtifactError, match=r"codec: expected 'fp32', found 'fp16'") as caught:
        CacheWriter(tmp_path, replace(PLAN, codec="fp16"))
    assert caught.value.exit_code == 3
    assert contents(tmp_path) == before


def test_an_unknown_codec_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        CacheWriter(tmp_path / "c", replace(PLAN, codec="fp8"))
    assert not (tmp_path / "c").exists()


def test_finish_needs_every_shard(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, PLAN)
    commit(writer, PLAN.shards()[0])
    with pytest.raises(InternalError, match="7 of 8 shards"):
        writer.finish()
    assert not (tmp_path / "manifest.json").exists()


def test_a_new_commit_takes_the_manifest_back(tmp_path: Path) -> None:
    dump(tmp_path)
    commit(CacheWriter(tmp_path, PLAN), PLAN.shards()[0])
    with pytest.raises(ArtifactError, match="not finished"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused_with_row_and_view(tmp_path: Path, value: float) -> None:
    writer = CacheWriter(tmp_path, PLAN)
    shard = PLAN.shards()[5]
    logits_NK = torch.zeros(10, 5)
    logits_NK[4, 2] = value
    with pytest.raises(ArtifactError, match="row 14 of view 1"):
        writer.commit(shard, logits_NK, torch.zeros(10, dtype=torch.int64))
    assert len(writer.missing()) == 8
    bad = {"test": (logits_NK, torch.zeros(10, dtype=torch.int64))}
    with pytest.raises(ArtifactError, match="row 4 of the test split"):
        writer.write_eval(bad)
    assert not writer.has_eval


def test_killed_at_some_moment(tmp_path: Path) -> None:
    killed = plan(samples=4000, views=20, shard_length=50)
    process = fork(lambda: (dump(tmp_path / "killed", killed), print("done")))
    process.until((tmp_path / "killed/view-0000").exists, "the first view")
    time.sleep(random.uniform(0, 0.2))
    process.send(signal.SIGKILL)
    assert process.end().out == b""
    left = CacheWriter(tmp_path / "killed", killed).missing()
    assert 0 < len(left) <= 1600
    # The rest of 1600 shards would take long; that those left are remade to the byte is enough.
    committed = [shard for shard in killed.shards() if shard not in set(left)]
    again = CacheWriter(tmp_path / "again", killed)
    for shard in committed:
        commit(again, shard)
    assert contents(tmp_path / "killed") == contents(tmp_path / "again")


def test_disk_full(tmp_path: Path) -> None:
    wide = plan(samples=3000, classes=50, shard_length=1000)
    commit(CacheWriter(tmp_path, wide), wide.shards()[0])

    def go_on() -> None:
        try:
            commit(CacheWriter(tmp_path, wide), wide.shards()[1])
        except InternalError as error:
            print(error.exit_code, error)

    ended = fork(go_on, limit=100_000).end()
    assert ended.code == 0, ended.err
    [refused] = ended.out.decode().splitlines()
    assert refused.startswith("1 disk full")
    assert "same command again" in refused
    assert "--resume" not in refused, "a dump has no such option"
    assert len(CacheWriter(tmp_path, wide).missing()) == 5
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["plan.json", "shard-00000.safetensors"]


def test_header_of_a_shard(tmp_path: Path) -> None:
    dump(tmp_path)
    header = read_header(tmp_path / "view-0001/shard-00003.safetensors")
    assert header.spans["logits"].shape == (7, 5)
    assert header.metadata["start"] == 30
    assert header.metadata["plan"] == PLAN.digest


def test_evaluation_rows_of_no_samples(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path, PLAN)
    nothing = (torch.empty(0, 5), torch.empty(0, dtype=torch.int64))
    writer.write_eval({**evaluation(PLAN), "val": nothing})
    assert writer.has_eval


def test_a_flipped_bit_heals_itself(tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    dump(tmp_path)
    shard = tmp_path / PLAN.shards()[2].file
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    assert CacheWriter(tmp_path, PLAN).missing() == [PLAN.shards()[2]]


@pytest.mark.parametrize("file", [PLAN.shards()[2].file, "eval.safetensors"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_flip_in_a_header_heals_too(
    tmp_path: Path, unbroken: dict[str, bytes], file: str, finished: bool
) -> None:
    """Statistics stand there, and end in the manifest."""
    dump(tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    place = content.index(b"statistics" if "shard" in file else b"plan") + 30
    while not chr(content[place]).isdigit():
        place += 1
    other = b"7" if content[place : place + 1] != b"7" else b"8"
    path.write_bytes(content[:place] + other + content[place + 1 :])
    if not finished:
        (tmp_path / "manifest.json").unlink()
    dump(tmp_path)
    assert contents(tmp_path) == unbroken


def test_a_linked_view_folder_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/view-0000").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="leads out"):
        dump(tmp_path / "cache")
    assert not list((tmp_path / "outside").iterdir())
