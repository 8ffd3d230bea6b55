"""No column of a page is cut: on a desk, on a tablet, on paper."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distill_cli.report import plots
from distill_cli.report.comparison_page import comparison_page
from distill_cli.report.groups import group_runs
from distill_cli.report.run_page import run_page
from tests.report.made import RECIPE, STUDENT, run, seeds

REM = 16
# CSS pixels of a sheet: A4 without margins, which is what a browser's media queries see of it.
SHEET = 794
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


def pages(root: Path) -> dict[str, str]:
    """A comparison with every column that there can be, and a run with long names."""
    figures = {"test_map": 0.75, "test_f1": 0.5, "teacher_agreement": 0.9, "test_samples": 360}
    runs = seeds(root / "kd", [30, 31, 33], STUDENT)
    runs += seeds(root / "hard", [40, 41, 43], {"model": "a_network_with_a_very_long_name_224x224"})
    runs.append(run(root / "labels", {"lr": 0.5}, **figures))
    runs.append(run(root / "other", {"lr": 0.6}, test_samples=10))
    networks = [{"model": "x" * 60, "params": 301_066, "test_top1": 0.9666}]
    recorded = {**RECIPE["recorded"], "teachers": ["f" * 32], "teacher_networks": networks}
    taught = run(root / "taught", {**STUDENT, "teachers": ["y" * 60], "recorded": recorded})
    return {
        "comparison": comparison_page("Title", "", group_runs(runs), {}),
        "run": run_page(taught),
    }


def rules(text: str, selector: str) -> list[tuple[int | None, str]]:
    """(greatest width in pixels, declarations) of each rule of that selector in a page's style."""
    style = text[text.index("<style>") : text.index("</style>")]
    found: list[tuple[int | None, str]] = []
    for limit, block in re.findall(
        r"(?:@media \(max-width: (\d+)rem\) \{)?((?:[^{}]+\{[^{}]*\}\s*)+)", style
    ):
        for names, declarations in re.findall(r"([^{}]+)\{([^{}]*)\}", block):
            if selector in [name.strip() for name in names.split(",")]:
                found.append((int(limit) * REM if limit else None, declarations))
    return found


@pytest.mark.parametrize("name", ["comparison", "run"])
def test_a_table_is_stacked_where_it_is_wider_than_tablet_or_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # What is drawn takes the width that there is.
    monkeypatch.setattr(plots, "_svg", lambda figure, about: "")
    text = pages(tmp_path)[name]
    assert 'class="wide"' in text
    cells = rules(text, ".wide td")
    assert all("nowrap" not in declarations for _, declarations in cells)
    stacked = [limit for limit, declarations in cells if "display: block" in declarations]
    assert max(limit or 0 for limit in stacked) >= max(SHEET, 1024)
    assert re.search(r'<td data-name="test accuracy">[^<]', text), "a cell says what it is"


# The width of what is in a page, and of the page, once it is laid out in a frame of a given width.
MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" style="border:0;width:{width}px;height:3000px" srcdoc="{page}"></iframe>
<script>
window.onload = () => {{
  const root = document.getElementById("page").contentDocument.documentElement;
  const beyond = [...root.querySelectorAll("body *")].filter(
    one => one.getBoundingClientRect().right > {width} + 1 && !one.closest("svg, thead"));
  document.title = `${{root.scrollWidth}} ${{beyond.length}} ${{beyond[0]?.outerHTML?.slice(0, 80)}}`;
}};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="it needs a browser")
@pytest.mark.parametrize("width", [1280, 1217, 1024, SHEET, 768, 380])
def test_nothing_is_wider_than_the_page(tmp_path: Path, width: int) -> None:
    assert BROWSER is not None
    for name, text in pages(tmp_path).items():
        framed = MEASURE.format(width=width, page=html.escape(text))
        (tmp_path / f"{name}.html").write_text(framed)
        arguments: list[Any] = [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--hide-scrollbars", "--window-size=1600,1200", (tmp_path / f"{name}.html").as_uri()),
        ]
        out = subprocess.run(arguments, capture_output=True, text=True, timeout=60).stdout
        title = re.search(r"<title>(\d+) (\d+) (.*?)</title>", out, flags=re.DOTALL)
        assert title, out[-2000:]
        assert int(title[1]) <= width, name
        assert title[2] == "0", (name, title[3])
