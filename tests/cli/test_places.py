"""`distill cache push | pull`: caches in places that other machines reach, with hashes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distill_cli.cache.places import RemotePlace
from tests.cache.examples import PLAN, contents, dump
from tests.cli.test_faults import one_line
from tests.conftest import Made, Outcome
from tests.processes import start, stuck
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
SUMS, URL = "SHA256SUMS", "memory://bucket/labels"
SHARD = "view-0001/shard-00002.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name != ".lock"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What lies at memory://."""
    from fsspec.implementations.memory import MemoryFileSystem

    store: dict[str, object] = {}
    monkeypatch.setattr(MemoryFileSystem, "store", store)
    return store


@pytest.fixture
def cache(here: Path) -> Path:
    """A finished cache of eight shards, with its recipe."""
    dump(here / "c")
    (here / "c" / "recipe.yaml").write_text("command: cache-soft-labels\n")
    return here / "c"


def at(bucket: dict[str, object], file: str) -> str:
    return f"/bucket/labels/{file}" if f"/bucket/labels/{file}" in bucket else file


@pytest.mark.parametrize("url", [URL, "shared/labels", "file://{here}/shared/labels"])
def test_there_and_back(
    cache: Path, here: Path, bucket: dict[str, object], distill: Distill, url: str
) -> None:
    url = url.format(here=here)
    pushed = json.loads(distill("cache", "push", "c", url, "--json").out)["caches"]
    assert pushed == [{"cache": url, "files": 13, "copied": 13, "bytes": pushed[0]["bytes"]}]
    outcome = distill("cache", "pull", url, "d")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "d\n"
    assert "13 of 13 files copied" in outcome.err
    assert files(here / "d") == files(cache)
    assert distill("cache", "verify", "d").code == 0
    for again in (("push", "c", url), ("pull", url, "d")):
        assert json.loads(distill("cache", *again, "--json").out)["caches"][0]["copied"] == 0


def test_the_list_of_hashes_is_what_sha256sum_reads(cache: Path, distill: Distill) -> None:
    assert distill("cache", "push", "c", "shared", "--quiet").code == 0
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd="shared", check=True)
    (cache / "README.md").write_text("a card\n")
    assert distill("cache", "push", "c", "shared", "--quiet").code == 0
    assert "README.md" in Path("shared", SUMS).read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd="shared", check=True)
    # What was pushed to is a cache's folder as any other.
    Path("shared", SHARD).unlink()
    assert distill("cache", "pull", "c", "shared", "--quiet").code == 0


def test_caches_of_several_teachers(
    made: Made, here: Path, bucket: dict[str, object], distill: Distill
) -> None:
    assert distill("cache", "push", made.labels, URL, "--quiet").code == 0
    assert distill("cache", "pull", URL, "d", "--quiet").code == 0
    assert {name for name in files(here / "d") if not name.endswith(".lock")} == {
        name for name in files(made.labels) if not name.endswith(".lock")
    }
    student = ("student", "--teachers", "d", "--model", "mlp_8x1", "--epochs", 1, "--quiet")
    assert distill(*student, "--out", "s").code == 0


def test_a_push_that_breaks_off_goes_on(
    cache: Path,
    here: Path,
    bucket: dict[str, object],
    distill: Distill,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
) -> None:
    plain, calls = RemotePlace.upload, []

    def upload(self: RemotePlace, source: Path, file: str) -> None:
        calls.append(file)
        with self._failing(file):
            if len(calls) == 6:
                raise ConnectionError("the other end has gone")
        plain(self, source, file)

    monkeypatch.setattr(RemotePlace, "upload", upload)
    outcome = distill("cache", "push", "c", URL, "--quiet")
    assert outcome.code == 1
    assert "run the same command again" in one_line(outcome)
    assert at(bucket, "manifest.json") not in bucket
    refused = distill("cache", "pull", URL, "d", "--quiet")
    assert refused.code == 3
    assert "no finished cache lies at" in one_line(refused)
    reliability(
        "Caches",
        "the connection breaks off while a cache is copied to a place",
        "distill cache push labels URL",
        outcome,
    )
    calls.append("the connection is there again")
    pushed = json.loads(distill("cache", "push", "c", URL, "--json").out)["caches"][0]
    assert pushed["copied"] == 13 - 5
    assert distill("cache", "pull", URL, "d", "--quiet").code == 0
    assert files(here / "d") == files(cache)


def test_a_pull_that_is_killed_goes_on(cache: Path, here: Path, distill: Distill) -> None:
    """Killed −9 in the middle of its sixth file."""
    assert distill("cache", "push", "c", "shared", "--quiet").code == 0
    process = start(
        *("cache", "pull", "shared", "d"), before=stuck("distill_cli.cache.places", "checked", at=6)
    )
    process.until(lambda: len(list(here.glob("d/**/*.safetensors"))) == 3, "the fifth file")
    process.send(9)
    assert process.end().code == -9
    assert not (here / "d" / "manifest.json").exists()
    assert distill("evaluate", "d").code != 0
    pulled = json.loads(distill("cache", "pull", "shared", "d", "--json").out)["caches"][0]
    assert pulled["copied"] == 13 - 5
    assert files(here / "d") == files(cache)


