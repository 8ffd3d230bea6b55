"""A cache in words, figures and a sketch of its labels. Torch-free, unless a temperature is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_cli.cache.figures import check_figures
from distill_cli.cache.folder import EVAL, IDS, MANIFEST, PLAN
from distill_cli.cache.manifest import figures_of, read_manifest, read_plan
from distill_cli.cache.plan import Plan
from distill_cli.cli.terminal import escape
from distill_cli.errors import counted
from distill_cli.report.format import share, size

BAR = 40
# Columns of a histogram's line that the bar does not have.
BESIDE_BAR = 40
MISSING = "·"


def described(folder: Path, temperature: float | None = None) -> dict[str, Any]:
    """Description of a cache, finished or not."""
    if not (folder / MANIFEST).is_file():
        return _unfinished(folder, read_plan(folder))
    manifest = read_manifest(folder)
    check_figures(folder, manifest)
    plan = manifest.plan
    stored = plan.views * plan.dataset.rows
    files = [PLAN, MANIFEST, *(shard.file for shard in manifest.shards)]
    taken = sum((folder / file).stat().st_size for file in files if (folder / file).is_file())
    evaluation, ids = folder / EVAL, folder / IDS
    document = {
        **_of_plan(folder, plan),
        "finished": True,
        "bytes": taken,
        "bytes_per_view": round(taken / stored, 2),
        "eval_bytes": evaluation.stat().st_size if evaluation.is_file() else 0,
        "ids_bytes": ids.stat().st_size if plan.sample_ids and ids.is_file() else 0,
        **figures_of(vars(manifest)),
    }
    if temperature is not None:
        document["error_at"] = _error_at(folder, temperature)
    return document


def _of_plan(folder: Path, plan: Plan) -> dict[str, Any]:
    return {
        "cache": str(folder),
        "format_version": plan.format_version,
        "classes": len(plan.dataset.class_names),
        "samples": plan.dataset.rows,
        "views": plan.views,
        "augment": list(plan.view_spec.augment),
        "codec": plan.codec,
        "precision": plan.precision,
        "teacher": plan.architecture,
        "targets": plan.targets,
        "teacher_fingerprint": plan.teacher_fingerprint,
        **({"cross_fit": list(plan.cross_fit)} if plan.cross_fit else {}),
    }


def _unfinished(folder: Path, plan: Plan) -> dict[str, Any]:
    # Counted as they lie there: a plan from elsewhere may have a million shards that do not.
    names = (f"{path.parent.name}/{path.name}" for path in folder.glob("view-*/shard-*"))
    return {
        **_of_plan(folder, plan),
        "finished": False,
        "shards": sum(plan.has(name) and (folder / name).is_file() for name in names),
        "shards_planned": plan.views * plan.shards_per_view,
    }


def _error_at(folder: Path, temperature: float) -> dict[str, float] | None:
    from distill_cli.cache.reader import CacheReader

    error = CacheReader(folder).error_at(temperature)
    if error is None:
        return None
    return {"temperature": temperature, "mean_kl": error[0], "worst_kl": error[1]}


def sketched(document: dict[str, Any], width: int) -> Iterator[str]:
    """Lines for a terminal of so many columns."""
    yield f"[bold]{escape(document['cache'])}[/bold]"
    augment = escape(", ".join(document["augment"]) or "none")
    yield (
        f"  {counted(document['views'], 'view')} ({augment}) of {counted(document['samples'], 'sample')}, "
        f"{counted(document['classes'], 'class', 'classes')}"
    )
    weights = escape(document["teacher_fingerprint"][:12])
    yield f"  teacher {escape(document['teacher'])}, weights {weights}"
    if folds := document.get("cross_fit"):
        named = ", ".join(escape(one[:12]) for one in folds)
        yield f"  {len(folds)} of it, each trained without a fold, which it labels: {named}"
    if not document["finished"]:
        yield f"  not finished: {document['shards']:,} of {counted(document['shards_planned'], 'shard')}"
        return
    if document["labelled"]:
        yield (
            f"  right on {share(document['teacher_accuracy'])} of {counted(document['labelled'], 'labelled view')}, NLL "
            f"{document['teacher_nll']:.4f} nats, calibration error {share(document['teacher_ece'])}"
        )
    several = document["targets"] == "sigmoid"
    if several:
        yield "  each label applies or not by itself: its logits are stored"
    else:
        yield f"  entropy of a label: {document['entropy']:.4f} nats"
    yield (
        f"  {escape(document['codec'])}, {size(document['bytes'])}: {document['bytes_per_view']:,} bytes a "
        f"view; {size(document['eval_bytes'])} of evaluation rows, "
        + (
            f"{size(document['ids_bytes'])} of sample ids"
            if document["ids_bytes"]
            else "no sample ids"
        )
    )
    if several:
        return
    yield from _lost(document)
    yield ""
    yield from _histogram(document["calibration"], min(BAR, width - BESIDE_BAR))


def _lost(document: dict[str, Any]) -> Iterator[str]:
    """Loss of the codec, by temperature."""
    errors = document["truncation_error"]
    if any(error["worst_kl"] for error in errors.values()):
        losses = (
            f"{error['mean_kl']:.2g} (worst {error['worst_kl']:.2g}) at T = {escape(t)}"
            for t, error in errors.items()
        )
        yield f"  lost by the codec, nats: {', '.join(losses)}"
    if (arithmetic := document.get("precision_error")) is not None:
        yield (
            f"  lost by the teacher's {escape(document['precision'])}, nats: {arithmetic['mean_kl']:.2g} "
            f"(worst {arithmetic['worst_kl']:.2g}) on the evaluation rows"
        )
    if (asked := document.get("error_at")) is not None:
        yield (
            f"  at T = {asked['temperature']:g}, on the evaluation rows: {asked['mean_kl']:.2g} "
            f"(worst {asked['worst_kl']:.2g})"
        )


def _histogram(bins: dict[str, list[float]], room: int) -> Iterator[str]:
    """Histogram of the teacher's confidence, with its accuracy; without bars where none fits."""
    room = max(room, 0)
    total, count = max(1, sum(bins["views"])), len(bins["views"])
    highest = max(1, *bins["views"])
    yield f"  [dim]{'how sure it is':<16}  {'of views':>8}  {'':{room}}  {'right':>8}[/dim]"
    for index, views in enumerate(bins["views"]):
        low, high = 100 * index / count, 100 * (index + 1) / count
        bar = "█" * round(room * views / highest) or ("▏" if views and room else "")
        labelled = bins["labelled"][index]
        right = share(bins["correct"][index] / labelled, decimals=1) if labelled else MISSING
        yield (
            f"  {low:5.1f} to {high:5.1f} %  {100 * views / total:6.1f} %  {bar:<{room}}  {right:>8}"
        )
