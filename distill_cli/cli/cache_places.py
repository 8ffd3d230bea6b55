"""`distill cache push | pull`: finished caches to and from places that other machines reach."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from distill_cli.cache.folder import expand
from distill_cli.cache.places import FolderPlace, place_of
from distill_cli.cache.push import Copied, caches_at, pull, push
from distill_cli.cli.options import Json, Quiet
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import escape, exactly, result_json, say
from distill_cli.errors import UsageError, counted
from distill_cli.files import one_writer
from distill_cli.pipeline.entries import CARD, SKIPPED
from distill_cli.pipeline.folders import check_cache_folders, check_cache_place
from distill_cli.report.format import size
from distill_cli.report.run_folder import RECIPE

# The files of a cache that its manifest does not name.
BESIDE = (RECIPE, SKIPPED, CARD)

Url = Annotated[str, typer.Argument(help="s3://…, another address of fsspec's, or a folder.")]


def cache_push(
    cache: Annotated[Path, typer.Argument(help="A finished cache, or a folder of them.")],
    url: Url,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a finished cache to a place that other machines reach; only what is missing there.

    Example: distill cache push runs/labels s3://bucket/labels
    """
    if not cache.exists():
        raise UsageError(f"cache '{cache}' does not exist")
    folders = expand(cache)
    if not folders:
        raise UsageError(f"{cache} is no cache folder")
    copies = {}
    for folder in folders:
        address = url if folder == cache else joined(url, folder.name)
        place = place_of(address)
        if isinstance(place, FolderPlace):
            check_cache_place(place.folder)
        with progress("push", quiet=quiet) as display:
            copies[address] = push(folder, place, BESIDE, progress=display.counting("file"))
    _show(copies, json=json, quiet=quiet)


def cache_pull(
    url: Url,
    cache: Annotated[Path, typer.Argument(help="The cache to make, or to complete.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a finished cache from such a place; only what is missing here.

    Example: distill cache pull s3://bucket/labels runs/labels
    """
    check_cache_place(cache)
    names = caches_at(place_of(url))
    targets = [cache / name if name else cache for name in names]
    check_cache_folders(cache, targets)
    copies = {}
    for name, target in zip(names, targets, strict=True):
        place = place_of(joined(url, name) if name else url)
        with one_writer(target, root=cache), progress("pull", quiet=quiet) as display:
            copies[str(target)] = pull(place, target, BESIDE, progress=display.counting("file"))
    _show(copies, json=json, quiet=quiet)


def joined(url: str, name: str) -> str:
    """The address of a sub-folder."""
    return f"{url.rstrip('/')}/{name}"


def _show(copies: dict[str, Copied], *, json: bool, quiet: bool) -> None:
    for address, copied in copies.items():
        if not quiet:
            say(
                f"{escape(address)}: {copied.copied:,} of {counted(copied.files, 'file')} copied, "
                f"{size(copied.bytes)}; all hashes agree"
            )
        if not json:
            exactly(address)
    if json:
        result_json({"caches": [{"cache": address, **asdict(c)} for address, c in copies.items()]})
