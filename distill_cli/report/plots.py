"""Plots as SVG text that takes the page's colours, in light and in dark."""

from __future__ import annotations

import html
import io
import math
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from distill_cli.report.format import size

# The page defines --s0 … --s7, --ink and --line; matplotlib only knows colours, so that it draws
# in placeholders which are replaced afterwards.
SERIES = 8
INK, LINE = "#a1b2c0", "#a1b2c1"
PLACES = {f"#a1b2d{index}": f"var(--s{index})" for index in range(SERIES)}
COLOURS = {**PLACES, INK: "var(--ink)", LINE: "var(--line)"}
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.6)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
# Points wide: shown about as large on a phone, a little larger beside another plot on a desk.
WIDTH, FONT = 330, 10
# Where the largest value of a curve is more than so many times the smallest, the scale is logarithmic.
SPAN = 20
LONGEST_LABEL = 50
LONGEST_CLASS = 14


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve.

    Attributes:
        label: Name in the legend; empty for a curve that another one explains.
        y_by_x: Its points, NaN where there is none.
        style: Index of its colour and dash; equal for curves that belong together.
        faint: Whether it stands behind another one.
    """

    label: str
    y_by_x: Mapping[float, float]
    style: int
    faint: bool = False


def colour_of(style: int) -> str:
    """The CSS colour of a style."""
    return f"var(--s{style % SERIES})"


def dash_of(style: int) -> str:
    """The SVG dash pattern of a style, for a swatch 2 pixels thick; empty for solid."""
    dash = DASHES[style % len(DASHES)]
    return "" if dash == "solid" else " ".join(f"{2 * length:g}" for length in dash[1])


def curves(
    lines: Sequence[Line], *, y: str, about: str, mark: float | None = None, x: str = "epoch"
) -> str:
    """Curves over epochs, or over another quantity, whose points are then shown.

    Args:
        lines: Drawn in this order; a legend stands where they have labels.
        y: Name of the vertical axis, with its unit.
        about: Description of the picture, for those who do not see it.
        mark: An epoch to point out.
        x: Name of the horizontal axis.
    """
    epochs = x == "epoch"
    figure, axes = _figure(height=210)
    for line in lines:
        axes.plot(
            list(line.y_by_x),
            list(line.y_by_x.values()),
            label=line.label or None,
            color=f"#a1b2d{line.style % SERIES}",
            linestyle=DASHES[line.style % len(DASHES)],
            linewidth=0.8 if line.faint else 1.9,
            alpha=0.4 if line.faint else 1,
            marker="o" if len(line.y_by_x) == 1 or not epochs else None,
        )
    if mark is not None:
        axes.axvline(mark, color=INK, linewidth=0.9, alpha=0.55, linestyle=(0, (2, 2)), zorder=0)
    _fit_all(axes, lines)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if epochs or not _logarithmic(axes, "x", [point for line in lines for point in line.y_by_x]):
        _whole_numbers(axes)
    if any(line.label for line in lines):
        _plain(axes.legend(frameon=False, fontsize=FONT, labelcolor=INK).get_texts())
    return _svg(figure, about)


def _fit_all(axes: Any, lines: Sequence[Line]) -> None:
    """Has every point inside the axes; where most would be flat on a line, on a logarithmic scale."""
    values = [value for line in lines for value in line.y_by_x.values() if math.isfinite(value)]
    axes.margins(y=0.06)
    _logarithmic(axes, "y", values)


def _logarithmic(axes: Any, which: Literal["x", "y"], values: Sequence[float]) -> bool:
    """Makes an axis logarithmic where its values ask for it, and says whether they did."""
    if not values or min(values) <= 0 or max(values) < SPAN * min(values):
        return False
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis=which, which="minor", length=0)
    return True


def dots(groups: Mapping[str, Sequence[float]], *, x: str, about: str) -> str:
    """Every value as a dot, each group's mean as a bar across and ± sd as a line.

    Args:
        groups: Values by label, from top to bottom; a group without values keeps its row.
        x: Name of the axis.
        about: Description of the picture, for those who do not see it.
    """
    figure, axes = _figure(height=46 + 46 * len(groups))
    for row, (label, values) in enumerate(groups.items()):
        colour = f"#a1b2d{row % SERIES}"
        # Labels stand above their dots, since a column of them would fill a phone.
        name = textwrap.shorten(label, LONGEST_LABEL, placeholder=" …")
        across = {"transform": axes.get_yaxis_transform(), "color": INK, "va": "center"}
        _plain([axes.text(0, row - 0.38, name, ha="left", **across)])
        if not values:
            continue
        mean = statistics.fmean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        if len(values) > 1:
            axes.plot([mean - spread, mean + spread], [row, row], color=colour, linewidth=2)
            axes.plot([mean, mean], [row - 0.17, row + 0.17], color=colour, linewidth=3)
        axes.scatter(
            *_dot_positions(values, row), color=colour, alpha=0.6, s=26, linewidths=0, zorder=3
        )
    axes.set_ylim(len(groups) - 0.6, -0.7)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.set_xlabel(x)
    _whole_numbers(axes)
    axes.margins(x=0.06)
    return _svg(figure, about)


def front(
    points: Mapping[int, tuple[float, float]],
    best: Sequence[int],
    *,
    x: str,
    y: str,
    about: str,
) -> str:
    """Points of bytes and a figure that is better the larger it is, and a step line through the best.

    Args:
        points: Bytes and figure by style.
        best: Styles of those that no other beats, the fewest bytes first.
        x: Name of the axis of bytes, which is logarithmic.
        y: Name of the other, with its unit.
        about: Description of the picture, for those who do not see it.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = _figure(height=230)
    for style, at in points.items():
        axes.scatter(*at, color=f"#a1b2d{style % SERIES}", s=44, linewidths=0, zorder=3)
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    sizes = [number for number, _ in points.values()]
    axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    ends = [*(points[style] for style in best), (max(sizes) * 1.3, points[best[-1]][1])]
    line = {"color": INK, "linewidth": 1, "alpha": 0.6}
    axes.step(*zip(*ends, strict=True), where="post", zorder=2, **line)
    # A span of less than a decade has marks of its own; where it has more, few are enough.
    few = max(sizes) > 30 * min(sizes)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return _svg(figure, about)


