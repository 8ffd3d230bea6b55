"""Sample ids beside the labels: which image a row is of."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from distill_cli.cache.manifest import read_manifest
from distill_cli.cache.plan import Plan
from distill_cli.cache.reader import CacheReader
from distill_cli.cache.sample_ids import front_coded, read_ids
from distill_cli.errors import ArtifactError
from distill_cli.types import digest_of_ids
from tests.cache.examples import PLAN, dump, ids, plan


def bound_to(sample_ids: list[str]) -> Plan:
    dataset = replace(PLAN.dataset, samples=len(sample_ids), ids_digest=digest_of_ids(sample_ids))
    return replace(PLAN, dataset=dataset)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300)


@given(st.lists(NAMES, min_size=1, max_size=20, unique=True))
def test_they_come_back_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    names = sorted(names, key=str.encode)
    path = tmp_path_factory.mktemp("ids") / "ids.safetensors"
    save_file(front_coded(names), path)
    assert read_ids(path, bound_to(names)) == names


def test_long_common_beginnings(tmp_path: Path) -> None:
    names = [f"{'x' * 300}{k}" for k in range(3)]
    save_file(front_coded(names), tmp_path / "ids")
    assert read_ids(tmp_path / "ids", bound_to(names)) == names


@pytest.mark.parametrize(
    "names",
    [
        [f"index:{n}" for n in range(50_000)],
        [f"n{c:08d}/n{c:08d}_{n}.JPEG" for c in range(10) for n in range(7, 9000, 7)],
        [f"cat/img_{n:05d}.png" for n in range(5000)],
    ],
    ids=["index", "imagenet", "numbered"],
)
def test_they_take_few_bytes(names: list[str]) -> None:
    coded = front_coded(sorted(names, key=str.encode))
    assert sum(len(tensor) for tensor in coded.values()) < 10.5 * len(names)


def test_a_cache_names_its_rows(tmp_path: Path) -> None:
    manifest = dump(tmp_path)
    content = (tmp_path / "ids.safetensors").read_bytes()
    assert manifest.ids_sha256 == sha256(content).hexdigest()
    assert CacheReader(tmp_path).sample_ids() == ids(37)
    dump(tmp_path / "again")
    assert (tmp_path / "again/ids.safetensors").read_bytes() == content


def test_they_may_be_left_out(tmp_path: Path) -> None:
    manifest = dump(tmp_path, replace(PLAN, sample_ids=False))
    assert manifest.ids_sha256 is None
    assert not (tmp_path / "ids.safetensors").exists()
    assert CacheReader(tmp_path).sample_ids() is None
    assert read_manifest(tmp_path) == manifest


def test_a_lost_file_is_written_again(tmp_path: Path) -> None:
    manifest = dump(tmp_path)
    (tmp_path / "ids.safetensors").unlink()
    assert dump(tmp_path) == manifest
    assert CacheReader(tmp_path).sample_ids() == ids(37)


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        (front_coded(ids(36)), "other samples"),
        (front_coded([*ids(36), "ant/0037.png"]), "other samples"),
        ({"shared": torch.zeros(37, dtype=torch.uint8)}, "no sample ids"),
        ({key: value.int() for key, value in front_coded(ids(37)).items()}, "no sample ids"),
        (
            {
                "shared": torch.zeros(3, dtype=torch.uint8),
                "rest": torch.full((9,), 255, dtype=torch.uint8),
            },
            "malformed",
        ),
        (
            {
                "shared": torch.zeros(1, dtype=torch.uint8),
                "rest": torch.tensor([255, 0], dtype=torch.uint8),
            },
            "malformed",
        ),
    ],
)
def test_forged_ids_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], fault: str
) -> None:
    save_file(tensors, tmp_path / "ids")
    with pytest.raises(ArtifactError, match=fault):
        read_ids(tmp_path / "ids", PLAN)


def test_changed_ids_are_refused(tmp_path: Path) -> None:
    dump(tmp_path)
    path = tmp_path / "ids.safetensors"
    path.write_bytes(path.read_bytes().replace(b"png", b"jpg"))
    with pytest.raises(ArtifactError, match="sha256"):
        CacheReader(tmp_path).sample_ids()


def test_format_1_has_none(tmp_path: Path) -> None:
    dump(tmp_path, plan(codec="topk:2").in_format(1))
    reader = CacheReader(tmp_path)
    assert reader.sample_ids() is None
    assert reader.plan.format_version == 1
    assert reader.codec.layout(1).keys() == {"log_probs", "ids", "tail"}
