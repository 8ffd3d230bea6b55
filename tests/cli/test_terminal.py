"""What a person sees: every display on a pseudo-terminal, to its end."""

from __future__ import annotations

import io
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from distill_cli.cli.terminal import Unbreakable
from distill_cli.data.dataset import open_dataset
from tests.cli.test_import import table, voted, write
from tests.conftest import Made, Outcome
from tests.processes import PATIENCE, in_files, slowed, stuck
from tests.terminals import CONTROL, INTERRUPT, When, on_terminal

Distill = Callable[..., Outcome]
DIGITS = ("--data", "digits", "--model", "mlp_16x1", "--device", "cpu")
TRAIN = ("teacher", "train", *DIGITS, "--lr", 0.1, "--out", "t")
DUMP = ("cache-soft-labels", "--views", 2, "--shard-length", 600, "--out", "c", "--teachers")


# The displays: training, dumps, hashing, joining, importing, several stages.
DISPLAYS: dict[str, tuple[object, ...]] = {
    "train": (*TRAIN, "--epochs", 2),
    "student": ("student", "--teachers", "{teacher}", "--model", "mlp_8x1", "--epochs", 2),
    "cached": ("student", "--teachers", "{labels}/a", "--model", "mlp_8x1", "--epochs", 2),
    "chain": (
        *("student", "--teachers", "{teacher}", "--model", "mlp_8x2", "--hints", "--epochs", 2),
        *("--out", "chain"),
    ),
    "hint-init": (
        *("hint-init", "--teachers", "{teacher}", "--model", "mlp_8x2", "--epochs", 2),
        *("--out", "h"),
    ),
    "dump": (*DUMP, "{teacher}"),
    "estimate": (*DUMP, "{teacher}", "--dry-run"),
    "verify": ("cache", "verify", "{labels}/a", "--sample", 8),
    "merge": ("cache", "merge", "{labels}/a", "--out", "joined"),
    "import": ("cache", "import", "votes.csv", "--data", "digits", "--out", "people"),
    "demo": ("demo", "--seeds", 1, "--epochs", 1),
}
# Epochs that a display is sure to show.
UNHURRIED = slowed("distill_cli.training.loop", "Trainer._end_epoch", seconds=0.3)
# What shows no progress.
OTHERS: dict[str, tuple[object, ...]] = {
    "evaluate": ("evaluate", "{student}", "--teacher", "{teacher}"),
    "predict": ("predict", "{student}", "image.png"),
    "compare": ("compare", "{teacher}", "{student}"),
    "report": ("report", "{student}", "--out", "page.html"),
    "runs": ("runs", "{student}"),
    "info": ("cache", "info", "{labels}/a"),
    "methods": ("methods",),
    "method": ("methods", "show", "dkd"),
    "recipes": ("recipes", "list"),
    "recipe": ("recipes", "show", "digits/teacher"),
    "taps": ("models", "taps", "mlp_16x2"),
    "help": ("--help",),
    "refused": ("student",),
}


@pytest.fixture(autouse=True)
def _material(here: Path) -> None:
    """An image and labels of people, in the working folder."""
    digits = open_dataset("digits")
    write(here / "votes.csv", table(digits, voted(digits)))
    Image.new("L", (8, 8), 9).save(here / "image.png")


def filled(args: tuple[object, ...], made: Made) -> list[str]:
    """The arguments with the folders that were made for all tests."""
    return [str(arg).format(**vars(made)) for arg in args]


def slow(*values: object) -> object:
    """A case that is for `make slow`."""
    return pytest.param(*values, marks=pytest.mark.slow)


FAST = ("train", "chain", "dump", "verify", "merge", "import")


