"""Texts from files on their way to people: no cursor moves, no line is faked, no direction turns."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.models import load_model, save_model
from tests.conftest import Made, Outcome, invoke
from tests.processes import in_files
from tests.reliability import Reliability
from tests.terminals import on_terminal

Distill = Callable[..., Outcome]
CLI = Path(__file__).parents[2] / "distill_cli" / "cli"
# What a terminal would obey: blink, a new title, the start of a line, a line of our own, a direction.
PLANTED = ("a\x1b[5mblink", "b\nerror: all is lost", "c\rX", "d\u202egnp", "e\x9b5m\x07")
SHOWN = ("a\\x1b[5mblink", "b\\nerror: all is lost", "c\\rX", "d\\u202egnp", "e\\x9b5m\\x07")
ORDERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
SMALL = ("--model", "mlp_8x1", "--epochs", 1, "-b", 8, "--device", "cpu")
# A folder that turns the title of a window, in a path of any length.
FOLDER = "r\x1b]0;title\x07\u202e\nerror: so it ends"
FOLDER_SHOWN = "r\\x1b]0;title\\x07\\u202e\\nerror: so it ends"
UNDECODABLE = os.fsdecode(b"u\xff\xfe\x1b[5m")
UNDECODABLE_SHOWN = "u\\xff\\xfe\\x1b[5m"


def draw(folder: Path, name: str, count: int = 8) -> None:
    """Pictures of a class."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng([number, len(name)]).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of classes with such names, a run on it, a cache, and the run under other names."""
    root = tmp_path_factory.mktemp("planted")
    for name in PLANTED:
        draw(root / "data" / name, name)
    common = ("--data", root / "data", "--quiet", "--device", "cpu")
    outcome = invoke("teacher", "train", *common, *SMALL, "--out", root / FOLDER)
    assert outcome.code == 0, outcome.err
    outcome = invoke(
        *("cache-soft-labels", "--teachers", root / FOLDER, *common, "--force", "--out"),
        root / "labels",
    )
    assert outcome.code == 0, outcome.err
    shutil.copytree(root / FOLDER, root / UNDECODABLE)
    return root


def checked(outcome: Outcome, *parts: str, code: int = 0) -> None:
    """Refuses a text with characters that a terminal obeys, and one without these parts."""
    assert outcome.code == code, outcome.err
    text = outcome.out + outcome.err
    assert ORDERS.findall(text) == [], text
    faked = [line for line in text.splitlines() if line.startswith("error: so it ends")]
    assert not faked, text
    for part in parts:
        assert part in text, text


# Commands, as lists of words with {names}, and what they show of the planted names.
VERBS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "header": (("teacher", "train", "--data", "{data}", *map(str, SMALL), "--dry-run"), ()),
    "predict": (("predict", "{run}", "{image}", "--top", "5"), SHOWN),
    "evaluate": (("evaluate", "{run}", "--teacher", "{labels}"), ()),
    "evaluate-live": (("evaluate", "{run}", "--teacher", "{run}"), (FOLDER_SHOWN,)),
    "calibrate": (
        ("calibrate", "{run}", "--prior", "uniform", "--all-classes", "--out", "{calibrated}"),
        SHOWN,
    ),
    "noise": (("noise", "estimate", "{run}", "--out", "{matrix}"), SHOWN),
    "audit": (("audit", "{run}", "--out", "{audit}", "--budget", "3"), (FOLDER_SHOWN,)),
    "query": (
        ("query", "{run}", "--unlabelled", "{data}", "--out", "{query}", "--overwrite"),
        SHOWN,
    ),
    "compare": (("compare", "{run}", "{undecodable}"), ()),
    "runs": (("runs", "{root}"), (FOLDER_SHOWN, UNDECODABLE_SHOWN)),
    "info": (("cache", "info", "{labels}"), ()),
    "verify": (("cache", "verify", "{labels}"), ()),
    "student": (
        *(("student", "--teachers", "{labels}", "--dry-run", *map(str, SMALL), "--force"),),
        (),
    ),
}


