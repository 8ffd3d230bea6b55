"""The page that compares groups of runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from distill_cli.errors import counted
from distill_cli.report import plots, table
from distill_cli.report.baseline import Judged
from distill_cli.report.format import NOTHING
from distill_cli.report.groups import Group, label_of
from distill_cli.report.html import _render
from distill_cli.report.pareto import pareto, point, same_test
from distill_cli.report.plots import Line
from distill_cli.report.row import PAGE_COLUMNS, has_few_bits, hidden
from distill_cli.report.run_plots import History, Picture
from distill_cli.report.same_images import trained_on
from distill_cli.report.table import Comparison
from distill_cli.report.verdict import CAVEAT, Verdict


def comparison_report(
    title: str,
    comparison: Comparison,
    verdicts: Mapping[str, Verdict | Judged] | Sequence[str] = (),
    histories: Mapping[str, Sequence[History]] | None = None,
    *,
    about: str = "",
) -> str:
    """The page of several groups: verdicts, table, every seed as a dot, learning curves.

    Args:
        title: Heading.
        comparison: The groups that are compared, with their rows and notes.
        verdicts: Verdicts by their subject, or whole sentences.
        histories: Histories of the runs by group label; default: the groups' own.
        about: A paragraph below the heading.
    """
    groups = comparison.groups
    if histories is None:
        histories = {group.label: [run.history for run in group.runs] for group in groups}
    pictures = [_dots(groups), _bytes(comparison), _transfer(groups), _held_out(histories)]
    return _render(
        "comparison.html.j2",
        title=title,
        about=about,
        comparison=comparison,
        reference=comparison.reference.label,
        columns=_columns(comparison),
        colours=[plots.colour_of(style) for style in range(len(groups))],
        verdicts=_verdicts(verdicts),
        caveat=CAVEAT,
        pictures=[picture for picture in pictures if picture is not None],
    )


def _columns(comparison: Comparison) -> dict[str, str]:
    """Columns that differ: the number of test images is in a heading where all have the same."""
    columns = dict(PAGE_COLUMNS)
    samples = {row.test_samples for row in comparison.rows}
    if len(samples) == 1:
        del columns["test_samples"]
        columns["errors"] = f"errors of {samples.pop()}"
    without = hidden(comparison.rows)
    columns = {key: name for key, name in columns.items() if key not in without}
    if all(row.agreement == NOTHING for row in comparison.rows):
        del columns["agreement"]
    return columns


def comparison_page(
    title: str,
    about: str,
    groups: Sequence[Group],
    verdicts: Mapping[str, Verdict | Judged] | Sequence[str],
) -> str:
    """The page of groups against their first."""
    return comparison_report(title, table.comparison(groups), verdicts, about=about)


def _verdicts(
    verdicts: Mapping[str, Verdict | Judged] | Sequence[str],
) -> list[tuple[str, str, str]]:
    """(kind as a CSS class, subject, sentence) of each verdict."""
    if not isinstance(verdicts, Mapping):
        return [("", "", sentence) for sentence in verdicts]
    return [
        (verdict.kind.replace(" ", "-"), about, f"{verdict.sentence}.")
        for about, verdict in verdicts.items()
    ]


def _dots(groups: Sequence[Group]) -> Picture | None:
    values = {group.label: group.values("test_errors") for group in groups}
    samples = {result.test_samples for group in groups for result in group.results}
    if not samples:
        return None
    of = f" of {counted(samples.pop(), 'image')}" if len(samples) == 1 else ""
    counts = "; ".join(f"{group.label}: {table.errors(group)}" for group in groups)
    return Picture(
        title="Test errors",
        svg=plots.dots(values, x=f"test errors{of}", about=f"Test errors{of}. {counts}"),
        note="A dot is a seed, the bar their mean, the line ± one standard deviation.",
    )


def _transfer(groups: Sequence[Group]) -> Picture | None:
    """KL from the teachers on held-out images by the number of images that were learnt from."""
    values: dict[str, dict[int, list[float]]] = {}
    for run in (run for group in groups for run in group.runs):
        count = trained_on(run)
        if count is not None and run.result is not None and run.result.val_teacher_kl is not None:
            of_size = values.setdefault(label_of(run.recipe), {}).setdefault(count, [])
            of_size.append(run.result.val_teacher_kl)
    curves = {
        label: {float(count): statistics.fmean(of_size[count]) for count in sorted(of_size)}
        for label, of_size in values.items()
        if len(of_size) > 1
    }
    if not curves:
        return None
    legend = [
        (label, plots.colour_of(style), plots.dash_of(style)) for style, label in enumerate(curves)
    ]
    return Picture(
        title="How well the teachers are learnt",
        svg=plots.curves(
            [
                Line(label="", y_by_x=curve, style=style)
                for style, curve in enumerate(curves.values())
            ],
            x="images trained on",
            y="KL on held-out images, nats",
            about="KL(teachers ‖ student) on held-out images by the number of images trained on, of "
            + ", ".join(curves),
        ),
        note="Mean over seeds, of all runs that are compared; at temperature 1.",
        legend=tuple(legend),
    )


def _bytes(comparison: Comparison) -> Picture | None:
    """Accuracy over bytes, with the groups that no other beats in both.

    None where all are as large, or were tested on different images.
    """
    groups = comparison.groups
    if not same_test(groups):
        return None
    points = {
        style: (size, 100 * accuracy)
        for style, group in enumerate(groups)
        if (found := point(group)) is not None
        for size, accuracy in [found]
    }
    if len({size for size, _ in points.values()}) < 2:
        return None
    front = [groups.index(group) for group in pareto(groups)]
    names = [comparison.rows[style].runs for style in front]
    best = ", ".join(f"{comparison.rows[k].runs}: {comparison.rows[k].packed}" for k in front)
    few = " Weights that are quantised count packed." * has_few_bits(comparison.rows)
    return Picture(
        title="Accuracy and bytes",
        svg=plots.front(
            points,
            front,
            x="bytes of the weights",
            y="test accuracy, %",
            about=f"Test accuracy over bytes of the weights. None is better in as few bytes: {best}",
        ),
        note=f"Stepped: the most that so many bytes reach ({', '.join(names)}).{few}",
        legend=tuple((groups[style].label, plots.colour_of(style), "") for style in points),
    )


def _held_out(histories: Mapping[str, Sequence[History]]) -> Picture | None:
    """Held-out accuracy by epoch: each group's mean, every seed faintly behind it."""
    lines, legend = [], []
    for style, (label, of_group) in enumerate(histories.items()):
        curves = [_accuracy(run) for run in of_group if run and "val_top1" in run[0]]
        if not curves:
            continue
        if len(curves) > 1:
            lines += [Line(label="", y_by_x=curve, style=style, faint=True) for curve in curves]
        lines.append(Line(label="", y_by_x=_mean(curves), style=style))
        legend.append((label, plots.colour_of(style), plots.dash_of(style)))
    if not lines:
        return None
    return Picture(
        title="Held-out accuracy",
        svg=plots.curves(
            sorted(lines, key=lambda line: not line.faint),
            y="accuracy, %",
            about="Held-out accuracy over epochs of " + ", ".join(name for name, _, _ in legend),
        ),
        note="Thick: mean over seeds; thin: each seed.",
        legend=tuple(legend),
    )


def _accuracy(history: History) -> dict[float, float]:
    return {row["epoch"]: 100 * row["val_top1"] for row in history}


def _mean(curves: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Over the epochs that every run has."""
    shared = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
    means = {epoch: statistics.fmean(curve[epoch] for curve in curves) for epoch in shared}
    return {epoch: mean for epoch, mean in means.items() if math.isfinite(mean)}