@pytest.mark.parametrize("name", [*FAST, *(slow(name) for name in DISPLAYS if name not in FAST)])
def test_every_display_ends(made: Made, name: str) -> None:
    seen = on_terminal(*filled(DISPLAYS[name], made))
    assert seen.code == 0, seen.text
    assert CONTROL in seen.text, "the display was shown"
    assert "\x1b[?25h" in seen.text, "the cursor is back"
    assert "Traceback" not in seen.text
    assert not [line for line in seen.lines if "━" in line and "…" in line]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        *((name, 40) for name in ("evaluate", "predict", "info", "methods", "recipes", "taps")),
        *(slow(name, 80) for name in OTHERS),
        *(slow(name, 40) for name in ("report", "recipe", "method", "help", "refused")),
    ],
)
def test_the_rest_fits_a_terminal(made: Made, name: str, columns: int) -> None:
    seen = on_terminal(*filled(OTHERS[name], made), columns=columns)
    assert seen.code == (2 if name == "refused" else 0), seen.text
    assert "Traceback" not in seen.text
    # What is pasted elsewhere is the terminal's to fold.
    if name not in ("recipe", "method", "help"):
        assert max(map(len, seen.lines)) <= columns, seen.lines


def test_a_row_is_a_line_and_what_it_is_against_the_first_a_sentence(made: Made) -> None:
    args = ("compare", made.teacher, made.other, made.student)
    wide = on_terminal(*args, columns=160).lines
    heading, *rows = wide[:4]
    assert heading.split()[:2] == ["run", "what"]
    assert "test errors" in heading
    assert "accuracy" in heading
    assert all("mlp_" in row for row in rows), "one line a row"
    assert wide[4].startswith("Against a (mlp_32x1")
    assert sum(line.endswith(("errors more.", "error more.", "fewer.")) for line in wide) == 2
    narrow = on_terminal(*args, columns=40).lines
    assert narrow[0] == "a"
    assert sum(line.startswith("  test errors ") for line in narrow) == 3
    assert not any("NLL  " in line for line in narrow)
    assert any("--json" in line for line in narrow), "says where the rest is"


def test_a_paper_is_shown_with_its_method(made: Made) -> None:
    listed = "\n".join(on_terminal("methods").lines)
    assert "name" in listed
    assert "needs" in listed
    assert "arXiv" not in listed
    assert "arXiv 2203.08679" in on_terminal("methods", "show", "dkd").text


@pytest.mark.parametrize("args", [("methods",), ("compare", "{teacher}", "{student}")])
def test_tables_in_a_pipe_are_neither_folded_nor_filled(
    made: Made, distill: Distill, args: tuple[str, ...]
) -> None:
    lines = distill(*filled(args, made)).out.splitlines()
    assert lines == [line.rstrip() for line in lines], "no line ends in blanks"
    rows = 25 if args == ("methods",) else 3
    assert all(len(line) > 40 for line in lines[: rows - 3])
    assert max(map(len, lines)) != 120


@pytest.mark.parametrize("columns", [40, 120, slow(60), slow(80)])
def test_training_at_every_width(here: Path, columns: int) -> None:
    seen = on_terminal(*TRAIN, "--epochs", 2, columns=columns, before=UNHURRIED)
    assert seen.code == 0, seen.text
    frames = [line for line in seen.lines if line.startswith("teacher  ")]
    last = frames[-1]
    assert "epoch 2/2" in last, frames
    assert max(map(len, frames)) <= columns - 2
    assert "…" not in "".join(frames)
    assert ("loss" in last) == (columns >= 60)
    assert ("images/s" in last) == (columns >= 120)
    assert last.endswith("0 s left"), last


def test_a_terminal_without_abilities_gets_no_control_codes(here: Path) -> None:
    seen = on_terminal(*TRAIN, "--epochs", 2, term="dumb")
    assert seen.code == 0, seen.text
    assert "\x1b" not in seen.text
    assert "teacher: epoch 2/2  held-out" in seen.text


