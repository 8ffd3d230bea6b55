"""Faults, injected for real through the command line: exit code, one line, nothing harmed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.main import get_command

from distill_cli.cli.app import VERBS
from distill_cli.cli.command import MAY_BE_EMPTY
from tests.conftest import Made, Outcome, invoke
from tests.processes import Process, from_shell, slowed, start
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")


def one_line(outcome: Outcome) -> str:
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert outcome.out == ""
    return lines[0]


def pictures(root: Path, classes: tuple[str, ...] = ("cat", "dog"), per_class: int = 6) -> Path:
    """A small dataset of noise images in train/ and test/."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for index in range(per_class):
                pixels = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(root / split / name / f"{index}.png")
    return root


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb, by its words."""
    for name, (module, _) in VERBS.items():
        command: Any = get_command(import_module(f"distill_cli.cli.{module}").app)
        below = getattr(command, "commands", None)
        yield from (((name, one), inner) for one, inner in (below or {}).items())
        if below is None:
            yield (name,), command


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*one, id=" ".join(one[0])) for one in commands()]
)
def test_an_empty_value_is_refused(
    here: Path, distill: Distill, words: tuple[str, ...], command: Any
) -> None:
    """A path would take it for the current folder, and others for no value at all."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    for option in command.params:
        if option in arguments or option.is_flag or option.name in MAY_BE_EMPTY:
            continue
        flag = max(option.opts, key=len)
        outcome = distill(*words, *("x" for _ in arguments), flag, "")
        assert (outcome.code, outcome.err) == (2, f"error: {flag}: must not be empty\n")
    if arguments:
        outcome = distill(*words, *("" for _ in arguments))
        assert (outcome.code, ": must not be empty" in outcome.err) == (2, True), outcome.err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("student",), 2, "--teachers RUN"),
        (("student", "train"), 2, "leave 'train' out"),
        (("student", "--teachers", "nowhere"), 2, "'nowhere' does not exist"),
        (("student", "--teachers", "nowhere", "--lambda", 1), 2, "--alpha"),
        (("student", "--teachers", "nowhere", "--mode", "average"), 2, "is called 'ensemble'"),
        (("student", "--teachers", "nowhere", "--set", "warmup_epochs=.inf"), 2, "warmup_epochs"),
        (("teacher", "train", "--data", ""), 2, "data"),
        (("teacher", "train", "--data", "digits", "--out", "x" * 300), 2, "cannot write"),
        (("student", "--teachers", "nowhere", "-T", 0), 2, "temperature"),
        (("cache-soft-labels", "--teachers", "nowhere", "-T", 4), 2, "every temperature"),
        (("cache-soft-labels",), 2, "--teachers"),
        (("teacher", "train"), 2, "--data digits"),
        (("teacher", "train", "--data", "digitz"), 2, "digits"),
        (("teacher", "train", "--data", "digits", "--set", "epocs=3"), 2, "epochs"),
        (("teacher", "train", "--data", "digits", "--model", "resnet5000"), 2, "resnet"),
        (("teacher", "train", "--data", "digits", "--objective", "cee"), 2, "'ce'"),
        (("teacher", "train", "--data", "digits", "--objective", "kd"), 2, "needs teachers"),
        (("teacher", "train", "--data", "digits", "--augment", "flop"), 2, "flip"),
        (("teacher", "train", "--data", "digits", "--opt", "sgdd"), 2, "sgd"),
        (("teacher", "train", "--data", "digits", "--device", "cuda:77"), 2, "cpu"),
        (("train",), 2, "teacher train"),
        (("predict", "nowhere", "x.png"), 2, "nowhere does not exist"),
        (("evaluate", "nowhere"), 2, "nowhere does not exist"),
        (("compare", "nowhere"), 2, "nowhere"),
        (("recipes", "show", "digits/teachr"), 2, "digits/teacher"),
    ],
)
def test_usage_errors(here: Path, distill: Distill, args: tuple, code: int, said: str) -> None:
    outcome = distill(*args)
    assert outcome.code == code, outcome.err
    assert said in one_line(outcome)
    assert not list(here.iterdir()), "nothing was written"


