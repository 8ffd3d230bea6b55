"""Folders and archives give the same files; damage is refused, nothing outside is opened."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from distill_cli.data.archives import Files, open_files
from distill_cli.data.listing import is_archive
from distill_cli.errors import ArtifactError

CONTENT = {
    "train/cat/1.png": b"one",
    "train/cat/deep/2.JPG": b"two",
    "train/dog/3.webp": b"three",
    "test/cat/4.tif": b"four",
}
IGNORED = {
    "train/cat/.hidden.png": b"x",
    "train/cat/notes.txt": b"x",
    "train/.DS_Store": b"x",
    "__MACOSX/train/cat/1.png": b"x",
}
NAMES = ("d.tar", "d.tar.gz", "d.tgz", "d.tar.bz2", "d.tar.xz", "d.zip")


def pack(path: Path, content: Mapping[str, bytes], top: str = "") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(top + name, data)
        return path
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def unpack(root: Path, content: Mapping[str, bytes]) -> Path:
    for name, data in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def content_of(files: Files) -> dict[str, bytes]:
    return {"/".join(parts): files.read(index) for index, parts in enumerate(files.paths)}


def test_a_folder_lists_its_images(tmp_path: Path) -> None:
    files = open_files(unpack(tmp_path, {**CONTENT, **IGNORED}))
    assert content_of(files) == CONTENT
    assert ("train", "cat", "deep") in files.folders


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("top", ["", "./"])
def test_an_archive_equals_its_folder(tmp_path: Path, name: str, top: str) -> None:
    path = pack(tmp_path / name, {**IGNORED, **CONTENT}, top)
    assert is_archive(path)
    assert content_of(open_files(path)) == CONTENT


@pytest.mark.parametrize("name", NAMES)
def test_members_that_point_outside_are_ignored(tmp_path: Path, name: str) -> None:
    outside = {"../evil/1.png": b"x", "/tmp/evil/1.png": b"x", "train/../../cat/1.png": b"x"}
    assert content_of(open_files(pack(tmp_path / name, {**outside, **CONTENT}))) == CONTENT


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["d.tar", "d.tar.gz"])
def test_links_are_ignored(tmp_path: Path, name: str, kind: bytes) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    link = tarfile.TarInfo("train/cat/link.png")
    link.type, link.linkname = kind, str(tmp_path / "secret.png")
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
        tar.addfile(link)
        member = tarfile.TarInfo("train/cat/1.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"one"))
    assert content_of(open_files(tmp_path / name)) == {"train/cat/1.png": b"one"}


def test_plain_tar_and_zip_are_read_by_many_threads(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    content = {f"train/cat/{index}.png": bytes([index]) * 999 for index in range(200)}
    for name in ("d.tar", "d.zip"):
        files = open_files(pack(tmp_path / name, content))
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(files.read, range(200)))
        assert dict(zip(map("/".join, files.paths), read, strict=True)) == content


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no archive at all" * 99)
    with pytest.raises(ArtifactError, match=name):
        open_files(tmp_path / name)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_truncated_archive_is_refused(tmp_path: Path, name: str) -> None:
    big = {path: bytes(range(256)) * 40 + path.encode() for path in CONTENT}
    path = pack(tmp_path / name, big)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=name):
        open_files(path)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_of_two_members_counts(tmp_path: Path, name: str) -> None:
    first, second = ({"a/1.png": b"old", "b/1.png": b"b"}, {"./a/1.png": b"new"})
    assert content_of(open_files(pack(tmp_path / name, {**first, **second}))) == {
        "a/1.png": b"new",
        "b/1.png": b"b",
    }


@pytest.mark.parametrize("compressed", [False, True])
def test_a_tar_cut_between_members_is_refused(tmp_path: Path, compressed: bool) -> None:
    whole = pack(tmp_path / "whole.tar", CONTENT)
    with tarfile.open(whole) as tar:
        cut = whole.read_bytes()[: tar.getmembers()[-1].offset]
    path = tmp_path / ("cut.tar.gz" if compressed else "cut.tar")
    path.write_bytes(gzip.compress(cut) if compressed else cut)
    with pytest.raises(ArtifactError, match=r"cut\.tar.*ends early"):
        open_files(path)


def test_a_flipped_bit_in_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    # Level 0 stores: the flip damages an image and nothing that tar or inflate would notice.
    raw = pack(tmp_path / "d.tar", {"a/1.bmp": bytes(5000)}).read_bytes()
    stored = bytearray(gzip.compress(raw, 0))
    stored[2000] ^= 1
    (tmp_path / "e.tar.gz").write_bytes(bytes(stored))
    with pytest.raises(ArtifactError, match="CRC"):
        open_files(tmp_path / "e.tar.gz")
    (tmp_path / "f.tar.gz").write_bytes(gzip.compress(raw)[:-6])
    with pytest.raises(ArtifactError, match=r"f\.tar\.gz"):
        open_files(tmp_path / "f.tar.gz")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.zip", CONTENT)
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ArtifactError, match="encrypted"):
        open_files(path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", {"a/\udcff.png": b"x"})
    with pytest.raises(ArtifactError, match="UTF-8"):
        open_files(path)


def test_a_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    unpack(tmp_path / "d", CONTENT)
    (tmp_path / "d" / "train" / "cat" / "loop").symlink_to(tmp_path / "d" / "train")
    with pytest.raises(ArtifactError, match="loop"):
        open_files(tmp_path / "d")


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    unpack(tmp_path / "store", {"1.png": b"one"})
    for name in ("cat", "dog"):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / name).symlink_to(tmp_path / "store")
    assert content_of(open_files(tmp_path / "d")) == {"cat/1.png": b"one", "dog/1.png": b"one"}