def shares(names: Sequence[str], share: Sequence[Sequence[float]], *, about: str) -> str:
    """A square of shares: the darker a cell, the more of its row lies on its column.

    Args:
        names: Names of rows and columns alike.
        share: Row by row, from 0; what is on the diagonal is not drawn.
        about: Description of the picture, for those who do not see it.
    """
    count = len(names)
    figure, axes = _figure(height=WIDTH)
    most = max((share[y][k] for y in range(count) for k in range(count) if y != k), default=0)
    for y in range(count):
        axes.add_patch(_cell(y, y, LINE, 1.0))
        for k in range(count):
            # Shares next to nothing are not seen, and a page of a hundred classes stays small.
            if y != k and share[y][k] > 0.01 * most:
                axes.add_patch(_cell(y, k, "#a1b2d0", share[y][k] / most))
    axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
    axes.spines[["left", "bottom"]].set_visible(False)
    centres = [index + 0.5 for index in range(count)]
    short = [textwrap.shorten(name, LONGEST_CLASS, placeholder="…") or name for name in names]
    turned = 0 if max(map(len, short), default=0) <= 2 else 90
    axes.set_xticks(centres, short, rotation=turned)
    axes.set_yticks(centres, short)
    _plain([*axes.get_xticklabels(), *axes.get_yticklabels()])
    axes.set_xlabel("share on")
    axes.set_ylabel("label")
    return _svg(figure, about)


def _cell(y: int, k: int, colour: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((k + 0.04, y + 0.04), 0.92, 0.92, color=colour, alpha=alpha, linewidth=0)


def _dot_positions(values: Sequence[float], row: int) -> tuple[list[float], list[float]]:
    """Positions of dots; equal values go one above the other, so that each stays visible."""
    total, seen = Counter(values), Counter[float]()
    heights = []
    for value in values:
        heights.append(row + 0.15 * (seen[value] - (total[value] - 1) / 2))
        seen[value] += 1
    return list(values), heights


def _figure(*, height: float) -> tuple[Any, Any]:
    """A figure `WIDTH` × `height` points large."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=INK, labelsize=FONT, length=0)
    for name in (axes.xaxis.label, axes.yaxis.label):
        name.set(color=INK, fontsize=FONT)
    return figure, axes


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))


def _plain(texts: Sequence[Any]) -> None:
    """Names are names: a `$` in one starts no formula."""
    for text in texts:
        text.set(parse_math=False, fontsize=FONT)


def _svg(figure: Any, about: str) -> str:
    """SVG with text as text, in the page's font and colours, its ids unlike any other picture's."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distill"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    prefix = "p" + blake2b(f"{about}{text}".encode(), digest_size=4).hexdigest()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    for placeholder, colour in COLOURS.items():
        text = text.replace(placeholder, colour)
    label = html.escape(about)
    opening = f'<svg role="img" aria-label="{label}" viewBox='
    text = re.sub(r"<svg [^>]*?viewBox=", lambda _: opening, text, count=1)
    return re.sub(r'(viewBox="[^"]*")[^>]*>', r"\1>", text, count=1).replace("xlink:href", "href")