def test_a_terminal_that_changes_its_width(here: Path) -> None:
    seen = on_terminal(
        *(*TRAIN, "--epochs", 6),
        columns=100,
        whens=[When("loss", columns=40), When("/6  ")],
        before=UNHURRIED,
    )
    assert seen.code == 0, seen.text
    frames = [line for line in seen.lines if "epoch " in line and "teacher" in line]
    assert max(map(len, frames)) > 40
    assert len(frames[-1]) <= 38
    assert "epoch 6/6" in frames[-1]


@pytest.mark.parametrize(
    ("args", "place"),
    [((*TRAIN, "--epochs", 1), "t"), ((*DUMP, "{teacher}"), "c")],
    ids=["train", "dump"],
)
def test_a_terminal_names_the_folder_once(
    made: Made, distill: Distill, args: tuple[object, ...], place: str
) -> None:
    lines = [line.strip() for line in on_terminal(*filled(args, made)).lines]
    assert place not in lines, "stderr has named it"
    assert any(line.endswith(f"→ {place}") or line.startswith(f"{place}: ") for line in lines)
    shutil.rmtree(place)
    assert distill(*filled(args, made)).out == f"{place}\n", "a pipe gets it"
    shutil.rmtree(place)
    seen = on_terminal(*filled(args, made), "--quiet")
    assert [line.strip() for line in seen.lines] == [place]


# Ctrl-C, once and twice.

TWICE = [When("stuck here", keys=INTERRUPT), When("^C", keys=INTERRUPT, after=0.3)]


def test_the_first_ctrl_c_saves_and_says_how_to_go_on(here: Path) -> None:
    whens = [When("epoch 2/", keys=INTERRUPT)]
    seen = on_terminal(*TRAIN, "--epochs", 500, whens=whens, before=UNHURRIED)
    assert seen.code == 130, seen.text
    stopped = next(line for line in seen.lines if line.startswith("stopped in epoch "))
    assert stopped.endswith("Go on with --resume --out t")
    assert "error" not in seen.text
    assert "Traceback" not in seen.text
    state = torch.load(here / "t/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "state"
    ]
    assert state["epoch"] >= 1


def test_the_second_ctrl_c_ends_at_once(here: Path, distill: Distill) -> None:
    """A step of the third epoch takes for ever, and the first Ctrl-C waits for its end."""
    seen = on_terminal(
        *TRAIN,
        *("--epochs", 4, "-b", 128),
        whens=TWICE,
        before=stuck("distill_cli.training.loop", "Trainer.train_step", at=25),
    )
    _ended_at_once(seen.code, seen.lines)
    epochs = (here / "t/summary.csv").read_text().splitlines()
    assert len(epochs) == 3, "the last checkpoint is of the second epoch"
    assert distill("teacher", "train", "--resume", "--out", "t", "--quiet").code == 0
    assert len((here / "t/summary.csv").read_text().splitlines()) == 5


def _ended_at_once(code: int, lines: list[str]) -> None:
    assert code == 130, lines
    after = lines[next(i for i, line in enumerate(lines) if "stuck here" in line) + 1 :]
    said = [line for line in after if line.strip("^C") and "━" not in line]
    # A dump says besides that its command goes on.
    [line] = said
    assert line.startswith("stopped at once; what was saved before is intact"), lines


@pytest.mark.parametrize(
    ("args", "module", "name", "times"),
    [
        (DISPLAYS["dump"], "distill_cli.cache.writer", "CacheWriter.commit", 2),
        (DISPLAYS["import"], "distill_cli.cache.writer", "CacheWriter.commit", 2),
        (DISPLAYS["verify"], "distill_cli.cache.verify", "read_plan", 1),
        slow(DISPLAYS["merge"], "distill_cli.cache.merge", "write_text", 1),
        (DISPLAYS["train"], "distill_cli.data.reading", "open_splits", 1),
        (DISPLAYS["train"], "distill_cli.pipeline.run.train", "finish", 1),
        slow(OTHERS["evaluate"], "distill_cli.pipeline.evaluate", "evaluate_run", 1),
        (OTHERS["methods"], "distill_cli.cli.app", "DistillGroup.make_context", 1),
        slow(OTHERS["compare"], "distill_cli.cli.compare", "finished_runs", 1),
    ],
)
def test_ctrl_c_anywhere_is_one_line(
    made: Made, args: tuple[object, ...], module: str, name: str, times: int
) -> None:
    seen = on_terminal(*filled(args, made), whens=TWICE[:times], before=stuck(module, name))
    _ended_at_once(seen.code, seen.lines)


