"""What all tests share: the machine they mean, the command line in process, small runs made once.

The tests mean the CPU, in the precision that `--precision auto` takes on this one.
`DISTILL_TEST_PRECISION=bf16` (or fp32) runs them as on a CPU with bf16 instructions (or without);
a test whose bounds are for one precision names that precision itself. `DISTILL_TEST_DEVICE=cuda` has
`--device auto` mean a GPU, which most tests must pass on too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

# Before torch is imported: several processes test side by side, and threads that wait in a loop for
# each other's turn would take their processors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from typer.testing import CliRunner

from tests.reliability import Reliability

# Shared machines are slow at times; a deadline would test the machine.
settings.register_profile("distill", deadline=None, max_examples=50)
settings.load_profile("distill")


PRECISION = os.environ.get("DISTILL_TEST_PRECISION")
DEVICE = os.environ.get("DISTILL_TEST_DEVICE", "cpu")
# Of tests that count, stop or spoil the steps that the host takes: a GPU takes its own, which
# training/test_graphs.py looks at.
on_host = pytest.mark.skipif(DEVICE != "cpu", reason="it looks at the steps that the host takes")
# Folders and files of tests that compare figures which the rounding of a processor moves: sums
# beside oracles, and what a few steps of training lead to. They are run twice, see the Makefile.
ROUNDED = (
    *("losses", "adapters", "objectives", "teachers", "training", "test_metrics.py"),
    *("data/test_augment.py", "data/test_views.py", "recipe/test_stages.py"),
    *("pipeline/run/test_resume.py", "pipeline/labels/test_cached_equals_live.py"),
    *("pipeline/inputs/test_class_maps.py", "pipeline/objective/test_build.py"),
    *("pipeline/objective/test_class_info.py", "models/test_quantisers.py", "test_doubt.py"),
    *("cli/test_d2l.py", "cli/test_dropmax.py", "cli/test_hints.py", "cli/test_modes.py"),
    *("cli/test_regularisation.py", "cli/test_sigmoid.py", "cli/test_structure.py"),
)
# Not those runs of the whole product, by parts of their tests' names, that compare texts, are refused,
# or compare a run with the same run: stopped and resumed it is computed by the same kernels.
UNROUNDED = (
    *("refus", "resume", "same_bits", "cannot_be", "contradict", "malformed", "does_not_fit"),
    *("reports", "dry_run", "overwrit", "not_written_over", "found_again", "group", "never_one"),
    *("any_architecture_learns", "of_other_sizes", "every_stage_of_a_chain", "notes_all_values"),
    *("evaluated_and_shown", "shows_every_copy", "killed_while"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", metavar="FOLDER", help="keep the rows of docs/reliability.md")


def pytest_configure() -> None:
    """Refuses a precision that `auto` never takes on a CPU: the tests would silently run in fp32."""
    if PRECISION not in (None, "fp32", "bf16"):
        raise pytest.UsageError(f"DISTILL_TEST_PRECISION is fp32 or bf16, not {PRECISION!r}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what stands in `ROUNDED`, and not in `UNROUNDED`."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent)
        whole = path.parts[0] in ("cli", "pipeline", "recipe")
        if whole and any(part in item.name for part in UNROUNDED):
            continue
        if any(path.is_relative_to(entry) for entry in ROUNDED):
            item.add_marker("rounding")


@pytest.fixture(autouse=True, scope="session")
def _machine() -> Iterator[None]:
    """Has `--device auto` mean the CPU, and `--precision auto` what the variable asks for."""
    import torch

    from distill_cli import runtime

    found = runtime.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DISTILL_TEST_DEVICE", raising=False)
        if DEVICE == "cpu":
            patch.setattr(runtime, "devices", lambda: ["cpu", *found[:-1]])
        if PRECISION is not None:
            # To distill it would be an option that there is not.
            patch.delenv("DISTILL_TEST_PRECISION")
            told = {"avx512_bf16": PRECISION == "bf16"}
            patch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _digits() -> Iterator[None]:
    """Has scikit-learn's digits read once: a small run would spend half of its time on that."""
    from distill_cli.data import open_splits, reading

    open_digits, plain = cache(open_splits._digits), reading.decode
    known: dict[tuple[object, object], Any] = {}

    def decode(splits: Any, *, progress: Callable[[int, int], None], **options: Any) -> Any:
        if not open_digits.cache_info().currsize or splits is not open_digits():
            return plain(splits, **options, progress=progress)
        key = tuple(options.values())
        if key in known:
            total = sum(len(source) for source in splits.values())
            for done in range(1, total + 1):
                progress(done, total)
        else:
            known[key] = plain(splits, **options, progress=progress)
        # A copy, so that no run is given what another may have changed.
        return deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_splits, "_digits", open_digits)
        patch.setattr(reading, "decode", decode)
        yield


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def invoke(*args: object) -> Outcome:
    """The command line, in process: exit code, stdout, stderr."""
    from distill_cli.cli.app import app

    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="distill")
    return Outcome(result.exit_code, result.stdout, result.stderr)


