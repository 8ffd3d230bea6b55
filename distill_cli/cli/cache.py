"""`distill cache info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from distill_cli.cache.manifest import Manifest, expand, read_manifest
from distill_cli.cli.options import Json
from distill_cli.cli.terminal import result, result_json
from distill_cli.errors import UsageError

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def _cache() -> None:
    pass


@app.command()
def info(
    caches: Annotated[list[Path], typer.Argument(help="Cache folders, or a folder of them.")],
    json: Json = False,
) -> None:
    """What a soft-label cache holds.

    Example: distill cache info runs/labels
    """
    documents: list[dict[str, Any]] = []
    for cache in caches:
        if not cache.exists():
            raise UsageError(f"cache '{cache}' does not exist")
        folders = expand(cache)
        if not folders:
            raise UsageError(f"{cache} is no cache folder")
        documents.extend(_document(folder) for folder in folders)
    if json:
        result_json({"caches": documents})
        return
    for document in documents:
        result(f"[bold]{escape(document['cache'])}[/bold]")
        for key, value in document.items():
            if key != "cache":
                result(f"  {key.replace('_', ' ')}: {escape(str(value))}")


def _document(folder: Path) -> dict[str, Any]:
    manifest: Manifest = read_manifest(folder)
    plan = manifest.plan
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    stored = plan.views * plan.dataset.samples
    return {
        "cache": str(folder),
        "classes": len(plan.dataset.class_names),
        "samples": plan.dataset.samples,
        "views": plan.views,
        "augment": list(plan.view_spec.augment),
        "codec": plan.codec,
        "bytes": size,
        "bytes_per_view": round(size / stored, 2),
        "teacher": plan.architecture,
        "teacher_fingerprint": plan.teacher_fingerprint,
        "teacher_accuracy": manifest.teacher_accuracy,
        "teacher_nll": manifest.teacher_nll,
        "teacher_ece": manifest.teacher_ece,
    }