def test_missing_teacher_is_refused_before_torch_is_imported(here: Path) -> None:
    code = (
        "import sys\nfrom distill_cli.cli.app import app\n"
        "try: app(['student', '--teachers', 'nowhere'])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.split() == ["2", "False"]


def test_existing_output_is_left_alone(made: Made, here: Path, distill: Distill) -> None:
    run = here / "run"
    shutil.copytree(made.teacher, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = distill("teacher", "train", "--data", "digits", "--out", run, *TINY)
    assert outcome.code == 2
    assert "--resume" in one_line(outcome)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_overwrite_replaces_the_run_and_nothing_else(
    made: Made, here: Path, distill: Distill
) -> None:
    run = here / "run"
    shutil.copytree(made.teacher, run)
    (run / "notes.txt").write_text("mine")
    outcome = distill("teacher", "train", "--data", "digits", "--out", run, "--overwrite", *TINY)
    assert outcome.code == 0, outcome.err
    assert (run / "notes.txt").read_text() == "mine"
    assert len((run / "summary.csv").read_text().splitlines()) == 2


def test_an_overwrite_that_is_refused_harms_nothing(
    made: Made, here: Path, distill: Distill
) -> None:
    run = here / "run"
    shutil.copytree(made.teacher, run)
    outcome = distill(
        "teacher", "train", "--data", "digits", "--out", run, "--overwrite", "--model", "nope"
    )
    assert outcome.code == 2
    assert (run / "result.json").exists()


def test_class_counts_differ(made: Made, here: Path, distill: Distill) -> None:
    pictures(here / "data")
    for teacher in (made.teacher, made.labels / "a"):
        outcome = distill("student", "--teachers", teacher, "--data", "data", "--out", "s", *TINY)
        assert outcome.code == 3
        line = one_line(outcome)
        assert "10 classes" in line
        assert "has 2" in line
    assert not (here / "s").exists()


def test_same_count_but_other_names(here: Path, distill: Distill) -> None:
    pictures(here / "one", ("cat", "dog"))
    pictures(here / "two", ("cat", "emu"))
    assert distill("teacher", "train", "--data", "one", "--out", "t", *TINY).code == 0
    outcome = distill("student", "--teachers", "t", "--data", "two", "--out", "s", *TINY)
    assert outcome.code == 3
    line = one_line(outcome)
    assert "'dog'" in line
    assert "'emu'" in line


def test_corrupt_image_is_named_and_can_be_skipped(here: Path, distill: Distill) -> None:
    data = pictures(here / "data")
    bad = data / "train" / "cat" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    outcome = distill("teacher", "train", "--data", "data", "--out", "t", *TINY)
    assert outcome.code == 3
    assert "cat/3.png" in one_line(outcome)
    assert not (here / "t").exists()
    skipped = distill(
        *("teacher", "train", "--data", "data", "--out", "t", "--skip-bad"),
        *("--model", "mlp_8x1", "--epochs", 1),
    )
    assert skipped.code == 0, skipped.err
    assert "skipped 1 image" in skipped.err


def test_cache_of_other_data(here: Path, distill: Distill) -> None:
    data = pictures(here / "data")
    assert distill("teacher", "train", "--data", "data", "--out", "t", *TINY).code == 0
    assert distill("cache-soft-labels", "--teachers", "t", "--out", "c", "--quiet").code == 0
    assert distill("student", "--teachers", "c", "--out", "s1", *TINY).code == 0
    extra = Image.fromarray(torch.zeros(12, 12, 3, dtype=torch.uint8).numpy())
    extra.save(data / "train" / "cat" / "99.png")
    outcome = distill("student", "--teachers", "c", "--out", "s2", *TINY)
    assert outcome.code == 3
    one_line(outcome)
    assert not (here / "s2").exists()


def test_augment_that_contradicts_the_cache_names_both(
    made: Made, here: Path, distill: Distill
) -> None:
    args = ("student", "--teachers", made.labels / "a", "--out", "s", *TINY)
    outcome = distill(*args, "--augment", "shift:2")
    assert outcome.code == 3
    line = one_line(outcome)
    assert "shift:2" in line
    assert "shift:1" in line
    assert distill(*args, "--augment", "shift:1").code == 0


def test_a_split_that_would_leak_is_refused(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill("student", "--teachers", made.teacher, "--out", "s", "--split-seed", 7, *TINY)
    assert outcome.code == 3
    assert "split_seed" in one_line(outcome)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_cache(made: Made, here: Path, distill: Distill, damage: str) -> None:
    shutil.copytree(made.labels / "a", here / "c")
    shard = sorted((here / "c" / "view-0001").iterdir())[0]
    content = bytearray(shard.read_bytes())
    if damage == "remove":
        shard.unlink()
    else:
        content[-5] ^= 64
        shard.write_bytes(content if damage == "flip" else content[:-40])
    outcome = distill(
        "student", "--teachers", "c", "--out", "s", "--model", "mlp_8x1", "--epochs", 2, "--quiet"
    )
    assert outcome.code == 3
    assert "view-0001/shard-00000" in one_line(outcome)


def test_a_pickle_offered_as_a_model_is_not_executed(
    made: Made, here: Path, distill: Distill
) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(here / "pwned"),)

    shutil.copytree(made.teacher, here / "t")
    (here / "t/model/model.safetensors").write_bytes(pickle.dumps(Payload()))
    outcome = distill("student", "--teachers", "t", "--out", "s", *TINY)
    assert outcome.code == 3
    one_line(outcome)
    shutil.copytree(made.teacher, here / "r")
    for name in ("checkpoint", "checkpoint-before"):
        (here / "r/last" / f"{name}.pt").write_bytes(pickle.dumps(Payload()))
    outcome = distill("teacher", "train", "--resume", "--out", here / "r")
    assert outcome.code == 3
    assert not (here / "pwned").exists()


def test_nan_in_a_teacher_is_refused_when_caching(made: Made, here: Path, distill: Distill) -> None:
    shutil.copytree(made.teacher, here / "t")
    path = here / "t/model/model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, path)
    outcome = distill("cache-soft-labels", "--teachers", "t", "--out", "c", "--quiet")
    assert outcome.code == 3
    assert not (here / "c" / "manifest.json").exists()


def test_divergence_keeps_the_best_and_the_checkpoint(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate explodes in the third epoch: what the second one left must stay."""
    from timm.scheduler import CosineLRScheduler

    plain = CosineLRScheduler.step_update
    steps = 20
    monkeypatch.setattr(
        CosineLRScheduler,
        "step_update",
        lambda self, step: self.update_groups(1e30) if step >= 2 * steps else plain(self, step),
    )
    args = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--quiet", "--out", "t")
    outcome = distill(*args, "--epochs", 4)
    assert outcome.code == 4
    assert "--lr" in one_line(outcome)
    rows = (here / "t/summary.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert not (here / "t/result.json").exists()
    for tensor in load_file(here / "t/model/model.safetensors").values():
        assert tensor.isfinite().all()
    monkeypatch.setattr(CosineLRScheduler, "step_update", plain)
    assert distill("teacher", "train", "--resume", "--out", "t", "--quiet").code == 0


def test_a_model_that_became_nan_in_the_last_step_is_no_best(here: Path, distill: Distill) -> None:
    outcome = distill(
        *("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--epochs", 1),
        *("--lr", 1e38, "-b", 100_000, "--out", "t", "--quiet"),
    )
    assert outcome.code == 4
    assert not (here / "t" / "model").exists()


def test_read_only_output(here: Path, distill: Distill) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (here / "locked").mkdir(mode=0o500)
    outcome = distill("teacher", "train", "--data", "digits", "--out", "locked/run", *TINY)
    assert outcome.code == 2


def test_a_file_where_the_folder_should_be(here: Path, distill: Distill) -> None:
    (here / "file").write_text("x")
    outcome = distill("teacher", "train", "--data", "digits", "--out", "file/run", *TINY)
    assert outcome.code == 2
    assert "file" in one_line(outcome)


def test_two_writers(made: Made, here: Path, distill: Distill, reliability: Reliability) -> None:
    from distill_cli.files import one_writer

    with one_writer(here / "t"):
        outcome = distill("teacher", "train", "--data", "digits", "--out", "t", *TINY)
    assert outcome.code == 2
    assert "another process" in one_line(outcome)
    reliability(
        *("Folders and paths", "another process writes into the same folder"),
        *("distill teacher train --data digits --out t", outcome),
    )


def test_labels_are_never_written_over_runs_or_one_another(
    made: Made, here: Path, distill: Distill
) -> None:
    for name, run in (("a", made.teacher), ("b", made.other)):
        shutil.copytree(run, here / "runs" / name)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    dump = ("cache-soft-labels", "--quiet", "--teachers")
    for out in ("runs", "runs/a"):
        outcome = distill(*dump, "runs/a,runs/b" if out == "runs" else "runs/b", "--out", out)
        assert outcome.code == 2
        assert "runs/a" in one_line(outcome)
    assert before == {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert distill(*dump, "runs/a", "--out", "one").code == 0
    assert distill(*dump, "runs/a,runs/b", "--out", "one").code == 2
    assert distill(*dump, "runs/a,runs/b", "--out", "two").code == 0
    assert distill(*dump, "runs/a", "--out", "two").code == 2
    outcome = distill("student", "--teachers", "runs/a", "--out", "one", "--overwrite", *TINY)
    assert outcome.code == 2
    assert "soft-label cache" in one_line(outcome)


def test_resume_does_not_replace_a_model_without_a_checkpoint(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.teacher / "model", here / "m" / "model")
    outcome = distill("teacher", "train", "--data", "digits", "--out", "m", "--resume", *TINY)
    assert outcome.code == 2
    assert "no checkpoint" in one_line(outcome)


def test_init_and_model_folders_cannot_leak_either(
    made: Made, here: Path, distill: Distill
) -> None:
    args = ("teacher", "train", "--data", "digits", "--val-fraction", 0.4, "--epochs", 1)
    assert distill(*args, "--init", made.teacher, "--out", "a").code == 3
    args = ("student", "--data", "digits", "--val-fraction", 0.4, "--out", "b", *TINY)
    assert distill(*args, "--teachers", made.teacher / "model").code == 3


def test_evaluation_rows_of_other_images_are_not_compared(here: Path, distill: Distill) -> None:
    data = pictures(here / "data")
    assert distill("teacher", "train", "--data", "data", "--out", "t", *TINY).code == 0
    assert distill("cache-soft-labels", "--teachers", "t", "--out", "c", "--quiet").code == 0
    (data / "test/cat/0.png").unlink()
    assert distill("student", "--teachers", "c", "--out", "s", *TINY).code == 0
    assert json.loads((here / "s/result.json").read_text())["teacher_agreement"] is None
    os.truncate(here / "c/eval.safetensors", 90)
    assert distill("student", "--teachers", "c", "--out", "s2", *TINY).code == 3
    assert not (here / "s2").exists()


# Faults that need a process of their own.


# What a shell starts knows nothing of DISTILL_TEST_PRECISION.
LONG = (
    *("teacher", "train", "--data", "digits", "--model", "mlp_64x2", "--precision", "fp32"),
    *("--dropout", 0.2, "--epochs", 40),
)


LATE = slowed("distill_cli.training.loop", "Trainer._end_epoch", seconds=10, at=20)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    outcome = invoke(*LONG, "--out", out, "--quiet")
    assert outcome.code == 0, outcome.err
    return out


def lines(path: Path) -> int:
    """How many a file has, if there is one."""
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize(
    ("begin", "number", "code"),
    [
        pytest.param(from_shell, signal.SIGKILL, -9, marks=pytest.mark.slow),
        pytest.param(from_shell, signal.SIGINT, 130, marks=pytest.mark.slow),
        (start, signal.SIGTERM, 143),
    ],
)
def test_stopped_and_resumed_to_the_same_bits(
    unbroken: Path,
    here: Path,
    distill: Distill,
    begin: Callable[..., Process],
    number: int,
    code: int,
) -> None:
    # Where this process gets no turn for a while, that one waits for it; a shell's own cannot.
    options = {"before": LATE} if begin is start else {}
    process = begin(*LONG, "--out", here / "run", "--quiet", **options)
    process.until(lambda: lines(here / "run" / "summary.csv") > 4, "the fourth epoch")
    process.send(number)
    ended = process.end()
    err = ended.err.decode()
    assert ended.code == code, err
    assert "Traceback" not in err
    assert not (here / "run" / "result.json").exists()
    if code > 0:
        assert "--resume" in err
    outcome = distill("teacher", "train", "--resume", "--out", here / "run", "--quiet")
    assert outcome.code == 0, outcome.err
    one, two = (load_file(run / "model/model.safetensors") for run in (unbroken, here / "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    epochs = [line.split(",")[0] for line in (here / "run/summary.csv").read_text().splitlines()]
    assert epochs == ["epoch", *(str(epoch) for epoch in range(1, 41))]
    figures = [json.loads((run / "result.json").read_text()) for run in (unbroken, here / "run")]
    for key in ("test_errors", "test_nll", "best_epoch", "val_top1"):
        assert figures[0][key] == figures[1][key]


def test_resume_under_another_recipe_is_refused_and_harms_nothing(
    made: Made, here: Path, distill: Distill
) -> None:
    run = here / "run"
    shutil.copytree(made.teacher, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = distill("teacher", "train", "--resume", "--out", run, "--lr", 0.01, "--quiet")
    assert outcome.code == 3
    assert "another recipe" in one_line(outcome)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert distill("teacher", "train", "--resume", "--out", run, "--quiet").code == 0


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--ema", 0.9, "--accumulate", 3, "--augment", "shift,mixup,cutmix", "--sched", "tanh"),
        ("--augment", "rotate,trivialaugment", "-j", 2, "--set", "clip_grad=1", "--opt", "adamw"),
        ("--precision", "bf16"),
        ("--precision", "fp16"),
    ],
    ids=["plain", "averaged", "workers", "bf16", "fp16"],
)
def test_stopped_in_mid_epoch_and_resumed_to_the_same_bits(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, more: tuple[object, ...]
) -> None:
    from distill_cli import stopping

    args = ("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--dropout", 0.3)
    args = (*args, *more, "--epochs", 3, "-b", 128, "--quiet", "--out")
    assert distill(*args, "whole").code == 0
    plain = stopping.StopRequest

    class AfterSteps(plain):
        """Asks to stop when it has been looked at often enough: in the second epoch."""

        looks = 0

        @property
        def signal_number(self) -> int | None:
            self.looks += 1
            return signal.SIGTERM if self.looks > 15 else None

        @signal_number.setter
        def signal_number(self, value: int | None) -> None:
            pass

    monkeypatch.setattr(stopping, "StopRequest", AfterSteps)
    assert distill(*args, "run").code == 143
    state = torch.load(here / "run/last/checkpoint.pt", weights_only=True)["state"]
    assert state["epoch"] == 1
    assert 0 < state["step"] < 10
    monkeypatch.setattr(stopping, "StopRequest", plain)
    assert distill("teacher", "train", "--resume", "--out", "run", "--quiet").code == 0
    one, two = (load_file(here / run / "model/model.safetensors") for run in ("whole", "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    columns = [
        [row.split(",")[:8] for row in (here / run / "summary.csv").read_text().splitlines()]
        for run in ("whole", "run")
    ]
    assert columns[0] == columns[1]


def test_a_full_disk_leaves_the_previous_save_intact(here: Path, distill: Distill) -> None:
    """Checkpoints fit, the growing log at last does not."""
    args = ("teacher", "train", "--data", "digits", "--model", "mlp_8x1", "--quiet")
    assert distill(*args, "--epochs", 1, "--out", here / "one").code == 0
    limit = (here / "one" / "last" / "checkpoint.pt").stat().st_size + 1000
    ended = start(*args, "--epochs", 100, "--out", here / "run", limit=limit).end()
    assert ended.code == 1, ended.err
    assert b"disk full" in ended.err
    rows = len((here / "run/summary.csv").read_text().splitlines())
    assert 2 < rows < 100
    outcome = distill("teacher", "train", "--resume", "--out", here / "run", "--quiet")
    assert outcome.code == 0, outcome.err
    assert len((here / "run/summary.csv").read_text().splitlines()) == 101


@pytest.mark.parametrize("limit", [1_000_000, 4_000_000], ids=["model", "checkpoint"])
def test_disk_full(here: Path, limit: int) -> None:
    ended = start(
        *("teacher", "train", "--data", "digits", "--model", "mlp_800x2", "--epochs", 1),
        *("--out", here / "run", "--quiet"),
        limit=limit,
    ).end()
    assert ended.code == 1, ended.err
    assert b"disk full" in ended.err
    assert b"Traceback" not in ended.err


# Each after those above it, in one process: the first four do without torch.
COMMANDS = {
    "compare": ("compare", "{teacher}", "{student}"),
    "runs": ("runs", "{teacher}"),
    "cache": ("cache", "info", "{labels}"),
    "help": ("student", "--help"),
    "recipes": ("recipes", "validate", "digits/student-random"),
    "methods": ("methods",),
    "method": ("methods", "show", "dkd"),
}


@pytest.fixture(scope="module")
def imported(made: Made) -> dict[str, set[str]]:
    """The modules that a process has imported after each command."""
    calls = {
        name: [arg.format(**vars(made)) for arg in command] for name, command in COMMANDS.items()
    }
    code = (
        "import sys\nfrom distill_cli.cli.app import app\n"
        f"for name, args in {calls!r}.items():\n"
        "    try: app(args)\n"
        "    except SystemExit as stop: assert not stop.code, name\n"
        "    print('imported', name, *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = (line.split() for line in done.stderr.splitlines() if line.startswith("imported "))
    return {name: set(modules) for _, name, *modules in said}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_runs_no_network_imports_neither_timm_nor_torchvision(
    imported: dict[str, set[str]], command: str
) -> None:
    assert not imported[command] & {"timm", "torchvision"}
    if command in ("compare", "runs", "cache", "help"):
        assert "torch" not in imported[command]
    else:
        assert "torch" in imported["methods"], "the table of objectives imports torch"


@pytest.mark.parametrize("stream", ["out", "err"])
def test_output_piped_into_head(here: Path, stream: str) -> None:
    """The reader of one stream takes a byte and goes."""
    reader, writer = os.pipe()
    process = start(
        *("teacher", "train", "--data", "digits", "--model", "mlp_8x1"),
        *("--epochs", 2, "--out", "run"),
        before=lambda: os.close(reader),
        **{stream: writer},
    )
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    ended = process.end()
    assert ended.code == 0, ended.err
    assert b"Traceback" not in ended.out + ended.err
    assert (here / "run" / "result.json").exists()
