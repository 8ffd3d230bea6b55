"""One self-contained page: inline style, inline SVG, nothing loaded from anywhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from distill_cli.errors import counted
from distill_cli.report import plots, table
from distill_cli.report.format import NOTHING, count, milliseconds, plain, share, short_name, size
from distill_cli.report.groups import Group, objective_of, role_of, values_of
from distill_cli.report.plots import Line
from distill_cli.report.run_folder import RunSummary
from distill_cli.report.run_plots import History, Picture, of_run
from distill_cli.report.table import Comparison
from distill_cli.report.verdict import CAVEAT, Verdict
from distill_cli.types import RunResult

NOT_SHOWN = {"recorded", "out", "command", "about"}


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("distill_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    return environment.get_template(template).render(**values)


def run_report(run: RunSummary) -> str:
    """The page of one run: figures, learning curves, recipe, teachers, environment.

    An unfinished run gets a page too, with what there is. No path of any machine is shown.
    """
    recipe, recorded = run.recipe, run.recorded
    model, data = short_name(str(recipe.get("model"))), short_name(str(recipe.get("data")))
    return _render(
        "run.html.j2",
        title=f"{model} on {data}",
        subtitle=f"{run.name} · {objective_of(recipe)} · seed {plain(recipe.get('seed'))}",
        finished=run.result is not None,
        shown=[] if run.result is None else _key_figures(run.result),
        pictures=of_run(run),
        teachers=_teachers(run),
        mode=plain(recipe.get("mode")),
        recipe=_said({**_shown(recipe), "objective": values_of(recipe)}),
        data=_said(_mapping(recorded.get("dataset"))),
        environment=_environment(recorded),
    )


def _shown(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in NOT_SHOWN}


# What `distill report` calls it.
run_page = run_report


def _key_figures(result: RunResult) -> list[tuple[str, str, str]]:
    """(name, value, what stands below it)."""
    shown = [
        ("test errors", str(result.test_errors), f"of {counted(result.test_samples, 'image')}"),
        ("test accuracy", share(result.test_top1), f"held-out {share(result.val_top1)}"),
        ("calibration error", share(result.test_ece, decimals=1), f"NLL {result.test_nll:.3f}"),
        ("parameters", count(result.params), f"{size(result.model_bytes)} of weights"),
        ("one image", milliseconds(result.latency_ms), ""),
        (
            "training speed",
            count(result.images_per_second),
            f"images/s, {result.seconds:.0f} s in all",
        ),
    ]
    nll_scaled, ece_scaled = result.test_nll_scaled, result.test_ece_scaled
    if result.scaled and nll_scaled is not None and ece_scaled is not None:
        below = f"NLL {nll_scaled:.3f}, T {result.temperature:.2f} fitted held out"
        scaled = share(ece_scaled, decimals=1)
        shown.insert(3, ("error, logits scaled", scaled, below))
    if result.test_map is not None:
        f1 = "" if result.test_f1 is None else f"F1 {share(result.test_f1)}"
        shown.insert(2, ("mAP", share(result.test_map), f1))
    if result.teacher_agreement is not None:
        agreed = share(result.teacher_agreement, decimals=1)
        kl = "" if result.teacher_kl is None else f", KL {result.teacher_kl:.3f}"
        shown.append(("agreement", agreed, f"with its teachers{kl}"))
    return shown


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _said(values: Mapping[str, Any]) -> dict[str, str]:
    """What is set, in words; an option that is off or open says nothing."""
    return {
        key: plain(value)
        for key, value in values.items()
        if value is not None and value is not False and value not in ([], {}, "")
    }


def _environment(recorded: Mapping[str, Any]) -> dict[str, str]:
    elsewhere = {"dataset", "teachers", "versions", "view_spec", "asked"}
    here = {key: value for key, value in recorded.items() if key not in elsewhere}
    views = {f"view {key}": value for key, value in _mapping(recorded.get("view_spec")).items()}
    return _said({**here, **views, **_mapping(recorded.get("versions"))})


def _teachers(run: RunSummary) -> list[tuple[str, str]]:
    """(name, fingerprint) of each."""
    if role_of(run.recipe) == "teacher":
        return []
    names = [short_name(str(name)) for name in run.recipe["teachers"]]
    marks = [str(mark) for mark in run.recorded.get("teachers") or []]
    marks += [NOTHING] * (len(names) - len(marks))
    return list(zip(names, marks, strict=False))


def comparison_report(
    title: str,
    comparison: Comparison,
    groups: Sequence[Group],
    verdicts: Mapping[str, Verdict] | Sequence[str] = (),
    histories: Mapping[str, Sequence[History]] | None = None,
    *,
    about: str = "",
) -> str:
    """The page of several groups: verdicts, table, every seed as a dot, learning curves.

    Args:
        title: Heading.
        comparison: Its rows and notes are shown.
        groups: What the comparison is of, for the plots.
        verdicts: By what each is about, or whole sentences.
        histories: Histories of the runs by group label; default: the groups' own.
        about: A paragraph below the heading.
    """
    if histories is None:
        histories = {group.label: [run.history for run in group.runs] for group in groups}
    pictures = [_dots(groups), _held_out(histories)]
    return _render(
        "comparison.html.j2",
        title=title,
        about=about,
        comparison=comparison,
        reference=groups[comparison.reference].label,
        columns=_columns(comparison),
        colours=[plots.colour_of(place) for place in range(len(groups))],
        verdicts=_verdicts(verdicts),
        caveat=CAVEAT,
        pictures=[picture for picture in pictures if picture is not None],
        runs=[(group.label, [run.name for run in group.runs]) for group in groups],
    )


def _columns(comparison: Comparison) -> dict[str, str]:
    """Those that say something: test images in the heading where they are the same for all."""
    columns = dict(table.PAGE_COLUMNS)
    samples = {row.test_samples for row in comparison.rows}
    if len(samples) == 1:
        del columns["test_samples"]
        columns["errors"] = f"errors of {samples.pop()}"
    if not table.said_of_labels(comparison.rows):
        columns = {key: name for key, name in columns.items() if key not in table.OF_LABELS}
    if all(row.agreement == NOTHING for row in comparison.rows):
        del columns["agreement"]
    return columns


def comparison_page(
    title: str,
    about: str,
    groups: Sequence[Group],
    verdicts: Mapping[str, Verdict] | Sequence[str],
) -> str:
    """The page of groups against their first."""
    return comparison_report(title, table.comparison(groups), groups, verdicts, about=about)


def _verdicts(verdicts: Mapping[str, Verdict] | Sequence[str]) -> list[tuple[str, str, str]]:
    """(kind as a CSS class, what it is about, sentence)."""
    if not isinstance(verdicts, Mapping):
        return [("", "", sentence) for sentence in verdicts]
    return [
        (found.kind.replace(" ", "-"), about, f"{found.sentence}.")
        for about, found in verdicts.items()
    ]


def _dots(groups: Sequence[Group]) -> Picture | None:
    values = {group.label: group.values("test_errors") for group in groups}
    samples = {result.test_samples for group in groups for result in group.results}
    if not samples:
        return None
    of = f" of {counted(samples.pop(), 'image')}" if len(samples) == 1 else ""
    said = "; ".join(f"{group.label}: {table.errors(group)}" for group in groups)
    return Picture(
        title="Test errors",
        svg=plots.dots(values, x=f"test errors{of}", about=f"Test errors{of}. {said}"),
        note="A dot is a seed, the bar their mean, the line ± one standard deviation.",
    )


def _held_out(histories: Mapping[str, Sequence[History]]) -> Picture | None:
    """Held-out accuracy by epoch: each group's mean, every seed faintly behind it."""
    lines, legend = [], []
    for place, (label, found) in enumerate(histories.items()):
        each = [_accuracy(history) for history in found if history and "val_top1" in history[0]]
        if not each:
            continue
        if len(each) > 1:
            lines += [Line(label="", y_by_x=one, place=place, faint=True) for one in each]
        lines.append(Line(label="", y_by_x=_mean(each), place=place))
        legend.append((label, plots.colour_of(place), plots.dash_of(place)))
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


def _mean(each: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Over the epochs that every run has."""
    shared = [epoch for epoch in each[0] if all(epoch in one for one in each)]
    means = {epoch: statistics.fmean(one[epoch] for one in each) for epoch in shared}
    return {epoch: mean for epoch, mean in means.items() if math.isfinite(mean)}
