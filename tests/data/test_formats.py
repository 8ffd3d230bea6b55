"""One list of suffixes for every verb, and decoders that start no program."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError, features

from distill_cli.data.archives import open_files
from distill_cli.data.dataset import open_dataset
from distill_cli.data.formats import FORMATS, READ, open_image
from distill_cli.data.inventory import left_in_words
from distill_cli.data.open_splits import open_splits
from distill_cli.data.picture_files import picture_files, read_for_network
from distill_cli.errors import ArtifactError
from tests.data.odd_folders import classes, colour, content, grey, save
from tests.data.test_archives import pack, unpack

NEW = (".jfif", ".jpe", ".avif", ".jp2", ".j2k", ".pbm", ".pnm", ".tga", ".ico")


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_every_suffix_of_the_list_is_decoded(tmp_path: Path, suffix: str) -> None:
    image = colour(0, 1, side=16) if suffix not in (".pgm", ".pbm") else grey(0, 1, side=16)
    path = save(classes(tmp_path, 4) / "a" / f"odd{suffix}", image, FORMATS[suffix])
    splits = open_splits(str(tmp_path))
    rows = [(source, row) for source in splits.values() for row in range(len(source))]
    assert len(rows) == 9
    [(source, row)] = [pair for pair in rows if pair[0].sample_id(pair[1]) == f"a/odd{suffix}"]
    assert source.image(row).convert("L").size == (16, 16)
    assert read_for_network(path, 1, 16, 16).size == (16, 16)
    assert picture_files([path]) == ([path], [])
    assert path in picture_files([tmp_path])[0]


def test_the_new_suffixes_are_upper_case_too_and_were_not_read_before(tmp_path: Path) -> None:
    for suffix in NEW:
        save(tmp_path / "a" / f"x{suffix.upper()}", grey(0, 1, side=16), FORMATS[suffix])
    save(tmp_path / "a" / "plain.png", grey(0, 2))
    assert len(open_files(tmp_path).paths) == len(NEW) + 1
    assert [parts[-1] for parts in open_files(tmp_path, "0.3.0").paths] == ["plain.png"]


@pytest.mark.parametrize("kind", ["EPS", "PSD", "text"])
def test_no_reader_but_ours_is_asked(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a file is called: Ghostscript is started for an EPS as soon as it is decoded."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("another program would start, or its reader is asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", refuse)
    monkeypatch.setattr(subprocess, "check_call", refuse)
    made = {"EPS": lambda: content(colour(0, 1), "EPS"), "PSD": lambda: b"8BPS\0\1" + bytes(60)}
    classes(tmp_path, 4)
    (tmp_path / "a" / "00.png").write_bytes(made.get(kind, lambda: b"text")())
    with pytest.raises(ArtifactError, match=r"00\.png: it is of no format that is read"):
        open_dataset(str(tmp_path))
    with pytest.raises(UnidentifiedImageError):
        read_for_network(tmp_path / "a" / "00.png", 1, 8, 8)
    assert not {"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG"} & set(READ)


def test_a_named_file_is_an_image_by_the_list_of_folders(tmp_path: Path) -> None:
    save(tmp_path / "drawing.eps", colour(0, 1))
    save(tmp_path / "1.png", grey(0, 1))
    with pytest.raises(OSError, match=r"its suffix \(\.eps\) is none"):
        read_for_network(tmp_path / "drawing.eps", 1, 8, 8)
    files, left = picture_files([tmp_path])
    assert (files, [one.where for one in left]) == (
        [tmp_path / "1.png"],
        [str(tmp_path / "drawing.eps")],
    )


@pytest.mark.parametrize(("suffix", "decoder"), [(".avif", "avif"), (".jp2", "jpg_2000")])
def test_a_decoder_that_this_pillow_lacks_is_named_before_anything_is_read(
    tmp_path: Path, suffix: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = classes(tmp_path / "d", 4) / "b" / f"odd{suffix}"
    path.write_bytes(b"whatever it holds")
    monkeypatch.setattr(features, "check", lambda name: name != decoder)
    with pytest.raises(
        ArtifactError, match=rf"odd{suffix} is of the format {FORMATS[suffix]}.*pip"
    ):
        open_dataset(str(tmp_path / "d"))
    with pytest.raises(ArtifactError, match="pip install"):
        picture_files([path])
    path.unlink()
    assert len(open_dataset(str(tmp_path / "d")).class_names) == 2


@pytest.mark.parametrize("name", ["d", "d.zip", "d.tar", "d.tar.gz"])
def test_everything_left_out_is_noted_with_its_reason(tmp_path: Path, name: str) -> None:
    files = {
        "a/1.png": b"1",
        "a/notes.txt": b"",
        "a/2.HEIC": b"",
        "b/README": b"",
        "b/.hidden.png": b"",
        ".git/x.png": b"",
        "@eaDir/a/1.png": b"",
        "a/@eaDir/1.png/SYNO.jpg": b"",
        "a/@eaDir/2.png/SYNO.jpg": b"",
    }
    path = tmp_path / name
    listed = open_files(unpack(path, files) if name == "d" else pack(path, files))
    separator = "/" if name == "d" else "!"
    assert {(one.where.removeprefix(f"{path}{separator}"), one.kind) for one in listed.left} == {
        ("a/notes.txt", "suffix"),
        ("a/2.HEIC", "suffix"),
        ("b/README", "suffix"),
        ("b/.hidden.png", "hidden"),
        (".git", "hidden"),
        ("@eaDir", "hidden"),
        ("a/@eaDir", "hidden"),
    }
    assert ["/".join(parts) for parts in listed.paths] == ["a/1.png"]
    assert all(one.reason for one in listed.left)


def test_an_empty_file_is_told_as_such(tmp_path: Path) -> None:
    classes(tmp_path, 4)
    empty = tmp_path / "a" / "00.png"
    empty.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"00\.png: the file is empty\. "):
        open_dataset(str(tmp_path))
    with pytest.raises(OSError, match="the file is empty"):
        read_for_network(empty, 1, 8, 8)


def test_one_hidden_file_is_counted_as_one(tmp_path: Path) -> None:
    classes(tmp_path, 4)
    for name in ("a/.one.png", ".git/x", ".svn/x", "@eaDir/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    words = left_in_words(open_files(tmp_path).left)
    assert words == ["ignored: 1 @eaDir, 1 hidden file, 2 hidden folders"]


def test_a_page_of_one_colour_is_no_bomb() -> None:
    """A header that claims more than its bytes can hold is: tests/fixtures/mutated has one."""
    content = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(content, "PNG")
    assert open_image(content.getvalue()).size == (10_000, 10_000)
    with pytest.raises(Image.DecompressionBombError, match="more than 99 megapixels"):
        open_image(content.getvalue(), 99)
