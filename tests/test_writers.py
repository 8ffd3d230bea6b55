"""Nothing writes past the room `files`. Read from the source, as tests/test_imports.py does."""

from __future__ import annotations

import ast

import pytest

from distill_cli import files
from tests.test_imports import FILES, PACKAGE

# Methods of paths, and functions of modules, that make, change or remove files.
WRITERS = {
    *("write_text", "write_bytes", "touch", "mkdir", "makedirs", "rename", "renames", "unlink"),
    *("rmdir", "removedirs", "rmtree", "symlink_to", "hardlink_to", "symlink", "link", "chmod"),
    *("copyfile", "copy2", "copytree", "copymode", "truncate", "mkfifo", "mknod"),
    *("tofile", "save_file", "savefig", "imsave", "savetxt", "savez", "savez_compressed", "to_csv"),
    *("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory", "extractall", "extract"),
}
# Those whose names other objects have too, by the modules they stand behind.
OF_MODULES = {"os": {"remove", "replace"}, "shutil": {"copy", "move"}, "np": {"save"}}
OF_MODULES |= {"numpy": {"save"}, "torch": {"save"}}
# What writes nothing that lies in a folder: into memory, or to a stream.
ALLOWED = {
    ("training/checkpoint.py", "torch.save"): "into memory, for files.write_bytes",
    ("report/plots.py", "figure.savefig"): "into memory",
    ("data/disk_cache.py", "tofile"): "into a handle of files.created",
    ("cli/terminal.py", "os.open"): "/dev/null",
    ("cli/muting.py", "os.open"): "/dev/null",
    ("launcher/attempts.py", "tempfile.TemporaryDirectory"): "for the logs that torch insists on",
    (
        "pipeline/export/int8.py",
        "tempfile.TemporaryDirectory",
    ): "for files that onnxruntime insists on",
    ("pipeline/run/resume.py", "checkpoint.rename"): "our own, which writes with files",
    ("pipeline/demo.py", "tarfile.open"): "into memory",
    ("cache/export.py", "archive.open"): "a member of an archive in a handle of files",
    ("cache/export.py", "zipfile.ZipFile"): "in a handle of files",
}


def mode_of(call: ast.Call, position: int) -> str:
    """The mode that a file is opened with; "?" where it is not written out."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    given += call.args[position : position + 1]
    if not given:
        return "r"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else "?"


def writes(call: ast.Call) -> bool:
    """Whether a call may make, change or remove a file."""
    if isinstance(call.func, ast.Name):
        opened = call.func.id == "open" and bool(set(mode_of(call, 1)) & set("wax+?"))
        return opened or (call.func.id in WRITERS and call.func.id not in files.__all__)
    if not isinstance(call.func, ast.Attribute):
        return False
    owner, name = ast.unparse(call.func.value), call.func.attr
    if owner == "os" and name == "open":
        return ast.unparse(call.args[1]) not in ("os.O_RDONLY", "os.O_RDONLY | os.O_NONBLOCK")
    if name == "replace":
        # A path's has one argument, a text's two or more.
        return owner == "os" or (len(call.args) == 1 and not call.keywords)
    if any(keyword.arg == "fileobj" for keyword in call.keywords):
        # Whoever opened that is looked at.
        return False
    if name in ("open", "ZipFile"):
        # Of modules and archives the file comes first.
        first = {"io": 1, "gzip": 1, "bz2": 1, "lzma": 1, "codecs": 1, "zipfile": 1, "tarfile": 1}
        position = 1 if name == "ZipFile" else first.get(owner, 0)
        if owner in ("archive", "Image"):
            position = 1
        return bool(set(mode_of(call, position)) & set("wax+?"))
    return name in WRITERS or name in OF_MODULES.get(owner, ())


def writers(source: str, name: str) -> list[str]:
    """The calls in a source that may write, but for those that are allowed there."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and writes(node):
            call = ast.unparse(node.func)
            if not {(name, call), (name, call.rpartition(".")[2])} & ALLOWED.keys():
                calls.append(f"{name}:{node.lineno}: {call}")
    return calls


def test_only_the_room_files_writes() -> None:
    for path in FILES:
        if path.parent != PACKAGE / "files":
            name = path.relative_to(PACKAGE).as_posix()
            assert writers(path.read_text(encoding="utf-8"), name) == []


def test_what_is_allowed_to_write_is_there() -> None:
    for name, call in ALLOWED:
        assert f"{call}(" in (PACKAGE / name).read_text(encoding="utf-8"), (name, call)


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text('x')",
        "Path('x').mkdir(parents=True)",
        "path.open('ab')",
        "path.open(mode='w')",
        "path.open(mode)",
        "open(path, 'w')",
        "open(path, 'r+')",
        "io.open(path, 'x')",
        "gzip.open(path, 'wb')",
        "os.open(path, os.O_WRONLY)",
        "os.open(path, flags)",
        "os.replace(a, b)",
        "path.replace(other)",
        "path.rename(other)",
        "path.unlink(missing_ok=True)",
        "os.remove(path)",
        "shutil.rmtree(path)",
        "shutil.copyfile(a, b)",
        "torch.save(content, path)",
        "save_file(tensors, path)",
        "np.save(path, array)",
        "array.tofile(path)",
        "zipfile.ZipFile(path, 'w')",
        "tarfile.open(path, 'w:gz')",
        "tempfile.mkdtemp()",
        "figure.savefig(path)",
    ],
)
def test_a_planted_writer_is_found(source: str) -> None:
    assert len(writers(source, "report/newcomer.py")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "text.replace('a', 'b')",
        "replace(config, x=1)",
        "path.open('rb')",
        "path.open(encoding='utf-8')",
        "open(path)",
        "os.open(path, os.O_RDONLY)",
        "write_text(path, 'x')",
        "zipfile.ZipFile(path)",
        "Image.open(path, formats=READ)",
        "names.remove(name)",
        "tarfile.open(fileobj=handle, mode='r:')",
        "tarfile.open(fileobj=buffer, mode='w')",
    ],
)
def test_readers_are_no_writers(source: str) -> None:
    assert writers(source, "report/newcomer.py") == []
