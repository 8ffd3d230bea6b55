"""Both formats of the cache through the command line, sample ids, and labels for other tools."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_cli.cache.reader import CacheReader
from distill_cli.data.dataset import open_dataset
from distill_cli.pipeline.labels import prepare
from tests.cache.examples import contents
from tests.cli.test_faults import one_line
from tests.conftest import Made, Outcome
from tests.pipeline.run.test_kept import KEPT

Distill = Callable[..., Outcome]


def dump(distill: Distill, made: Made, *args: object, out: str = "c") -> Outcome:
    return distill(
        *("cache-soft-labels", "--teachers", made.teacher, "--augment", "shift:1"),
        *("--shard-length", 500, "--codec", "topk:3", "--out", out, *args),
    )


def in_format_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has dumps begin as releases before 0.4.0 began them."""
    plan_of = prepare.plan_of
    monkeypatch.setattr(prepare, "plan_of", lambda *args: plan_of(*args).in_format(1))


def test_a_dump_begun_in_format_1_goes_on_in_it(
    made: Made, here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_format_1(patch)
        assert dump(distill, made, "--quiet").code == 0
    whole = contents(here / "c")
    assert "ids.safetensors" not in whole
    assert b"slope" not in whole["view-0000/shard-00001.safetensors"]
    for file in ("manifest.json", "view-0000/shard-00001.safetensors", "eval.safetensors"):
        (here / "c" / file).unlink()
    outcome = dump(distill, made)
    assert outcome.code == 0, outcome.err
    assert "c was begun in format 1 and goes on in it: without sample ids" in outcome.err
    assert contents(here / "c") == whole
    assert dump(distill, made, "--overwrite", "--quiet").code == 0
    assert (here / "c/ids.safetensors").is_file()
    assert json.loads((here / "c/plan.json").read_text())["format_version"] == 2


def test_a_cache_of_format_1_is_described_exported_and_learnt_from_with_one_of_format_2(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(KEPT / "labels", "old")
    [described] = json.loads(distill("cache", "info", "old", "--json").out)["caches"]
    assert (described["format_version"], described["ids_bytes"]) == (1, 0)
    assert "no sample ids" in distill("cache", "info", "old").out
    assert distill("cache", "export", "old", "--out", "old.npz", "--quiet").code == 0
    with np.load("old.npz") as archive:
        assert archive["probabilities"].shape == (1438, 10)
        assert "samples" not in archive.files
    new = ("cache-soft-labels", "--teachers", made.teacher, "--augment", "none", "--out", "new")
    # Pictures as that version framed them.
    framing = ("--set", "resize=round", "--set", "orientation=stored", "--set", "background=none")
    assert distill(*new, *framing, "--quiet").code == 0
    outcome = distill(
        *("student", "--teachers", "old,new", "--model", "mlp_8x1", "--epochs", 1, "--quiet"),
        *("--force", "--out", "s"),
    )
    assert outcome.code == 0, outcome.err


def test_sample_ids_are_stored_unless_left_out(made: Made, here: Path, distill: Distill) -> None:
    assert dump(distill, made, "--quiet").code == 0
    assert CacheReader(here / "c").sample_ids() == list(open_dataset("digits").train.sample_ids)
    [described] = json.loads(distill("cache", "info", "c", "--json").out)["caches"]
    assert described["ids_bytes"] == (here / "c/ids.safetensors").stat().st_size
    assert dump(distill, made, "--no-sample-ids", "--quiet", out="without").code == 0
    assert not (here / "without/ids.safetensors").exists()
    outcome = dump(distill, made, "--no-sample-ids", "--quiet")
    assert outcome.code == 3
    assert "sample_ids: expected True, found False" in one_line(outcome)


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_exported_labels_are_imported_to_the_same_bits(
    made: Made, here: Path, distill: Distill, suffix: str
) -> None:
    args = ("cache-soft-labels", "--teachers", made.teacher, "--views", 2, "--augment", "shift:1")
    assert distill(*args, "--out", "c", "--quiet").code == 0
    file = f"labels.{suffix}"
    outcome = distill("cache", "export", "c", "--view", 1, "--out", file, "--json", "--quiet")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == {"file": file, "kind": "logits", "view": 1}
    back = ("cache", "import", file, "--kind", "logits", "--data", "digits", "--out", "back")
    outcome = distill(*back, "--quiet")
    assert outcome.code == 0, outcome.err
    index_B = torch.arange(1438)
    exported = CacheReader(here / "c").gather(index_B, torch.ones_like(index_B))
    imported = CacheReader(here / "back").gather(index_B, torch.zeros_like(index_B))
    assert torch.equal(exported["logits"], imported["logits"])


@pytest.mark.parametrize("more", [(), ("-T", 2)], ids=["logits", "probabilities"])
def test_export_says_how_its_file_is_imported(
    made: Made, here: Path, distill: Distill, more: tuple[object, ...]
) -> None:
    outcome = distill("cache", "export", made.labels / "a", "--out", "my labels.csv", *more)
    assert outcome.code == 0, outcome.err
    [line] = [line for line in outcome.err.splitlines() if "cache import" in line]
    words = shlex.split(line.partition("distill ")[2])
    kind = "probabilities" if more else "logits"
    given = ["--kind", kind, "--augment", "shift:1", "--data", "digits"]
    assert words == ["cache", "import", "my labels.csv", *given]
    outcome = distill(*words, "--out", "back", "--quiet")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("args", "code", "fault"),
    [
        (("--out", "x.parquet"), 2, "no .npz and no .csv"),
        (("--out", "there.npz"), 2, "there.npz exists"),
        (("--out", "x.npz", "--view", 9), 2, "views 0 to 1"),
    ],
)
def test_what_export_refuses(
    made: Made, here: Path, distill: Distill, args: tuple, code: int, fault: str
) -> None:
    (here / "there.npz").write_text("mine")
    outcome = distill("cache", "export", made.labels / "a", *args, "--quiet")
    assert outcome.code == code
    assert fault in one_line(outcome)
    assert (here / "there.npz").read_text() == "mine"
    assert distill("cache", "export", made.labels, "--out", "x.npz").code == 2
