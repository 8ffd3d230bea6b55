"""The figures of a finished run in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_cli.cli.terminal import escape
from distill_cli.errors import counted
from distill_cli.types import HintResult, RunResult

if TYPE_CHECKING:
    from distill_cli.pipeline.run.train import Finished


def _calibrated(figures: RunResult) -> list[str]:
    if not figures.scaled or figures.test_ece_scaled is None:
        return []
    return [
        f"at the temperature {figures.temperature:.2f}, fitted on held-out images: "
        f"NLL {figures.test_nll_scaled:.4f}, ECE {100 * figures.test_ece_scaled:.1f} %"
    ]


def _epoch(figures: RunResult | HintResult) -> str:
    """The epoch that was kept, and why."""
    chosen = figures.val_hint if isinstance(figures, HintResult) else figures.val_top1
    if chosen is None:
        return f"nothing held out, last epoch {figures.best_epoch}"
    return f"best epoch {figures.best_epoch}"


def summary(finished: Finished) -> str:
    """The figures in a few lines."""
    figures = finished.result
    first = (
        f"[bold]{escape(str(finished.recipe.model))}[/bold], {counted(figures.params, 'parameter')}, "
        f"{_epoch(figures)} of {finished.recipe.epochs}"
    )
    warned = "".join(f"\n[bold red]warning:[/bold red] {escape(w)}" for w in figures.warnings)
    if isinstance(figures, HintResult):
        where = escape(str(finished.run))
        loss = "nothing held out"
        if figures.val_hint is not None:
            loss = f"held-out hint loss [bold]{figures.val_hint:.4g}[/bold]"
        return (
            f"{first}\n{loss} in "
            f"{figures.seconds:.0f} s → {where}\n"
            f"Go on with [bold]distill student --init {where} --teachers …[/bold]"
            f"{warned}"
        )
    lines = [
        first,
        f"test: [bold]{counted(figures.test_errors, 'error')}[/bold] of {figures.test_samples:,} "
        f"({100 * figures.test_top1:.2f} % right), NLL {figures.test_nll:.4f}, "
        f"ECE {100 * figures.test_ece:.1f} %",
        *_calibrated(figures),
    ]
    if figures.test_coarse_top1 is not None:
        lines.append(f"groups of classes: {100 * figures.test_coarse_top1:.2f} % right")
    if figures.test_map is not None and figures.test_f1 is not None:
        lines.append(
            f"by label: mAP {100 * figures.test_map:.2f} %, F1 {100 * figures.test_f1:.2f} %"
        )
    if figures.teacher_agreement is not None:
        lines.append(f"agrees with its teacher on {100 * figures.teacher_agreement:.1f} % of test")
    lines.append(
        f"{figures.seconds:.0f} s at {figures.images_per_second:,.0f} images/s → "
        f"{escape(str(finished.run))}"
    )
    return "\n".join(lines) + warned
