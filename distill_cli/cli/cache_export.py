"""`distill cache export`."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from distill_cli.cache.folder import is_cache
from distill_cli.cache.plan import Plan
from distill_cli.cli.options import Json, Quiet
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import console, escape, print_location, result_json, say
from distill_cli.errors import UsageError, visible
from distill_cli.files import named_file
from distill_cli.pipeline.kept import kept_recipe

SUFFIXES = (".npz", ".csv")


def cache_export(
    cache: Annotated[Path, typer.Argument(help="A cache folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write: a .npz or a .csv.")],
    view: Annotated[int, typer.Option("--view", min=0, help="Which of the stored views.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            "-T",
            min=1e-3,
            max=1000,
            help="Write probabilities at T; else logits, or probabilities at 1 of a top-k cache.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a cache's labels as a .npz or a .csv, a row for each image, for other tools.

    Example: distill cache export runs/labels --out labels.npz
    """
    if not is_cache(cache):
        raise UsageError(
            f"{cache} is no cache folder", hint="Of a folder of several caches, name one of them"
        )
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out} is no .npz and no .csv", hint=f"Give {out.stem}.npz")
    target = named_file(out)
    if target.exists() and not overwrite:
        raise UsageError(
            f"{out} exists", hint="Choose another --out, or replace it with --overwrite"
        )
    from distill_cli.cache.export import export
    from distill_cli.cache.reader import CacheReader

    reader = CacheReader(cache)
    with progress("export", quiet=quiet) as display:
        kind = export(
            reader,
            target,
            view=view,
            temperature=temperature,
            progress=display.counting("row"),
        )
    if json:
        result_json({"file": str(out), "kind": kind, "view": view})
        return
    if not quiet:
        say(f"{escape(str(out))}: {kind} of view {view}")
        if (command := _import_of(reader.plan, cache, out, kind)) is not None:
            # It is typed as it stands, so that it is not folded.
            console("stderr").print(
                f"It is read by: {visible(command)}", markup=False, soft_wrap=True
            )
    print_location(out, named=not quiet)


def _import_of(plan: Plan, cache: Path, out: Path, kind: str) -> str | None:
    """The command that makes a cache of the file; None where its labels belong to two images each."""
    augment = plan.view_spec.augment
    if any(step.split(":")[0] in ("mixup", "cutmix") for step in augment):
        return None
    kept = kept_recipe(cache)
    flags = ["--kind", kind, "--augment", ",".join(augment) or "none"]
    for key in ("data", "unlabelled") if plan.dataset.unlabelled else ("data",):
        flags += [f"--{key}", str(kept.get(key) or "DATA")]
    return join(("distill", "cache", "import", str(out), *flags))
