"""Parts of a cache joined: the bytes of a dump in one piece, or a reason why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_cli.cache.merge import merge
from distill_cli.cache.plan import Plan
from distill_cli.cache.verify import damaged
from distill_cli.cache.writer import CacheWriter
from distill_cli.errors import ArtifactError
from distill_cli.pipeline.labels.prepare import SHARD_LOGITS, SHARD_ROWS, shard_rows, shards_of
from distill_cli.recipe.parsing import Part
from tests.cache.examples import PLAN, commit, contents, dump, evaluation, ids, plan


def nothing(done: int, total: int) -> None:
    pass


def part(folder: Path, number: int, count: int, of: Plan = PLAN) -> Path:
    writer = CacheWriter(folder, of)
    for shard in shards_of(of, Part(number, count)):
        commit(writer, shard)
    if number == 1:
        writer.write_eval(evaluation(of))
        writer.write_ids(ids(of.dataset.samples))
    return folder


@settings(max_examples=15)
@given(count=st.integers(1, 12), codec=st.sampled_from(["fp32", "topk:2"]), views=st.integers(1, 3))
def test_merged_parts_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, count: int, codec: str, views: int
) -> None:
    root, one = tmp_path_factory.mktemp("merge"), plan(codec=codec, views=views)
    parts = [part(root / str(n), n, count, one) for n in range(1, count + 1)]
    dump(root / "whole", one)
    merge(parts[::-1], root / "merged", progress=nothing)
    assert contents(root / "merged") == contents(root / "whole")
    assert damaged(root / "merged", workers=2, progress=nothing) == []


def test_shares_are_even_and_cover_everything() -> None:
    one = plan(samples=1000, views=3, shard_length=7)
    shares = [shards_of(one, Part(n, 8)) for n in range(1, 9)]
    assert [shard for share in shares for shard in share] == one.shards()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shards_of(one, None) == one.shards()


@pytest.mark.parametrize("codec", ["fp32", "topk:2"])
def test_parts_of_different_formats_are_refused_with_the_reason(tmp_path: Path, codec: str) -> None:
    one = plan(codec=codec)
    parts = [part(tmp_path / "1", 1, 2, one), part(tmp_path / "2", 2, 2, one.in_format(1))]
    with pytest.raises(
        ArtifactError, match=r"format_version: expected 2, found 1.*older one again"
    ):
        merge(parts, tmp_path / "merged", progress=nothing)
    assert not (tmp_path / "merged").exists()


def test_parts_of_format_1_are_merged_to_format_1(tmp_path: Path) -> None:
    one = plan(codec="topk:2").in_format(1)
    parts = []
    for number in (1, 2):
        writer = CacheWriter(tmp_path / str(number), one)
        for shard in shards_of(one, Part(number, 2)):
            commit(writer, shard)
        parts.append(tmp_path / str(number))
    CacheWriter(parts[0], one).write_eval(evaluation(one))
    dump(tmp_path / "whole", one)
    merge(parts, tmp_path / "merged", progress=nothing)
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert not (tmp_path / "merged/ids.safetensors").exists()


def test_a_merge_needs_the_sample_ids(tmp_path: Path) -> None:
    parts = [part(tmp_path / str(n), n, 2) for n in (1, 2)]
    (parts[0] / "ids.safetensors").unlink()
    with pytest.raises(ArtifactError, match="sample ids"):
        merge(parts, tmp_path / "merged", progress=nothing)


def test_an_interrupted_merge_goes_on(tmp_path: Path) -> None:
    parts = [part(tmp_path / str(n), n, 2) for n in (1, 2)]
    merge(parts, tmp_path / "merged", progress=nothing)
    whole = contents(tmp_path / "merged")
    (tmp_path / "merged/manifest.json").unlink()
    (tmp_path / "merged/eval.safetensors").unlink()
    (tmp_path / "merged/view-0001/shard-00002.safetensors").write_bytes(b"torn")
    merge(parts, tmp_path / "merged", progress=nothing)
    assert contents(tmp_path / "merged") == whole


def test_what_is_missing_is_named_and_nothing_written(tmp_path: Path) -> None:
    first, second = (part(tmp_path / str(n), n, 3) for n in (1, 3))
    with pytest.raises(ArtifactError, match=r"of 8 shards are in none.*view 0, rows 20 to 29"):
        merge([first, second], tmp_path / "merged", progress=nothing)
    assert not (tmp_path / "merged").exists()
    late = [part(tmp_path / f"late{n}", n, 2) for n in (1, 2)]
    (late[0] / "eval.safetensors").unlink()
    with pytest.raises(ArtifactError, match="evaluation rows"):
        merge(late, tmp_path / "merged", progress=nothing)


def test_parts_of_other_plans_are_refused(tmp_path: Path) -> None:
    first = part(tmp_path / "1", 1, 2)
    second = part(tmp_path / "2", 2, 2, replace(PLAN, teacher_fingerprint="u" * 40))
    with pytest.raises(ArtifactError, match=r"teacher\.fingerprint"):
        merge([first, second], tmp_path / "merged", progress=nothing)


def test_parts_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    first, second = part(tmp_path / "1", 1, 1), tmp_path / "2"
    writer = CacheWriter(second, PLAN)
    shard = PLAN.shards()[0]
    from tests.cache.examples import logits, targets

    rows = slice(shard.start, shard.stop)
    writer.commit(shard, logits(PLAN, 0)[rows] + 1e-3, targets(PLAN)[rows])
    with pytest.raises(ArtifactError, match="different labels in view-0000/shard-00000"):
        merge([first, second], tmp_path / "merged", progress=nothing)


@given(st.integers(1, 10**8), st.integers(2, 30_000), st.integers(1, 4096))
def test_shards_are_few_and_fit_in_memory(samples: int, classes: int, batch: int) -> None:
    length = shard_rows(samples, classes, batch)
    assert length * classes <= max(SHARD_LOGITS, batch * classes)
    if length > SHARD_ROWS:
        assert length % batch == 0
    if length * classes + batch * classes <= SHARD_LOGITS:
        assert length == SHARD_ROWS or -(-samples // length) <= 16
    assert shard_rows(50_000, 10, 256) == 8192
    assert shard_rows(1_281_167, 1000, 256) == 67_072


def by(release: str) -> Plan:
    return replace(PLAN, versions={**PLAN.versions, "distill-cli": release})


def test_a_release_of_distill_stops_no_dump_half_way(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    dump(whole, by("0.1.0"))
    part(torn, 1, 2, by("0.1.0"))
    manifest = dump(torn, by("0.2.0"))
    assert manifest.plan == by("0.1.0")
    assert contents(torn) == contents(whole)
    assert damaged(torn, workers=1, progress=nothing) == []
    before = contents(torn)
    dump(torn, by("0.3.0"))
    assert contents(torn) == before


@pytest.mark.parametrize(
    "releases", [("0.1.0", "0.2.0"), ("0.2.0", "0.1.0"), ("0.2.0", "0.3.0"), ("0.3.0", "0.2.0")]
)
def test_parts_may_be_made_by_several_releases(tmp_path: Path, releases: tuple[str, str]) -> None:
    parts = [part(tmp_path / str(n), n, 2, by(release)) for n, release in enumerate(releases, 1)]
    # One shard is in both.
    commit(CacheWriter(parts[1], by(releases[1])), PLAN.shards()[0])
    merge(parts, tmp_path / "out", progress=nothing)
    assert damaged(tmp_path / "out", workers=1, progress=nothing) == []
    before = contents(tmp_path / "out")
    merge([*parts, tmp_path / "out"], tmp_path / "out", progress=nothing)
    assert contents(tmp_path / "out") == before


def test_parts_of_other_libraries_are_still_refused(tmp_path: Path) -> None:
    other = replace(by("0.2.0"), versions={"torch": "2.1", "distill-cli": "0.3.0"})
    parts = [part(tmp_path / "1", 1, 2, by("0.2.0")), part(tmp_path / "2", 2, 2, other)]
    with pytest.raises(ArtifactError, match=r"versions\.torch") as refused:
        merge(parts, tmp_path / "out", progress=nothing)
    assert "distill-cli" not in str(refused.value)


def test_shards_of_the_first_release_are_tied_as_it_tied_them() -> None:
    # Of the code of 0.1.0, to which caches of that time are bound.
    dataset = replace(PLAN.dataset, ids_digest="1" * 40)
    assert replace(by("0.1.0").in_format(1), dataset=dataset).digest == (
        "6bf667914cdde9782e98b08f07d92bddcda36374e25f70054f95799292586d2e"
    )
