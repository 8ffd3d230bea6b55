"""One self-contained page: inline style, inline SVG, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill_cli.report import plots, table
from distill_cli.report.groups import Group
from distill_cli.report.runs import RunSummary


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("distill_cli.report"), autoescape=True)
    environment.filters["svg"] = Markup
    return environment.get_template(template).render(**values)


def run_page(run: RunSummary) -> str:
    """The page of one run: figures, learning curves, recipe, environment."""
    result = run.result
    shown = [
        ("test errors", f"{result.test_errors} of {result.test_samples}"),
        ("accuracy", f"{100 * result.test_top1:.2f} %"),
        ("parameters", table.count(result.params)),
        ("size", table.size(result.model_bytes)),
        ("one image", f"{result.latency_ms:.3f} ms"),
        ("best epoch", str(result.best_epoch)),
    ]
    if result.teacher_agreement is not None:
        shown.append(("agrees with teacher", f"{100 * result.teacher_agreement:.1f} %"))
    keys = [key for key in (run.history[0] if run.history else {}) if key.startswith("train_")]
    wanted = [key for key in ("train_loss", *keys, "val_top1", "val_nll") if run.history]
    pictures = [
        plots.curves(run.history, key, key.replace("_", " "))
        for key in dict.fromkeys(wanted)
        if key != "train_top1"
    ]
    recipe = {key: value for key, value in run.recipe.items() if key not in ("recorded", "out")}
    return _render(
        "run.html.j2",
        title=f"{run.recipe.get('model')} · {run.name}",
        shown=shown,
        pictures=pictures,
        recipe={key: _cell(value) for key, value in recipe.items() if _says(value)},
        recorded={
            key: _cell(value)
            for key, value in run.recorded.items()
            if key not in ("dataset", "view_spec")
        },
    )


def _says(value: Any) -> bool:
    """Whether a value is worth a row: 0 is, what is off or empty is not."""
    return not (value is None or value is False or value in ([], {}))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def comparison_page(
    title: str, about: str, groups: Sequence[Group], verdicts: Sequence[str]
) -> str:
    """The page of several groups: verdicts, table, every seed as a dot."""
    values = {group.label: group.values("test_errors") for group in groups}
    return _render(
        "comparison.html.j2",
        title=title,
        about=about,
        columns=table.COLUMNS,
        rows=[asdict(row) for row in table.rows(groups)],
        notes=table.notes(groups),
        verdicts=verdicts,
        picture=plots.dots(values, "test errors, every seed a dot, the bar their mean"),
        folders=[Path(run.folder).name for group in groups for run in group.runs],
    )
