"""Cache folders: how they are recognised, and the files in them that may be read."""

from __future__ import annotations

from pathlib import Path

from distill_cli.errors import ArtifactError
from distill_cli.files import real_path

PLAN = "plan.json"
MANIFEST = "manifest.json"
EVAL = "eval.safetensors"
IDS = "ids.safetensors"
# Hashes of all files, as sha256sum -c reads them, beside a cache that was pushed.
SUMS = "SHA256SUMS"


def refuse_links_out(folder: Path, files: list[str]) -> None:
    """Refuses symlinks that lead out of a cache folder.

    Each parent is resolved once: a cache may have 10⁴ files.
    """
    root = real_path(folder)
    paths = [folder / file for file in [*files, EVAL, IDS]]
    linked = [path for path in paths if path.is_symlink()]
    for path in [*dict.fromkeys(path.parent for path in paths), *linked]:
        if not _resolves_inside(path, root):
            raise ArtifactError(
                f"{path} is a link that leads out of the cache folder",
                hint="Do not use this cache: nothing outside it was opened",
            )


def _resolves_inside(path: Path, root: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        pass  # Its reader reports a missing file.
    except OSError:
        return False  # A link that leads to itself resolves to nothing inside.
    return real_path(path).is_relative_to(root)


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache, finished or not."""
    return (folder / PLAN).is_file() or (folder / MANIFEST).is_file()


def expand(folder: Path) -> list[Path]:
    """The folder itself if it is a cache, else its sub-folders that are caches, sorted by name."""
    if is_cache(folder):
        return [folder]
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if is_cache(child))