def test_ctrl_c_in_a_destructor_is_not_lost(made: Made) -> None:
    def before() -> None:
        class Falls:
            def __del__(self) -> None:
                os.write(2, b"stuck here\n")
                # In short turns: a signal just before a wait for it would never end that wait.
                while True:
                    time.sleep(0.05)

        import distill_cli.cli.compare as module

        module.finished_runs = lambda runs: ([Falls()], [])  # type: ignore[assignment]
        module.group_runs = lambda runs: runs.clear()  # type: ignore[assignment]

    seen = on_terminal("compare", made.teacher, whens=TWICE[:1], before=before)
    _ended_at_once(seen.code, seen.lines)


def test_ctrl_c_in_a_destructor_leaves_no_bar_behind(here: Path) -> None:
    """As often as not one comes while modules are imported, which is full of destructors."""

    def before() -> None:
        class Falls:
            def __del__(self) -> None:
                os.write(2, b"stuck here\n")
                # In short turns: a signal just before a wait for it would never end that wait.
                while True:
                    time.sleep(0.05)

        import distill_cli.data.reading as module

        module.open_splits = lambda spec, **rules: Falls() and {}  # type: ignore[assignment]

    seen = on_terminal(*TRAIN, "--epochs", 1, whens=TWICE[:1], before=before)
    _ended_at_once(seen.code, seen.lines)
    assert seen.lines[-1] == "stopped at once; what was saved before is intact"


# Streams that are closed, full, or lack characters.


def closed(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)
            # So Python starts where a shell said >&-.
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)

    return close


@pytest.mark.parametrize("descriptors", [slow((1,)), slow((2,)), (1, 2), slow((0, 1, 2))])
@pytest.mark.parametrize(
    "args",
    [
        (*TRAIN, "--epochs", 1),
        slow((*TRAIN, "--epochs", 1, "--json")),
        slow(("compare", "{teacher}", "{student}")),
        ("predict", "{student}", "image.png", "--json"),
        ("--help",),
        slow(("--version",)),
    ],
    ids=["train", "json", "compare", "predict", "help", "version"],
)
def test_without_streams(
    made: Made, here: Path, descriptors: tuple[int, ...], args: tuple[object, ...]
) -> None:
    found = in_files(*filled(args, made), before=closed(*descriptors))
    assert found.code == 0, found.err
    assert b"Traceback" not in found.out + found.err
    assert (found.out == b"") == (1 in descriptors)
    if "train" in args:
        assert json.loads((here / "t/result.json").read_text())["test_samples"] == 359
        for line in (here / "t/metrics.jsonl").read_text().splitlines():
            json.loads(line)


def full(*descriptors: int) -> Callable[[], None]:
    """A file that may not grow: files that a run writes are smaller."""
    limit = 20_000_000

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for descriptor in descriptors:
            os.ftruncate(descriptor, limit)
            os.lseek(descriptor, 0, os.SEEK_END)

    return fill


@pytest.mark.parametrize("descriptors", [slow((1,)), slow((2,)), (1, 2)])
@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((*TRAIN, "--epochs", 1), 0),
        slow(("methods", "--json"), 0),
        slow(("predict", "{student}", "image.png", "--json"), 0),
        (("--help",), 0),
        (("student",), 2),
        slow((*TRAIN, "--epochs", 1, "--require", "test_top1>=1"), 5),
    ],
    ids=["train", "methods", "predict", "help", "refused", "unmet"],
)
def test_full_streams(
    made: Made, here: Path, descriptors: tuple[int, ...], args: tuple[object, ...], code: int
) -> None:
    found = in_files(*filled(args, made), before=full(*descriptors))
    assert found.code == code, found.err[-2000:]
    assert b"Traceback" not in found.err[-5000:]
    if "train" in args:
        assert (here / "t/MODEL_CARD.md").exists()


