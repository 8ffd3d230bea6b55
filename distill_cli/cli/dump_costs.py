"""What a dump will cost: `cache-soft-labels --dry-run`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from distill_cli.cli.options import RunFlags
from distill_cli.cli.progress import progress
from distill_cli.cli.terminal import exactly, result_json
from distill_cli.errors import counted
from distill_cli.pipeline.labels.placement import Placement, in_words
from distill_cli.recipe.load import to_yaml
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.report.format import size

if TYPE_CHECKING:
    from distill_cli.pipeline.labels.estimate import Estimate


def show_costs(recipe: CacheRecipe, flags: RunFlags, placement: Placement | None) -> None:
    """The recipe and what it will cost, measured on noise; nothing is written.

    Args:
        recipe: The dump's.
        flags: Of the call.
        placement: Where it is made; None for this process.
    """
    if recipe.cross_fit is not None:
        _show_cross_fit(recipe, flags)
    else:
        _show_estimate(recipe, flags, placement)


def _show_estimate(recipe: CacheRecipe, flags: RunFlags, placement: Placement | None) -> None:
    """The recipe and what it will cost, measured on a few batches of noise; nothing is written.

    Of a dump on an engine, its tasks too; the times are this machine's.
    """
    from distill_cli.pipeline.inputs.artifacts import DRY
    from distill_cli.pipeline.labels.estimate import estimate, missing_shards
    from distill_cli.pipeline.labels.prepare import prepare_dump

    with progress("cache", quiet=flags.quiet) as display:
        prepared = prepare_dump(recipe, sink=display, overwrite=flags.overwrite, runs=DRY)
        cost = estimate(prepared, overwrite=flags.overwrite)
        left = len(missing_shards(prepared, flags.overwrite))
    if flags.json:
        tasks = {} if placement is None else {"tasks": placement.task_count(left)}
        result_json({**recipe.model_dump(mode="json"), "estimate": asdict(cost), **tasks})
        return
    _show(recipe, cost, *([] if placement is None else [in_words(placement, left)]))


def _show(recipe: CacheRecipe, cost: Estimate, *others: str) -> None:
    """A recipe, and what its labels will cost, with other lines about it."""
    exactly(to_yaml(recipe))
    for line in (
        f"{size(cost.bytes)} on disk, {cost.bytes_per_view:.1f} bytes a view",
        f"{duration(cost.seconds)} at {cost.views_per_second:,.0f} views/s",
        f"paid for itself after {cost.break_even_epochs:.1f} student epochs, against asking the "
        "teachers in each",
        *others,
    ):
        # A comment to YAML: what is printed is still a recipe.
        exactly(f"# {line}")


def _show_cross_fit(recipe: CacheRecipe, flags: RunFlags) -> None:
    """The same of a cross-fitted dump, with its trainings."""
    with progress("cache", quiet=flags.quiet) as display:
        from distill_cli.pipeline.cross_fit import rehearse_cross_fit

        cost = rehearse_cross_fit(recipe, sink=display, overwrite=flags.overwrite)
    if flags.json:
        trainings = {"runs": cost.runs, "seconds": cost.seconds}
        document = {"estimate": asdict(cost.labels), "trainings": trainings}
        result_json({**recipe.model_dump(mode="json"), **document})
        return
    trainings_line = "all networks are trained"
    if cost.runs:
        whole = f", {duration(cost.runs * cost.seconds)} in all" if cost.runs > 1 else ""
        trainings_line = (
            f"before it {counted(cost.runs, 'training')} of about {duration(cost.seconds)}{whole}"
        )
    _show(recipe, cost.labels, trainings_line)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in two or three digits."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"
