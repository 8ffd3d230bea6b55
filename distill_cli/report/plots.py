"""Plots as SVG text that takes the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

PALETTE = ("#2f6fde", "#d9622b", "#2c9c69", "#a259c4", "#c9a227", "#5b6b7a")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    """SVG with text as text and black as the page's own colour, so that dark pages work too."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distill"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    text = text.replace("<text ", '<text fill="currentColor" ')
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?)width="[^"]*pt" height="[^"]*pt"', r"\1", text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 sans-serif", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def curves(history: Sequence[Mapping[str, float]], key: str, title: str) -> str:
    """One quantity over epochs."""
    figure, axes = _figure(5, 3)
    axes.plot([row["epoch"] for row in history], [row[key] for row in history], color=PALETTE[0])
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=11)
    return _svg(figure, title)


def dots(values: Mapping[str, Sequence[float]], title: str) -> str:
    """Every seed as a dot, the mean of each group as a bar."""
    figure, axes = _figure(8, 0.9 + 0.45 * len(values))
    for position, (found, colour) in enumerate(
        zip(values.values(), PALETTE * len(values), strict=False)
    ):
        axes.scatter(found, [position] * len(found), color=colour, alpha=0.65, s=28)
        mean = sum(found) / len(found)
        axes.plot([mean, mean], [position - 0.3, position + 0.3], color=colour, linewidth=2.5)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(title)
    return _svg(figure, title)