def filled(words: tuple[str, ...], planted: Path) -> list[str]:
    """The words with the folders that were made."""
    places = {
        "data": planted / "data",
        "run": planted / FOLDER,
        "image": planted / "data" / PLANTED[1] / "0.png",
        "labels": planted / "labels",
        "undecodable": planted / UNDECODABLE,
        "matrix": planted / "noise.csv",
        "calibrated": planted / "calibrated",
        "audit": planted / "audit",
        "query": planted / "query.csv",
        "root": planted,
    }
    return [word.format(**places) for word in words]


@pytest.mark.parametrize("name", VERBS)
def test_names_are_shown_and_not_obeyed(
    planted: Path, here: Path, distill: Distill, name: str
) -> None:
    words, parts = VERBS[name]
    checked(distill(*filled(words, planted)), *parts)


@pytest.mark.parametrize("name", ["predict", "runs"])
def test_on_a_terminal_too(planted: Path, name: str) -> None:
    words, parts = VERBS[name]
    seen = on_terminal(*filled(words, planted), columns=200)
    assert seen.code == 0, seen.text
    for order in ("\x1b[5m", "\x1b]0", "\x07", "\x9b", "\u202e", "c\rX"):
        assert order not in seen.text
    for part in parts:
        assert part in "\n".join(seen.lines)


