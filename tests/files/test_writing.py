"""What is written, and what is not: links planted in a folder, temporary names, locks, refusals."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_cli import files
from distill_cli.errors import ArtifactError, DistillError, InternalError, UsageError

SECRET = "not distill's"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside the folder that is written."""
    path = tmp_path / "outside" / "victim"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


WRITES: dict[str, Callable[[Path], object]] = {
    "write": lambda path: files.write_text(path, "new"),
    "append": lambda path: files.append(path, "new"),
    "cut": lambda path: files.cut(path, 0),
    "move": lambda path: files.move(path.parent / "other", path),
    "create": lambda path: files.created(path).__enter__(),
}


@pytest.mark.parametrize("target", ["file", "nowhere"])
@pytest.mark.parametrize("write", WRITES)
def test_no_file_is_written_through_a_link(
    run: Path, victim: Path, write: str, target: str
) -> None:
    (run / "other").write_text("other")
    leads_to = victim if target == "file" else victim.parent / "nowhere"
    (run / "x").symlink_to(leads_to)
    with pytest.raises(DistillError) as raised:
        WRITES[write](run / "x")
    if write != "create":
        # A file that is made must not be there, whatever it is.
        assert type(raised.value) is ArtifactError
        assert f"{run / 'x'} is a link" in str(raised.value)
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]
    assert victim.read_text() == SECRET
    assert (run / "x").is_symlink()


@pytest.mark.parametrize("target", ["outside", "inside", "nowhere"])
@pytest.mark.parametrize("write", WRITES)
def test_no_file_is_written_through_a_linked_folder(
    run: Path, victim: Path, write: str, target: str
) -> None:
    (run / "inside").mkdir()
    (run / "model").symlink_to({"outside": victim.parent}.get(target, run / target))
    with files.one_writer(run), pytest.raises(DistillError, match="model is a link") as raised:
        WRITES[write](run / "model" / "deeper" / "x")
    assert type(raised.value) is ArtifactError
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]
    assert not list((run / "inside").iterdir())


def test_nothing_is_removed_through_a_link(run: Path, victim: Path) -> None:
    (run / "last").symlink_to(victim.parent)
    with files.below(run), pytest.raises(ArtifactError, match="last is a link"):
        files.remove(run / "last" / "victim")
    assert victim.read_text() == SECRET
    files.remove(run / "last")
    assert not list(run.iterdir())
    (run / "stages").mkdir()
    (run / "stages" / "link").symlink_to(victim.parent)
    files.remove(run / "stages")
    files.remove(run / "nothing")
    assert victim.read_text() == SECRET


def test_links_in_the_path_that_was_named_are_followed(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with files.one_writer(tmp_path / "link" / "run"):
        files.write_text(tmp_path / "link" / "run" / "last" / "x", "new")
    assert (tmp_path / "disk/run/last/x").read_text() == "new"
    (tmp_path / "latest").symlink_to("disk/run")
    with files.one_writer(tmp_path / "latest"):
        files.append(tmp_path / "latest" / "last" / "x", "er")
    assert (tmp_path / "disk/run/last/x").read_text() == "newer"
    (tmp_path / "page").symlink_to(victim)
    files.write_text(files.named_file(tmp_path / "page"), "a page")
    assert victim.read_text() == "a page"
    assert (tmp_path / "page").is_symlink()


def test_the_outermost_folder_that_is_held_is_the_root(run: Path, victim: Path) -> None:
    (run / "seed-0").symlink_to(victim.parent)
    inner = run / "seed-0"
    linked = pytest.raises(ArtifactError, match="seed-0 is a link")
    with files.one_writer(run), linked, files.one_writer(inner):
        pass
    with linked, files.one_writer(inner, root=run):
        pass
    assert not (victim.parent / ".lock").exists()


def test_a_hard_link_is_a_file(run: Path, victim: Path) -> None:
    os.link(victim, run / "x")
    files.write_text(run / "x", "new")
    assert victim.read_text() == SECRET, "the new file took the name"
    assert (run / "x").read_text() == "new"


def test_planted_temporaries_are_not_written(run: Path, victim: Path) -> None:
    planted = [".tmp-x", ".tmp-x.json", ".tmp-dangling"]
    for name in planted:
        (run / name).symlink_to(victim if name != planted[-1] else victim.parent / "nowhere")
    (run / ".tmp-folder").mkdir()
    (run / "inner").symlink_to(victim.parent)
    (victim.parent / ".tmp-theirs").write_text(SECRET)
    files.write_text(run / "x", "new")
    files.write_text(run / "x.json", "new")
    assert victim.read_text() == SECRET
    files.remove_temporaries(run)
    names = {path.name for path in run.iterdir()}
    assert names == {"x", "x.json", ".tmp-folder", "inner"}
    assert (victim.parent / ".tmp-theirs").exists()


def test_a_temporary_is_fresh_and_exclusive(run: Path) -> None:
    names = set()

    def write(handle: object) -> None:
        names.update(path.name for path in run.iterdir())

    for _ in range(3):
        files.write_atomically(run / "x", write)
    names.discard("x")
    assert len(names) == 3
    assert all(name.startswith(".tmp-") for name in names)


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_a_lock_is_a_plain_file(run: Path, victim: Path, kind: str) -> None:
    lock = run / ".lock"
    if kind == "folder":
        lock.mkdir()
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(victim if kind == "link" else victim.parent / "nowhere")
    refused = pytest.raises(ArtifactError, match=r"\.lock is (a link|no plain file)")
    with refused, files.one_writer(run):
        pass
    assert not files.is_written(run)
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]


@pytest.mark.parametrize("append", [False, True])
def test_a_pipe_is_not_waited_for(run: Path, append: bool) -> None:
    os.mkfifo(run / "x")
    with pytest.raises(ArtifactError, match="no plain file"):
        (files.append if append else files.write_text)(run / "x", "new")


def test_a_name_of_any_length_is_written(run: Path) -> None:
    files.write_text(run / ("x" * 255), "new")
    with pytest.raises(UsageError, match="name too long"):
        files.write_text(run / ("x" * 256), "new")
    with pytest.raises(UsageError, match="name too long"):
        files.named_file(run / ("x" * 256))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, UsageError) for number in (errno.EACCES, errno.EROFS, errno.EPERM)),
        *((number, InternalError) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)),
    ],
)
@pytest.mark.parametrize("at", ["open", "fsync", "replace"])
def test_an_error_of_the_system_is_ours(
    run: Path, monkeypatch: pytest.MonkeyPatch, at: str, number: int, kind: type[DistillError]
) -> None:
    files.write_text(run / "x", "old")
    plain = getattr(os, at)

    def refused(*args: object, **options: object) -> object:
        if at == "open" and not str(args[0]).startswith(".tmp-"):
            return plain(*args, **options)
        raise OSError(number, os.strerror(number))

    def unlink(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "the clean-up fails too")

    with monkeypatch.context() as patch:
        patch.setattr(os, at, refused)
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(DistillError) as raised:
            files.write_text(run / "x", "new")
    assert type(raised.value) is kind
    assert str(run / "x") in str(raised.value)
    assert (run / "x").read_text() == "old"
