"""Archives from anywhere: what a member may be, what a stream may unpack to, and what is no bound."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import resource
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from distill_cli.data import archive_bounds
from distill_cli.data.archives import open_files
from distill_cli.errors import ArtifactError

MB = 1 << 20


def _picture() -> bytes:
    content = io.BytesIO()
    Image.new("L", (4, 4), 7).save(content, "PNG")
    return content.getvalue()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_plain_tar_of_three_gigabytes_is_read_where_it_lies(tmp_path: Path) -> None:
    """It is sparse on disk: what lies between the images is no data of the disk's."""
    path, picture, before = tmp_path / "large.tar", _picture(), _peak()
    with path.open("wb") as file:
        for number in range(12):
            for name, size in (
                (f"train/a/{number}.png", len(picture)),
                (f"film-{number}.avi", 256 * MB),
            ):
                header = tarfile.TarInfo(name)
                header.size = size
                file.write(header.tobuf())
                if name.endswith(".png"):
                    file.write(picture.ljust(512, b"\0"))
                else:
                    file.seek(size, os.SEEK_CUR)
        file.write(b"\0" * 1024)
    assert path.stat().st_size > 3 << 30
    assert path.stat().st_blocks * 512 < MB
    files = open_files(path)
    assert [parts[-1] for parts in files.paths] == [f"{number}.png" for number in range(12)]
    assert len(files.left) == 12
    assert {files.read(number) for number in range(12)} == {picture}
    assert _peak() - before < 64 * MB


def _tar(path: Path, size: int, mode: str, content: bytes | None = None) -> Path:
    with tarfile.open(path, mode) as tar:
        header = tarfile.TarInfo("train/a/1.png")
        header.size = size
        tar.addfile(header, io.BytesIO(bytes(size) if content is None else content))
    return path


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_a_compressed_tar_of_zeros_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = _tar(tmp_path / f"bomb.tar.{suffix}", 6 * MB, f"w:{suffix}")
    with pytest.raises(
        ArtifactError, match=rf"bomb\.tar\.{suffix} .*unpacks to over 200 times its size"
    ):
        open_files(path)


def test_a_small_tar_of_zeros_is_no_bomb(tmp_path: Path) -> None:
    path = _tar(tmp_path / "blank.tar.gz", MB // 2, "w:gz")
    assert len(open_files(path).read(0)) == MB // 2


def test_compressed_tars_are_held_within_the_memory_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(4):
            header = tarfile.TarInfo(f"train/a/{number}.png")
            header.size = MB
            tar.addfile(header, io.BytesIO(os.urandom(MB)))
    monkeypatch.setattr(archive_bounds, "memory", lambda: 4 * MB)
    assert len(open_files(path).paths) == 4
    monkeypatch.setattr(archive_bounds, "memory", lambda: 4 * MB - 1)
    with pytest.raises(
        ArtifactError, match=r"a\.tar\.gz unpacks to more than the 0\.0 GB of memory"
    ):
        open_files(path)


def _claiming(path: Path, size: int) -> Path:
    """A tar whose only member says that it has so many bytes."""
    header = tarfile.TarInfo("train/a/1.png")
    header.size = size
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    return path


def test_members_have_the_size_that_their_header_names(tmp_path: Path) -> None:
    before = _peak()
    for size in (257 * MB, 8 << 30, 1 << 62):
        # A header that names more than there is: the archive ends early, whoever reads on.
        with pytest.raises(ArtifactError, match=r"ends early|cannot be read"):
            open_files(_claiming(tmp_path / "a.tar", size))
    with (tmp_path / "hole.tar").open("wb") as file:
        header = tarfile.TarInfo("train/a/1.png")
        header.size = 257 * MB
        file.write(header.tobuf())
        file.seek(header.size, os.SEEK_CUR)
        file.write(bytes(1024))
    files = open_files(tmp_path / "hole.tar")
    with pytest.raises(OSError, match="it has 269,484,032 bytes, an image at most 268,435,456"):
        files.read(0)
    (tmp_path / "a.tar.gz").write_bytes(
        gzip.compress(_claiming(tmp_path / "a.tar", 257 * MB).read_bytes())
    )
    with pytest.raises(ArtifactError, match=r"train/a/1\.png: it has 269,484,032 bytes"):
        open_files(tmp_path / "a.tar.gz")
    assert _peak() - before < 64 * MB


@pytest.mark.parametrize("kind", [b"x", b"L", b"g", b"K"])
def test_a_header_of_a_tar_is_no_file(kind: bytes, tmp_path: Path) -> None:
    header = tarfile.TarInfo("name")
    header.size, header.type = 4 << 30, kind
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.seek(header.size, os.SEEK_CUR)
        file.write(bytes(1024))
    before = _peak()
    with pytest.raises(
        ArtifactError, match=r"a\.tar cannot be read: a header of 4,294,967,296 bytes"
    ):
        open_files(tmp_path / "a.tar")
    assert _peak() - before < 64 * MB


def test_a_member_with_holes_says_how_to_pack_it(tmp_path: Path) -> None:
    header = tarfile.TarInfo("train/a/1.png")
    header.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ArtifactError, match="pack it without --sparse"):
        open_files(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_of_a_zip_that_is_a_bomb_is_a_bad_image(kind: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        archive.writestr("train/a/1.png", bytes(4 * MB))
        archive.writestr("train/a/2.png", _picture())
    files = open_files(tmp_path / "a.zip")
    with pytest.raises(OSError, match="it unpacks to over 200 times its size, as no image does"):
        files.read(0)
    assert files.read(1) == _picture()


def _with_size(path: Path, size: int) -> None:
    """Writes another unpacked size into both headers of a zip's only member."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, start + 24, size)
    struct.pack_into("<I", content, 22, size)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_that_lies_about_a_size_is_not_unpacked_beyond_it(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("train/a/1.png", bytes(60 * MB))
    before = _peak()
    _with_size(path, 1000)
    with pytest.raises(OSError, match="Bad CRC-32"):
        open_files(path).read(0)
    assert _peak() - before < 40 * MB


def test_the_densest_streams_have_such_ratios() -> None:
    """What the bound stands between: zeros, and the most even of photographs."""
    zeros = bytes(4 * MB)
    assert len(zeros) / len(gzip.compress(zeros)) > 1000
    assert len(zeros) / len(bz2.compress(zeros)) > 50_000
    assert archive_bounds.RATIO == 200
