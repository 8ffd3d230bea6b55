"""Pages stand alone, escape every name and say what they show."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distill_cli.report import plots
from distill_cli.report.comparison_page import _mean, comparison_page, comparison_report
from distill_cli.report.groups import group_runs
from distill_cli.report.run_folder import read_run
from distill_cli.report.run_page import run_page
from distill_cli.report.table import comparison
from distill_cli.report.verdict import CAVEAT, verdict
from tests.report.made import HISTORY, RECIPE, STUDENT, make, run, seeds

EVIL = '<b>"&</b><script>alert(1)</script>$x_$'
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects tags and their attributes, and checks that HTML elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def stands_alone(text: str) -> Page:
    """Nothing is loaded, nothing runs, and ids are unique."""
    page = Page(text)
    assert not page.named("script")
    assert not page.named("iframe")
    assert not page.named("img")
    assert not re.search(r"@import|url\((?!#)", text)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert (value or "").startswith(("#", "data:")), (tag, name, value)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    return page


def compared(tmp_path: Path, **recipe: Any) -> str:
    runs = [
        *seeds(tmp_path / "hard", [40, 41, 43]),
        *seeds(tmp_path / "kd", [30, 30, 33], {**STUDENT, **recipe}),
    ]
    groups = group_runs(runs)
    found = verdict(groups[0].values("test_errors"), groups[1].values("test_errors"), 360)
    return comparison_report(
        "Digits", comparison(groups), {groups[1].label: found}, about="Two kinds of label."
    )


def test_the_page_of_a_run(tmp_path: Path) -> None:
    text = run_page(run(tmp_path / "a", {**STUDENT}, teacher_agreement=0.975, teacher_kl=0.1))
    page = stands_alone(text)
    for said in ("mlp_16x1 on digits", "kd T=4 α=0.9", "of 360 images", "97.5 %", "runs/a", "f00d"):
        assert said in text, said
    pictures = [svg for svg in page.named("svg") if svg.get("role") == "img"]
    assert len(pictures) == 3
    assert all(svg["aria-label"] for svg in pictures)
    assert page.named("html")[0]["lang"] == "en"


def test_the_page_of_a_comparison(tmp_path: Path) -> None:
    text = compared(tmp_path)
    page = stands_alone(text)
    for said in ("Two kinds of label.", "helped: 10.3 fewer errors of 360", "errors of 360"):
        assert said in text, said
    assert CAVEAT in text
    assert 'class="helped"' in text
    labels = [svg["aria-label"] for svg in page.named("svg") if svg.get("role") == "img"]
    assert any("41.3 ± 1.5" in str(label) for label in labels)
    assert len(page.named("th")) > 2


def test_every_calibration_error_is_called_so(tmp_path: Path) -> None:
    text = run_page(run(tmp_path / "a", test_ece=0.051, test_ece_scaled=0.018, temperature=0.42))
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    assert tiles["calibration error"] == "5.1 %"
    assert tiles["calibration error, logits scaled"] == "1.8 %"
    assert [name for name in tiles if "error" in name] == [
        "test errors",
        "calibration error",
        "calibration error, logits scaled",
    ]


def test_teachers_have_their_network_accuracy_and_size(tmp_path: Path) -> None:
    networks = [
        {"model": "mlp_512x2", "params": 301_066, "test_top1": 0.9666},
        {"model": "resnet18", "params": None, "test_top1": None},
    ]
    recorded = {**RECIPE["recorded"], "teachers": ["abad", "1dea"]}
    taught = {**STUDENT, "teachers": ["runs/a", "/home/me/labels"]}
    noted = {"recorded": recorded | {"teacher_networks": networks}}
    text = run_page(run(tmp_path / "a", {**taught, **noted}))
    stands_alone(text)
    rows = re.findall(r'<tr><th scope="row">(\S+?)<small>.*?</tr>', text, flags=re.DOTALL)
    assert rows == ["runs/a", "labels"]
    for shown in ("mlp_512x2", "96.66\u00a0%", "301\u00a0K", "resnet18", "abad", "1dea"):
        assert shown in text, shown
    # A run of an earlier version noted fingerprints only.
    text = run_page(run(tmp_path / "b", {**taught, "recorded": recorded}))
    stands_alone(text)
    assert "abad" in text


def test_the_recipe_is_folded_with_its_gist_beside_it(tmp_path: Path) -> None:
    text = run_page(run(tmp_path / "a", {"batch_size": 64, "augment": ["shift:1"]}))
    page = stands_alone(text)
    assert len(page.named("details")) == 3, "recipe, data, environment"
    assert all("open" not in attributes for attributes in page.named("details"))
    assert "epochs 3 · batch size 64 · lr 0.1 · augment shift:1" in text
    # A sheet of paper cannot be unfolded.
    assert "details::details-content" in text[text.index("@media print") :]


def test_curves_begin_inside_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_svg", lambda figure, about: figure)
    falling = {epoch: 2 + 6 / epoch for epoch in range(1, 31)}
    steep = {epoch: 1000.0 ** (1 / epoch) for epoch in range(1, 31)}
    rising = {epoch: 100 - 90 / epoch for epoch in range(1, 31)}
    crossing = {epoch: epoch - 2.0 for epoch in range(1, 31)}
    for values, scale in (
        *((falling, "linear"), (steep, "log"), (rising, "linear"), (crossing, "linear")),
        ({1: float("nan"), 2: 1.0}, "linear"),
    ):
        line = plots.Line(label="", y_by_x=values, style=0)
        [axes] = plots.curves([line], y="y", about="x").axes  # type: ignore[attr-defined]
        low, high = axes.get_ylim()
        assert all(low <= value <= high for value in values.values() if value == value)
        assert axes.get_yscale() == scale


def test_every_seed_is_a_dot() -> None:
    one, three = (plots.dots({"a": values}, x="x", about="y") for values in ([1.0], [1, 2, 3]))
    assert three.count("<use") == one.count("<use") + 2


def test_equal_values_lie_beside_each_other() -> None:
    _, heights = plots._dot_positions([5, 5, 7], 0)
    assert heights[0] == -heights[1]
    assert heights[2] == 0


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = {
        **STUDENT,
        "model": EVIL,
        "teachers": [EVIL, EVIL],
        "mode": EVIL,
        "recorded": {**RECIPE["recorded"], "dataset": {"class_names": ["<b>", EVIL]}},
    }
    for text in (run_page(run(tmp_path / "a", evil)), compared(tmp_path / "c", **evil)):
        assert not stands_alone(text).named("b")
        assert "&lt;b&gt;" in text


def test_history_columns_are_escaped(tmp_path: Path) -> None:
    history = HISTORY.replace("train_ce", "train_<b>$x$</b>")
    text = run_page(read_run(make(tmp_path / "a", history=history)))
    assert not stands_alone(text).named("b")


def test_no_path_of_a_machine(tmp_path: Path) -> None:
    private = str(tmp_path)
    recipe = {**STUDENT, "teachers": [f"{private}/big"], "data": f"{private}/flowers"}
    recipe |= {"init": f"{private}/first", "model_args": {"file": f"{private}/x"}}
    assert private not in run_page(run(tmp_path / "a", recipe))
    assert private not in compared(tmp_path / "c", **recipe)


def test_an_unfinished_run_has_a_page(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", finished=False)
    text = run_page(read_run(folder, finished=False))
    stands_alone(text)
    assert "has not finished" in text
    assert "<svg" in text


@pytest.mark.parametrize(
    "history", [None, "epoch\n1\n", "epoch,train_loss,val_top1\n1,nan,\n", HISTORY[:180]]
)
def test_little_history(tmp_path: Path, history: str | None) -> None:
    found = read_run(make(tmp_path / "a", history=history))
    stands_alone(run_page(found))
    groups = group_runs([found])
    stands_alone(comparison_report("x", comparison(groups)))


def test_runs_of_unequal_length(tmp_path: Path) -> None:
    short = HISTORY[: HISTORY.index("3,0.0")]
    runs = [
        read_run(make(tmp_path / "a")),
        read_run(make(tmp_path / "b", {"seed": 1}, history=short)),
    ]
    groups = group_runs(runs)
    stands_alone(comparison_report("x", comparison(groups)))
    assert list(_mean([{1: 1.0, 2: 2.0}, {1: 3.0}])) == [1]


def test_histories_may_be_given(tmp_path: Path) -> None:
    groups = group_runs([run(tmp_path / "a")])
    text = comparison_report("x", comparison(groups), (), {})
    assert "Held-out accuracy" not in text


def test_sentences_and_notes_are_shown(tmp_path: Path) -> None:
    groups = group_runs([run(tmp_path / "a"), run(tmp_path / "b", {"lr": 0.5}, test_samples=10)])
    text = comparison_page("Title", "About.", groups, ["Ensemble: cannot be told, <i>x</i>."])
    assert "Ensemble: cannot be told, &lt;i&gt;x&lt;/i&gt;." in text
    assert "errors cannot be compared" in text
    assert "of images" in text


def test_the_same_page_twice(tmp_path: Path) -> None:
    found = run(tmp_path / "a", {**STUDENT})
    assert run_page(found) == run_page(found)


def test_plots_take_the_colours_of_the_page(tmp_path: Path) -> None:
    text = compared(tmp_path)
    drawn = text[text.index("</style>") :]
    assert not re.search(r"(?:fill|stroke): #", drawn)
    assert not re.search(r"(?:fill|stroke)=\"#", drawn)
    assert "var(--ink)" in drawn
    assert "prefers-color-scheme: dark" in text


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_in_light_and_dark(tmp_path: Path) -> None:
    """WCAG: 4.5 for text, 3 for what is drawn."""
    text = run_page(run(tmp_path / "a"))
    found = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)
    ]
    assert len(found) == 2
    for colours in found:
        for paper in (colours["paper"], colours["card"]):
            assert contrast(colours["ink"], paper) >= 7
            assert contrast(colours["quiet"], paper) >= 4.5
            for place in range(plots.SERIES):
                assert contrast(colours[f"s{place}"], paper) >= 3