class Full(io.StringIO):
    """A stream whose disk is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_stream_that_raises(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill_cli.cli.app import app

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Full())
    with pytest.raises(SystemExit) as end:
        app(["compare", str(made.teacher), str(made.student)], prog_name="distill")
    assert end.value.code == 0


ENCODED = (
    ("compare", "{teacher}", "{student}"),
    ("cache", "info", "{labels}/a"),
    ("methods", "show", "kd"),
    ("student", "--help"),
    ("compare", "Münster/日本"),
    slow((*TRAIN, "--epochs", 1)),
    slow(("evaluate", "{student}", "--teacher", "{teacher}")),
    slow(("predict", "{student}", "image.png")),
    slow(("methods",)),
    slow(("recipes", "list")),
)


@pytest.mark.parametrize("encoding", ["ascii", slow("latin-1")])
@pytest.mark.parametrize("args", ENCODED)
def test_what_an_encoding_lacks_is_replaced(
    made: Made, encoding: str, args: tuple[object, ...]
) -> None:
    plain = in_files(*filled(args, made))
    found = in_files(*filled(args, made), encoding=encoding, before=lambda: _gone("t"))
    assert found.code == plain.code, found.err
    assert b"Traceback" not in found.err
    for text, whole in ((found.out, plain.out), (found.err, plain.err)):
        assert len(text.decode(encoding).splitlines()) == len(whole.decode().splitlines())


def _gone(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def test_json_loses_no_character(made: Made, here: Path) -> None:
    shutil.copytree(made.student, here / "s")
    config = json.loads((here / "s/model/config.json").read_text())
    config["distill"]["class_names"][0] = "łódź 日本"
    del config["distill"]["checksum"]
    (here / "s/model/config.json").write_text(json.dumps(config))
    for encoding in ("utf-8", "ascii", "latin-1"):
        found = in_files("predict", "s", "image.png", "--json", encoding=encoding)
        assert found.code == 0, found.err
        assert "łódź 日本" in json.loads(found.out.decode(encoding))["probabilities"]


def test_look_alikes() -> None:
    raw = io.BytesIO()
    stream = Unbreakable(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("8.4 ± 1.1 → 3× “so” ━━ łódź\n")
    stream.flush()
    assert raw.getvalue().decode() == '8.4 +/- 1.1 -> 3x "so" -- ??d?\n'


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_shell_that_closes_streams(here: Path, redirection: str) -> None:
    command = " ".join(map(str, (sys.executable, "-m", "distill_cli", *TRAIN, "--epochs", 1)))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(
        ["sh", "-c", f"{command} {redirection}"], capture_output=True, text=True, env=env
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    assert (here / "t/result.json").exists()


# The whole product, as a shell starts it.


def typed(*args: object, folder: Path, **environment: str) -> tuple[int, str]:
    """The command with stdin, stdout and stderr on one pseudo-terminal: exit code and text."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "distill_cli", *(str(arg) for arg in args)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), slave),
        cwd=folder,
        env=env,
        start_new_session=True,
    )
    os.close(slave)
    killer = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    killer.start()
    shown = bytearray()
    try:
        # Linux says that nobody writes any more by an error.
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:
        pass
    code = process.wait()
    killer.cancel()
    os.close(master)
    return code, shown.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}])
def test_training_ends_on_a_terminal(here: Path, environment: dict[str, str]) -> None:
    code, shown = typed(*TRAIN, "--epochs", 1, folder=here, **environment)
    assert code == 0, shown
    assert (CONTROL in shown) == ("TERM" not in environment)
