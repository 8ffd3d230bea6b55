"""One self-contained page: inline style, inline SVG, nothing loaded from anywhere."""

from __future__ import annotations

from typing import Any

from distill_cli.errors import visible_lines


def _cell(text: object) -> str:
    """A cell's text, whose lines may end before a deviation and nowhere else."""
    return str(text).replace(" ", "\u00a0").replace("\u00a0±", " ±")


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
    environment.filters["cell"] = _cell
    # Names of files and classes may turn the direction of a line, and may be no UTF-8.
    return visible_lines(environment.get_template(template).render(**values))
