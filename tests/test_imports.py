"""Who may import whom: strictly from the left. Read from the source, function bodies included."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "distill_cli"

# Rooms from left to right; a room may import rooms of lower rank only.
RANKS = [
    {"errors", "types", "counters"},
    {"files"},
    {"recipe", "losses", "runtime", "metrics"},
    {"adapters", "data", "models", "cache"},
    {"evaluate"},
    {"teachers", "objectives"},
    {"training"},
    {"report"},
    {"pipeline"},
    {"cli"},
    {"__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
# Rooms that may import less than their place allows.
ONLY = {
    "objectives": {"losses", "adapters", "counters", "types", "errors"},
    "report": {"errors", "types", "files"},
    "losses": {"types", "errors"},
    "adapters": {"losses", "types", "errors"},
    "models": {"errors", "types", "counters", "files", "losses"},
    "data": {"errors", "types", "counters", "files"},
    "cache": {"counters", "errors", "types", "files", "metrics"},
}
# errors < types < counters stand in one row of the house; so do these that lean on errors.
WITHIN = {("files", "errors")}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "distill_cli":
            found |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distill_cli."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("distill_cli.")
            }
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_the_left(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} has no place in the house: give it one in RANKS"
    for other in imported(path) - {room}:
        assert RANK[other] < RANK[room], f"{path.name} ({room}) imports {other}"
        if room in ONLY:
            assert other in ONLY[room], f"{room} may import {sorted(ONLY[room])} only, not {other}"


def test_training_names_no_method() -> None:
    for path in (PACKAGE / "training").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and "objectives" in (node.module or ""):
                assert node.module in (
                    "distill_cli.objectives.hooks",
                    "distill_cli.objectives.base",
                    "distill_cli.objectives.compose",
                )


def test_only_the_loop_steps_and_goes_backward() -> None:
    for path in FILES:
        if path.name == "loop.py":
            continue
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        if path.name != "check.py":  # the doctor tries a backward pass on each device
            assert "backward" not in calls, path
        assert "optimizer.step" not in path.read_text(), path


def test_links_are_followed_in_one_way() -> None:
    """`Path.resolve` raises on a link to itself before Python 3.13 only: `files.real_path`."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr != "resolve", f"{path}:{node.lineno}"


def test_house_rules_of_size() -> None:
    assert (PACKAGE / "training" / "loop.py").read_text().count("\n") <= 150
    for path in FILES:
        assert path.read_text().count("\n") <= 300, f"{path} has more than 300 lines"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno <= 80, f"{path}: {node.name}"


def modules_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name.split(".")[0] for name in out.split()}


def test_torch_free_rooms() -> None:
    modules = [
        "distill_cli.errors",
        "distill_cli.recipe.load",
        "distill_cli.recipe.catalog",
        "distill_cli.report.table",
        "distill_cli.report.verdict",
        "distill_cli.report.model_card",
        "distill_cli.cache.manifest",
        "distill_cli.pipeline.folders",
        *(
            f"distill_cli.cli.{path.stem}"
            for path in (PACKAGE / "cli").glob("*.py")
            if path.stem != "__init__"
        ),
    ]
    loaded = modules_after("\n".join(f"import {name}" for name in modules))
    assert not loaded & {"torch", "timm", "torchvision", "sklearn", "matplotlib", "numpy"}