def test_the_lines_of_a_run_keep_to_themselves(planted: Path, here: Path, distill: Distill) -> None:
    """A pipe is told the folder to the letter: a script goes on with it."""
    out = here / "x\x1b[5m\ny"
    outcome = distill("teacher", "train", "--data", planted / "data", *SMALL, "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{out}\n"
    assert ORDERS.findall(outcome.err) == []
    assert "x\\x1b[5m\\ny" in outcome.err
    seen = on_terminal("runs", here)
    assert "\x1b[5m" not in seen.text


def test_json_stays_json(planted: Path, distill: Distill) -> None:
    image = planted / "data" / PLANTED[3] / "0.png"
    outcome = distill("predict", planted / FOLDER, image, "--json")
    checked(outcome)
    document = json.loads(outcome.out)
    assert document["image"] == str(image)
    assert set(document["probabilities"]) == set(PLANTED)
    outcome = distill("runs", planted, "--json")
    checked(outcome)
    names = {run["name"] for run in json.loads(outcome.out)["runs"]}
    assert names == {FOLDER, UNDECODABLE}


def test_pages_and_cards_of_such_names(planted: Path, here: Path, distill: Distill) -> None:
    """A page of a folder whose name is no UTF-8 was an internal error."""
    checked(distill("report", planted / UNDECODABLE, "-o", here / "page.html"))
    page = (here / "page.html").read_text(encoding="utf-8")
    card = (planted / FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    for text in (page, card):
        assert ORDERS.findall(text) == []
    assert SHOWN[0] in card
    assert SHOWN[3] in card


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "verb": (("\x1b[5m\nx",), 2, "there is no command '\\x1b[5m\\nx'"),
    "option": (("teacher", "train", "--\x1b[5m\nx"), 2, "no such option"),
    "root-option": (("--\x1b[5m\nx",), 2, "no such option"),
    "value": (("runs", "--sort", "\x1b[5m\nx"), 2, "'\\x1b[5m\\nx'"),
    "choice": (("evaluate", "x", "--split", "\x1b[5m\nx"), 2, "is not one of"),
    "data": (("teacher", "train", "--data", "\x1b[5m\nx"), 2, "--data \\x1b[5m\\nx does not"),
    "model": (
        ("teacher", "train", "--data", "digits", "--model", "\x1b[5m\nx"),
        2,
        "there is no network '\\x1b[5m\\nx'",
    ),
    "out": (("teacher", "train", "--data", "digits", "--out", UNDECODABLE), 2, "out: must be text"),
    "run": (("evaluate", "\x1b[5m\nx"), 2, "\\x1b[5m\\nx does not exist"),
    "undecodable-run": (("evaluate", os.fsdecode(b"\xff")), 2, "\\xff does not exist"),
    "key": (("teacher", "train", "--set", "\x1b[5m\nx=3"), 2, "unknown key '\\x1b[5m\\nx'"),
    "recipe": (("recipes", "validate", "r\x1b[5m\n.yaml"), 2, "r\\x1b[5m\\n.yaml"),
    "recipe-value": (("recipes", "validate", "r.yaml"), 2, "unknown 'k\\x1b[5m\\nd'"),
    "cell": (("teacher", "train", "--data", "t.csv", *map(str, SMALL)), 3, "\\x1b[5m\\u202e.png"),
    "file-names": (("teacher", "train", "--data", "bytes", *map(str, SMALL)), 3, "not UTF-8"),
    "export": (("export", "{run}", "--format", "packed"), 2, FOLDER_SHOWN),
    "picture": (("predict", "{run}", "\x1b[5m\nx.png"), 3, "\\x1b[5m\\nx.png"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_is_one_line(planted: Path, here: Path, distill: Distill, name: str) -> None:
    (here / "r.yaml").write_text('command: teacher train\nobjective: "k\\e[5m\\nd"\n')
    (here / "t.csv").write_text("file,label\n\x1b[5m\u202e.png,a\n")
    (here / "\x1b[5m\nx.png").write_bytes(b"no picture")
    for folder in (b"a\xff", b"b"):
        draw(here / "bytes" / os.fsdecode(folder), "x", 2)
    words, code, part = REFUSED[name]
    outcome = distill(*filled(words, planted))
    checked(outcome, part, code=code)
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    if name != "picture":
        assert outcome.err == f"{errors[0]}\n"


def test_reliability_of_names(here: Path, distill: Distill, reliability: Reliability) -> None:
    outcome = distill("evaluate", "a\x1b[5m\nerror: all is lost")
    checked(outcome, code=2)
    reliability(
        "Usage and recipes",
        "an escape sequence and a line break in a name",
        "distill evaluate $'a\\e[5m\\nerror: all is lost'",
        outcome,
    )


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("owned",)


def test_a_librarys_advice_is_none_of_ours(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.teacher, here / "a")
    for path in (here / "a" / "last").iterdir():
        torch.save({"x": Payload()}, path)
    outcome = distill("teacher", "train", "--resume", "--out", "a")
    assert outcome.code == 3
    assert "owned" not in outcome.out
    assert re.search("PyTorch|[Ww]eights.only|trust|option", outcome.err) is None
    reliability(
        "Models and checkpoints",
        "a pickle in a checkpoint's place",
        "distill teacher train --resume --out a",
        outcome,
    )


def test_what_libraries_print_is_one_line(here: Path, made: Made) -> None:
    """Pillow logs its trouble with a picture, beside the error that names the file."""
    tiff = here / "x.tiff"
    Image.new("RGB", (8, 8)).save(tiff)
    content = bytearray(tiff.read_bytes())
    place = content.index(b"\x15\x01\x03\x00")
    content[place + 8] = 130
    tiff.write_bytes(bytes(content))

    def loud() -> None:
        import logging
        import warnings

        from distill_cli.pipeline import predict

        # As in a process of its own: pytest listens to all logs.
        logging.getLogger().handlers.clear()
        plain = predict.predict

        def noisy(*args: object, **options: object) -> object:
            logging.getLogger("library").warning("careful\x1b[5m\nand more")
            warnings.warn("a\x1b[5m\nb", stacklevel=1)
            return plain(*args, **options)  # type: ignore[arg-type]

        predict.predict = noisy  # type: ignore[assignment]

    written = in_files("predict", made.teacher, tiff, before=loud)
    lines = written.err.decode().splitlines()
    assert written.code == 3
    assert lines[:2] == ["library: careful\\x1b[5m\\nand more", "UserWarning: a\\x1b[5m"]
    assert [line.split(" ")[0] for line in lines[2:]] == ["cannot", "error:"]


def test_nothing_else_escapes() -> None:
    """All of the command line takes `escape` of terminal.py, which shows control characters too."""
    for path in CLI.glob("*.py"):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "rich.markup", path.name


def test_a_models_class_names_are_shown(made: Made, here: Path, distill: Distill) -> None:
    """A model from elsewhere brings its names in config.json."""
    network = load_model(made.teacher)
    network.class_names = (*PLANTED, *map(str, range(5)))
    save_model(network, here / "model")
    Image.new("L", (8, 8), 9).save(here / "x.png")
    checked(distill("predict", "model", "x.png", "--top", 10), *SHOWN)
