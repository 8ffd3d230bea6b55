"""Looking labels up, and every cache that is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from distill_cli.cache.codec import codec
from distill_cli.cache.reader import CacheReader, require_same
from distill_cli.errors import ArtifactError
from tests.cache.examples import PLAN, dump, evaluation, logits, plan

ROOT = Path(__file__).parents[2]
EVERY = torch.arange(37)


@settings(max_examples=25)
@given(data=st.data())
def test_gather_in_any_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    one = plan(
        samples=data.draw(st.integers(1, 30)),
        classes=data.draw(st.integers(1, 7)),
        views=data.draw(st.integers(1, 3)),
        shard_length=data.draw(st.integers(4, 40)),
        codec=data.draw(st.sampled_from(["fp32", "fp16", "bf16", "topk:1", "topk:3"])),
    )
    folder = tmp_path_factory.mktemp("gather")
    dump(folder, one)
    row = st.tuples(st.integers(0, one.dataset.samples - 1), st.integers(0, one.views - 1))
    index_B, view_B = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=40))).unbind(1)
    found = CacheReader(folder).gather(index_B, view_B)
    said_VNK = torch.stack([logits(one, view) for view in range(one.views)])
    expected = codec(one.codec, len(one.dataset.class_names)).encode(said_VNK[view_B, index_B])
    assert found.keys() == expected.keys()
    for name, each in found.items():
        assert each.dtype == expected[name].dtype
        assert torch.equal(each, expected[name])


def test_what_is_gathered_is_a_copy(tmp_path: Path) -> None:
    dump(tmp_path)
    reader = CacheReader(tmp_path)
    first_BK = reader.gather(EVERY[:3], torch.zeros(3, dtype=torch.int64))["logits"]
    kept_BK = first_BK.clone()
    first_BK.zero_()
    again = reader.gather(EVERY[:3], torch.zeros(3, dtype=torch.int64))
    assert torch.equal(again["logits"], kept_BK)


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    dump(tmp_path)
    reader = CacheReader(tmp_path)
    assert (reader.views, reader.class_names) == (2, PLAN.dataset.class_names)
    assert (reader.teacher_fingerprint, reader.architecture) == ("t" * 40, "mlp_8x1")


@pytest.mark.parametrize(("row", "view"), [(0, 2), (37, 0), (-1, 1), (0, -1)])
def test_what_is_not_stored_is_not_asked_for(tmp_path: Path, row: int, view: int) -> None:
    dump(tmp_path)
    with pytest.raises(AssertionError):
        CacheReader(tmp_path).gather(torch.tensor([row]), torch.tensor([view]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_shards_need_no_file_descriptors(tmp_path: Path) -> None:
    dump(tmp_path, plan(shard_length=1))
    reader = CacheReader(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader.gather(EVERY, EVERY % 2)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_evaluation_rows(tmp_path: Path) -> None:
    dump(tmp_path)
    reader = CacheReader(tmp_path)
    for split, rows in evaluation(PLAN).items():
        found = reader.eval_rows(split)
        assert found is not None
        assert all(torch.equal(one, two) for one, two in zip(found, rows, strict=True))
    assert reader.eval_rows("other") is None
    with (tmp_path / "eval.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\x55")
    with pytest.raises(ArtifactError, match=r"eval\.safetensors"):
        CacheReader(tmp_path).eval_rows("val")
    (tmp_path / "eval.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"eval\.safetensors.*missing"):
        CacheReader(tmp_path).eval_rows("val")


class Payload:
    """Leaves a trace if it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def damage_of(kind: str, path: Path, trace: Path) -> None:
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(whole[:-3])
    elif kind == "flipped":
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(trace)))
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "pipe":  # to open it would hang
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["missing", "truncated", "flipped", "pickle", "folder", "pipe"])
def test_a_damaged_shard_is_refused_when_touched(tmp_path: Path, kind: str) -> None:
    dump(tmp_path)
    shard = PLAN.shards()[2]
    damage_of(kind, tmp_path / shard.file, tmp_path / "trace")
    reader = CacheReader(tmp_path)
    whole_B = torch.arange(20)
    reader.gather(whole_B, torch.zeros_like(whole_B))
    for _ in range(2):
        with pytest.raises(ArtifactError, match="cache-soft-labels") as caught:
            reader.gather(torch.tensor([25]), torch.tensor([0]))
        assert shard.file in str(caught.value)
        assert caught.value.exit_code == 3
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", ["pickle", "truncated", "other"])
def test_a_forged_hash_does_not_help(tmp_path: Path, kind: str) -> None:
    dump(tmp_path / "c")
    path = tmp_path / "c" / PLAN.shards()[0].file
    if kind == "other":
        dump(tmp_path / "d", plan(classes=4))
        path.write_bytes((tmp_path / "d" / PLAN.shards()[0].file).read_bytes())
    damage_of(kind, path, tmp_path / "trace")
    file = tmp_path / "c/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"][0]["sha256"] = sha256(path.read_bytes()).hexdigest()
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="shard-00000"):
        CacheReader(tmp_path / "c").gather(torch.tensor([0]), torch.tensor([0]))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("what", ["shard", "view", "eval", "loop"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, what: str) -> None:
    dump(tmp_path / "c")
    name = {"view": "view-0001", "eval": "eval.safetensors"}.get(what, PLAN.shards()[0].file)
    path = tmp_path / "c" / name
    path.rename(tmp_path / "outside")
    path.symlink_to(path if what == "loop" else tmp_path / "outside")
    with pytest.raises(ArtifactError, match="leads out"):
        CacheReader(tmp_path / "c")


def test_links_inside_and_to_the_folder_are_fine(tmp_path: Path) -> None:
    dump(tmp_path / "c")
    path = tmp_path / "c" / PLAN.shards()[0].file
    path.rename(tmp_path / "c/first")
    path.symlink_to("../first")
    (tmp_path / "link").symlink_to("c")
    CacheReader(tmp_path / "link").gather(torch.tensor([0]), torch.tensor([0]))


def test_a_codec_of_the_future(tmp_path: Path) -> None:
    dump(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace('"codec": "fp32"', '"codec": "fp4"'))
    with pytest.raises(ArtifactError, match="fp4"):
        CacheReader(tmp_path)


def test_other_data_is_refused(tmp_path: Path) -> None:
    dump(tmp_path)
    reader = CacheReader(tmp_path)
    reader.require_dataset(PLAN.dataset)
    for change, said in (
        ({"samples": 38, "ids_digest": "x", "fingerprint": "y"}, "1 sample added .38 here, 37"),
        ({"samples": 30, "ids_digest": "x", "fingerprint": "y"}, "7 samples removed"),
        ({"ids_digest": "x", "fingerprint": "y"}, "renamed"),
        ({"fingerprint": "y"}, "edited"),
    ):
        with pytest.raises(ArtifactError, match=said):
            reader.require_dataset(replace(PLAN.dataset, **change))
    with pytest.raises(ArtifactError, match=r"split\.seed: expected 0, found 1"):
        reader.require_dataset(replace(PLAN.dataset, split_seed=1))


def test_caches_that_do_not_go_together(tmp_path: Path) -> None:
    dump(tmp_path / "a")
    for name, other in {
        "views": replace(PLAN, views=1),
        "seed": replace(PLAN, view_spec=replace(PLAN.view_spec, seed=9)),
        "split": replace(PLAN, dataset=replace(PLAN.dataset, split_seed=2)),
        "teacher": replace(PLAN, teacher_fingerprint="x", codec="fp16", shard_length=9),
    }.items():
        dump(tmp_path / name, other)
    first = CacheReader(tmp_path / "a")
    require_same([])
    require_same([first, CacheReader(tmp_path / "teacher")])
    for name in ("views", "seed", "split"):
        with pytest.raises(ArtifactError, match=name):
            require_same([first, CacheReader(tmp_path / name)])


def test_the_manifest_is_read_without_torch(tmp_path: Path) -> None:
    dump(tmp_path)
    code = (
        "import sys; from pathlib import Path; from distill_cli.cache.manifest import "
        "read_manifest; from distill_cli.cache.folder import expand; "
        "read_manifest(expand(Path(sys.argv[1]))[0]); "
        "print({'torch', 'numpy', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("codec", "name", "value", "said"),
    [
        ("topk:2", "ids", 5, "beyond 5"),
        ("topk:2", "log_probs", float("nan"), "log_probs"),
        ("topk:2", "tail", float("inf"), "tail"),
        ("fp32", "logits", float("nan"), "logits"),
        ("bf16", "logits", float("-inf"), "logits"),
    ],
)
def test_a_strangers_labels_are_looked_at(
    tmp_path: Path, codec: str, name: str, value: float, said: str
) -> None:
    """Well-formed and well hashed, but no encoder wrote it."""
    one = plan(codec=codec)
    dump(tmp_path, one)
    path = tmp_path / one.shards()[0].file
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[name][3, 1] = value
    save_file(tensors, path, metadata=metadata)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = sha256(path.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=said):
        CacheReader(tmp_path).gather(torch.tensor([0]), torch.tensor([0]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probe.index": torch.full((2,), 99)}, "beyond 37"),
        ({"probe.view": torch.tensor([-1, 0])}, "beyond 2"),
        ({"probe.images": torch.zeros(2, 1, 9, 9, dtype=torch.uint8)}, "probe.images"),
        ({"probe.images": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}, "not as many"),
        ({"probe.images": None}, "lacks 'probe.images'"),
        ({"test.target": None}, "lacks 'test.target'"),
        ({"test.logits": torch.zeros(11, 4)}, "test.logits"),
        ({"val.logits": torch.full((9, 5), float("nan"))}, "NaN"),
        ({"more": torch.zeros(1)}, "holds 'more'"),
        (
            {key: torch.zeros(9, dtype=torch.int64) for key in ("probe.index", "probe.view")}
            | {"probe.images": torch.zeros(9, 1, 8, 8, dtype=torch.uint8)},
            "9 views",
        ),
    ],
)
def test_a_strangers_evaluation_rows_are_looked_at(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], said: str
) -> None:
    dump(tmp_path)
    tensors: dict[str, torch.Tensor | None] = {
        **{f"{k}.logits": rows[0] for k, rows in evaluation(PLAN).items()},
        **{f"{k}.target": rows[1] for k, rows in evaluation(PLAN).items()},
        "probe.index": torch.arange(2),
        "probe.view": torch.arange(2),
        "probe.images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
    }
    path = tmp_path / "eval.safetensors"
    for change in ({}, changes):
        kept = {key: each for key, each in {**tensors, **change}.items() if each is not None}
        save_file(kept, path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        manifest["eval_sha256"] = sha256(path.read_bytes()).hexdigest()
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        reader = CacheReader(tmp_path)
        if not change:
            assert reader.probe is not None
            continue
        with pytest.raises(ArtifactError, match=said):
            reader.eval_rows("test")