def test_what_changed_at_the_place_is_not_stored(
    cache: Path, here: Path, distill: Distill, reliability: Reliability
) -> None:
    assert distill("cache", "push", "c", "shared", "--quiet").code == 0
    path = here / "shared" / SHARD
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    outcome = distill("cache", "pull", "shared", "d", "--quiet")
    assert outcome.code == 3
    assert f"shared/{SHARD} was changed" in one_line(outcome)
    assert not (here / "d" / SHARD).exists()
    assert not (here / "d" / "manifest.json").exists()
    reliability(
        "Caches",
        "a bit flips in a place that a cache is copied from",
        "distill cache pull URL labels",
        outcome,
    )
    # A push hashes what lies there, and heals it.
    pushed = json.loads(distill("cache", "push", "c", "shared", "--json").out)["caches"][0]
    assert pushed["copied"] == 1
    assert distill("cache", "pull", "shared", "d", "--quiet").code == 0
    assert files(here / "d") == files(cache)
    for name in ("recipe.yaml", "plan.json"):
        (here / "shared" / name).write_text((here / "shared" / name).read_text() + " \n")
        (here / "d" / name).unlink()
        assert distill("cache", "pull", "shared", "d", "--quiet").code == 3
        assert distill("cache", "push", "c", "shared", "--quiet").code == 0


def test_what_changed_here_is_not_pushed(cache: Path, here: Path, distill: Distill) -> None:
    (cache / SHARD).write_bytes((cache / SHARD).read_bytes()[:-1] + b"\7")
    outcome = distill("cache", "push", "c", "shared", "--quiet")
    assert outcome.code == 3
    assert f"{SHARD} was changed" in one_line(outcome)
    assert not (here / "shared" / SHARD).exists()
    assert not (here / "shared" / "manifest.json").exists()
    (cache / "manifest.json").unlink()
    assert distill("cache", "push", "c", "shared", "--quiet").code == 3


def test_two_caches_are_not_mixed(
    cache: Path, here: Path, distill: Distill, reliability: Reliability
) -> None:
    dump(here / "other", replace(PLAN, codec="fp16"))
    assert distill("cache", "push", "other", "shared", "--quiet").code == 0
    before = files(here / "shared")
    outcome = distill("cache", "push", "c", "shared", "--quiet")
    assert outcome.code == 2
    assert "holds a cache of another plan (codec" in one_line(outcome)
    assert files(here / "shared") == before
    reliability(
        "Caches",
        "another cache lies in the place that one is copied to",
        "distill cache push labels URL",
        outcome,
    )
    refused = distill("cache", "pull", "shared", "c", "--quiet")
    assert refused.code == 2
    assert "holds a cache of another plan" in one_line(refused)
    assert files(here / "c") == files(cache)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere://x/y", "there is no protocol nowhere://"),
        ("s3://", "names no place"),
        ("s3://bucket/../x", "names no place"),
        ("simplecache::s3://bucket/x", "names no place"),
    ],
)
def test_places_that_there_are_not(cache: Path, distill: Distill, url: str, said: str) -> None:
    for args in (("push", "c", url), ("pull", url, "d")):
        outcome = distill("cache", *args, "--quiet")
        assert outcome.code == 2
        assert said in one_line(outcome)
    assert not Path("d").exists()


def test_a_driver_that_is_not_installed(
    cache: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, reliability: Reliability
) -> None:
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    outcome = distill("cache", "push", "c", "s3://bucket/labels", "--quiet")
    assert outcome.code == 2
    assert "pip install 'distill-cli[s3]'" in one_line(outcome)
    reliability(
        "Usage and recipes",
        "the package of a place's address is not installed",
        "distill cache push labels s3://bucket/labels",
        outcome,
    )


@pytest.mark.parametrize("target", ["runs", "."])
def test_nothing_is_pulled_over_something_else(
    cache: Path, here: Path, distill: Distill, target: str
) -> None:
    assert distill("cache", "push", "c", "shared", "--quiet").code == 0
    (here / "runs").mkdir()
    (here / "runs" / "notes.md").write_text("mine")
    outcome = distill("cache", "pull", "shared", target, "--quiet")
    assert outcome.code == 2
    assert (here / "runs" / "notes.md").read_text() == "mine"


def test_links_in_a_place_are_not_followed(cache: Path, here: Path, distill: Distill) -> None:
    (here / "elsewhere").mkdir()
    (here / "shared").mkdir()
    (here / "shared" / "view-0001").symlink_to(here / "elsewhere")
    outcome = distill("cache", "push", "c", "shared", "--quiet")
    assert outcome.code == 3
    assert "is a link" in one_line(outcome)
    assert not list((here / "elsewhere").iterdir())
    shutil.rmtree(here / "shared")


@pytest.mark.slow
def test_on_s3(s3: str, cache: Path, here: Path, distill: Distill) -> None:
    url = f"{s3}/labels"
    assert json.loads(distill("cache", "push", "c", url, "--json").out)["caches"][0]["copied"] == 13
    assert json.loads(distill("cache", "push", "c", url, "--json").out)["caches"][0]["copied"] == 0
    assert distill("cache", "pull", url, "d", "--quiet").code == 0
    assert files(here / "d") == files(cache)
    import s3fs

    s3fs.S3FileSystem(use_listings_cache=False).pipe_file(f"bucket/labels/{SHARD}", b"other")
    (here / "d" / SHARD).unlink()
    refused = distill("cache", "pull", url, "d", "--quiet")
    assert refused.code == 3
    assert f"{url}/{SHARD} was changed" in one_line(refused)
    assert json.loads(distill("cache", "push", "c", url, "--json").out)["caches"][0]["copied"] == 1
    assert distill("cache", "pull", f"{s3}/elsewhere", "e", "--quiet").code == 3
    missing = distill("cache", "push", "c", "s3://no-such-bucket/labels", "--quiet")
    assert missing.code in (1, 2)
    assert "s3://no-such-bucket/labels" in one_line(missing)