def tree(*roots: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Everything below some folders: when it was changed, its mode and its content."""
    found = {}
    for root in roots:
        for path in [root, *root.rglob("*")] if root.exists() else ():
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[path] = (status.st_mtime_ns, status.st_mode, content)
    return found


@pytest.fixture(autouse=True)
def _clean_environment(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for name in [name for name in os.environ if name.startswith("DISTILL_")]:
        if name != "DISTILL_DATA":
            monkeypatch.delenv(name)
    if DEVICE == "cpu" and request.node.get_closest_marker("gpu") is None:
        # The processes that a test starts mean the CPU too.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # An error that is not ours should fail a test with its traceback, not as "internal error".
    monkeypatch.setenv("DISTILL_DEBUG", "1")
    # What tests read is not remembered in the user's own cache.
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


# Classes whose attributes are what a process knows of itself and of other ranks; a command is a process.
OF_A_PROCESS = (
    *(("distill_cli.meeting.store", "_Meeting"), ("distill_cli.launched", "_Before")),
    ("distill_cli.files.hand", "_Hand"),
)


@pytest.fixture(autouse=True)
def _process_of_its_own() -> Iterator[None]:
    """Has a test's commands, and its forked children, know nothing of the ranks of a test before."""
    known = [getattr(import_module(module), name) for module, name in OF_A_PROCESS]
    before = [dict(vars(one)) for one in known]
    yield
    for one, values in zip(known, before, strict=True):
        for name, value in values.items():
            if not name.startswith("__"):
                setattr(one, name, value)


@pytest.fixture
def distill() -> Callable[..., Outcome]:
    """Calls the command line and checks that no traceback reaches a person."""

    def call(*args: object) -> Outcome:
        outcome = invoke(*args)
        assert "Traceback" not in outcome.err, outcome.err
        return outcome

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def reliability(request: pytest.FixtureRequest, tmp_path: Path) -> Reliability:
    """Compares what a test sees of a fault with docs/reliability.md, see `tests/reliability.py`."""
    name = request.node.originalname
    path = request.path.relative_to(Path(__file__).parent)
    out = request.config.getoption("--reliability")
    out = out and request.config.invocation_params.dir / out
    return Reliability(f"{path}::{name}", (tmp_path,), out)


@dataclass(frozen=True)
class Made:
    """Small finished artefacts on the digits, made once for all tests; never written again."""

    teacher: Path
    other: Path
    labels: Path
    student: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    common = ("--quiet", "--augment", "shift:1", "--epochs", 3, "-b", 16, "--lr", 0.1)
    for name, model, seed in (("a", "mlp_32x1", 0), ("b", "mlp_24x2", 1)):
        outcome = invoke(
            *("teacher", "train", "--data", "digits", "--model", model),
            *("--seed", seed, "--out", root / name, *common),
        )
        assert outcome.code == 0, outcome.err
    outcome = invoke(
        *("cache-soft-labels", "--teachers", f"{root / 'a'},{root / 'b'}", "--views", 2),
        *("--augment", "shift:1", "--shard-length", 600, "--out", root / "labels", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    outcome = invoke(
        *("student", "--teachers", root / "a", "--model", "mlp_8x1"),
        *("--out", root / "student", *common),
    )
    assert outcome.code == 0, outcome.err
    return Made(root / "a", root / "b", root / "labels", root / "student")
