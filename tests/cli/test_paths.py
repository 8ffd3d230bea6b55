"""Paths that lead nowhere are the user's mistake, on every version of Python alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_cli.errors import ArtifactError
from distill_cli.files import real_path
from distill_cli.models import load_model
from tests.conftest import Made, Outcome

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")
DIGITS = ("--data", "digits")
# BAD stands for the path, TEACHER and LABELS for what is sound.
CALLS = {
    "train out": ("teacher", "train", *DIGITS, *TINY, "--out", "BAD"),
    "train data": ("teacher", "train", *TINY, "--data", "BAD"),
    "train init": ("teacher", "train", *DIGITS, *TINY, "--init", "BAD"),
    "train recipe": ("teacher", "train", "-r", "BAD"),
    "student out": ("student", "--teachers", "TEACHER", *TINY, "--out", "BAD"),
    "student teachers": ("student", "--teachers", "BAD", *TINY),
    "generations out": ("student", "--teachers", "TEACHER", "--generations", 2, "--out", "BAD"),
    "generations teachers": ("student", "--teachers", "BAD", "--generations", 2, *TINY),
    "student init": ("student", "--teachers", "TEACHER", *TINY, "--init", "BAD"),
    "labels teachers": ("cache-soft-labels", "--teachers", "BAD", "--out", "c"),
    "labels out": ("cache-soft-labels", "--teachers", "TEACHER", "--out", "BAD"),
    "labels class map": ("cache-soft-labels", "--teachers", "TEACHER", "--class-map", "BAD"),
    "info": ("cache", "info", "BAD"),
    "verify": ("cache", "verify", "BAD"),
    "merge": ("cache", "merge", "BAD", "--out", "c"),
    "merge out": ("cache", "merge", "LABELS", "--out", "BAD"),
    "import": ("cache", "import", "BAD", *DIGITS, "--out", "c"),
    "evaluate": ("evaluate", "BAD"),
    "evaluate data": ("evaluate", "TEACHER", "--data", "BAD"),
    "predict": ("predict", "TEACHER", "BAD"),
    "compare": ("compare", "TEACHER", "BAD"),
    "report": ("report", "BAD"),
    "runs": ("runs", "BAD"),
    "validate": ("recipes", "validate", "BAD"),
}


@pytest.mark.parametrize("kind", ["loop", "inside a loop", "broken link", "long", "below a file"])
@pytest.mark.parametrize("call", CALLS)
def test_a_path_that_leads_nowhere(
    made: Made, here: Path, distill: Distill, call: str, kind: str
) -> None:
    (here / "loop").symlink_to("loop")
    (here / "broken").symlink_to("nowhere")
    (here / "file").write_text("")
    bad = {
        "loop": "loop",
        "inside a loop": "loop/x",
        "broken link": "broken",
        "long": "x" * 300,
        "below a file": "file/x",
    }[kind]
    before = sorted(here.iterdir())
    paths = {"BAD": bad, "TEACHER": made.teacher, "LABELS": made.labels}
    outcome = distill(*(paths.get(str(arg), arg) for arg in CALLS[call]))
    assert outcome.code in (2, 3), outcome.err
    assert "internal error" not in outcome.err
    assert bad[:40] in outcome.err.replace("\n", ""), "the path is named"
    assert sorted(here.iterdir()) == before, "nothing was written"


def test_a_loop_is_its_own_real_path(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    root = real_path(tmp_path)
    assert real_path(tmp_path / "a").parent == root
    assert real_path(tmp_path / "link" / "x") == root / "folder" / "x"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_loop_in_a_model_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(name)
    with pytest.raises(ArtifactError):
        load_model(tmp_path)
