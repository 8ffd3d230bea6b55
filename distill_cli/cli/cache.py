"""`distill cache info | verify | merge | import | export | push | pull`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from distill_cli.cache.folder import expand
from distill_cli.cache.manifest import Manifest, read_manifest, read_plan
from distill_cli.cli.cache_export import cache_export
from distill_cli.cli.cache_import import cache_import
from distill_cli.cli.cache_info import described, sketched
from distill_cli.cli.cache_places import cache_pull, cache_push
from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import Json, Quiet
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import console, escape, exactly, result, result_json, say
from distill_cli.errors import ArtifactError, UsageError, counted
from distill_cli.files import one_writer, real_path

app = VerbApp(no_args_is_help=True)

REPAIR = "Rerun {} with the same options: only damaged shards are made again"

Caches = Annotated[list[Path], typer.Argument(help="Cache folders, or folders of them.")]


app.command("import")(cache_import)
app.command("export")(cache_export)
app.command("push")(cache_push)
app.command("pull")(cache_pull)


@app.callback()
def _cache() -> None:
    """Describe, check, join, import, export and share soft-label caches."""


@app.command()
def info(
    caches: Caches,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-T", min=1e-3, max=1000, help="Show what the codec loses."),
    ] = None,
    json: Json = False,
) -> None:
    """What a soft-label cache holds.

    Example: distill cache info runs/labels
    """
    documents = [described(folder, temperature) for folder in _folders(caches)]
    if json:
        result_json({"caches": documents})
        return
    for document in documents:
        for line in sketched(document, console("stdout").width):
            result(line)


@app.command()
def verify(
    caches: Caches,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Views to replay through the live teacher.")
    ] = 0,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Where the teacher is, if it was moved.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Where the images are, if they were moved.")
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option("--unlabelled", help="Where those without labels are, if they were moved."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Of the live teacher.")] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=1, max=256, help="Files hashed at a time.")
    ] = 4,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hash every file of a cache; with --sample N, ask its teacher again of N views.

    Example: distill cache verify runs/labels --sample 256
    """
    from distill_cli.cache.verify import damaged

    places = {"teacher": teacher, "data": data, "unlabelled": unlabelled}
    documents: list[dict[str, Any]] = []
    faults: list[str] = []
    for folder in _folders(caches):
        document: dict[str, Any] = {"cache": str(folder), "damaged": [], "replay": None}
        try:
            with progress("verify", quiet=quiet) as display:
                files = display.counting("file")
                found = damaged(folder, workers=workers, progress=files)
            document["damaged"] = [{"file": each.file, "said": each.fault} for each in found]
            wrong = [f"{folder / each.file} {each.fault}" for each in found]
            if wrong:
                wrong[-1] += f". {REPAIR.format(read_manifest(folder).plan.maker)}"
            elif not quiet:
                say(f"{escape(str(folder))}: every file is what the manifest says")
            if sample and not found:
                document["replay"], wrong = _replayed(folder, sample, places, device, quiet=quiet)
        except ArtifactError as error:
            # The next cache may be sound.
            wrong = [str(error)]
        documents.append({**document, "wrong": wrong})
        faults += wrong
    if json:
        result_json({"caches": documents})
    for fault in faults[:-1]:
        say(f"[bold red]error:[/bold red] {escape(fault)}")
    if faults:
        raise ArtifactError(faults[-1])


def _replayed(
    folder: Path,
    sample: int,
    places: Mapping[str, str | None],
    device: str,
    *,
    quiet: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Figures of a replay, and the faults that it found."""
    from dataclasses import asdict

    from distill_cli.pipeline.labels.replay import replay_cache

    with progress("verify", quiet=quiet) as display:
        found = replay_cache(folder, sample=sample, **places, device=device, sink=display)
    if not quiet:
        say(
            f"{escape(str(folder))}: {counted(found.views, 'view')} replayed, largest difference of a "
            f"probability {found.difference:.2g}, KL {found.worst_kl:.2g} nats at most"
        )
    wrong = []
    if not found.agrees:
        wrong.append(
            f"{folder}: its labels are not what the teacher says now: KL {found.worst_kl:.2g} nats "
            f"on the worst of {counted(found.views, 'view')}, {found.differing:,} of them "
            f"differ{'s' if found.differing == 1 else ''} (with the codec's loss {found.codec_kl:.2g}, "
            f"recorded {found.recorded_kl:.2g})"
        )
    return asdict(found), wrong


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Parts of one cache, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The cache to make.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join the parts of a cache that were dumped with --part.

    Example: distill cache merge part-1 part-2 --out runs/labels
    """
    from distill_cli.pipeline.folders import check_cache_folders, check_cache_place

    check_cache_place(out)
    groups = _grouped(parts, out)
    from distill_cli.cache.merge import merge as join

    targets = [out / name if name else out for name in groups]
    check_cache_folders(out, targets)
    made: list[tuple[Path, Manifest]] = []
    for target, folders in zip(targets, groups.values(), strict=True):
        with one_writer(target, root=out), progress("merge", quiet=quiet) as display:
            made.append((target, join(folders, target, progress=display.counting("shard"))))
    if json:
        result_json(
            {"caches": [{"cache": str(t), "shards": len(m.shards)} for t, m in made]},
        )
        return
    for target, _ in made:
        exactly(str(target))


def _grouped(parts: Sequence[Path], out: Path) -> dict[str, list[Path]]:
    """Parts of the same cache, under the sub-folder of `out` that they go to; "" is `out` itself.

    A folder of caches may hold several parts of one, or a part each of several teachers'.
    """
    groups: dict[str, list[Path]] = {}
    for part in parts:
        folders = [f for f in _folders([part]) if not real_path(f).is_relative_to(real_path(out))]
        several = len({read_plan(folder).digest for folder in folders}) > 1
        for folder in folders:
            groups.setdefault(folder.name if several else "", []).append(folder)
    if not groups:
        raise UsageError(f"there are no parts but {out} itself")
    if "" in groups and len(groups) > 1:
        raise UsageError("some of these are one cache, others hold several: merge them apart")
    return groups


def _folders(caches: Sequence[Path]) -> list[Path]:
    """Every cache among the folders, finished or not."""
    every: list[Path] = []
    for cache in caches:
        if not cache.exists():
            raise UsageError(f"cache '{cache}' does not exist")
        folders = expand(cache)
        if not folders:
            raise UsageError(f"{cache} is no cache folder")
        every.extend(folders)
    return every
