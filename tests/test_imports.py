"""Who may import whom, as docs/architecture.md says. Read from the source, function bodies included."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "distill_cli"
PAGE = ROOT / "docs" / "architecture.md"
# Its rooms stand in the table one by one.
HALL = "pipeline"


@dataclass(frozen=True, kw_only=True)
class Room:
    """A row of the table.

    Attributes:
        rank: Rooms of lower rank may be imported.
        only: None where every one of them may be.
        but: Those of lower rank that may not be.
    """

    rank: int
    only: frozenset[str] | None = None
    but: frozenset[str] = frozenset()


def read_rooms(page: str) -> dict[str, Room]:
    """The table of rooms in a page of Markdown."""
    rooms = {}
    for rank, name, allowed in re.findall(r"^\| (\d+) \| `([\w.]+)` \| .+ \| (.+) \|$", page, re.M):
        named = frozenset(re.findall(r"`([\w.]+)`", allowed))
        words = re.sub(r"`[\w.]+`(, )?", "", allowed).strip()
        assert name not in rooms, f"{name} stands in the table twice"
        if words == "every lower rank but" and named:
            rooms[name] = Room(rank=int(rank), but=named)
        elif words == "only" and named:
            rooms[name] = Room(rank=int(rank), only=named)
        else:
            assert words in ("every lower rank", "nothing"), (
                f"{name}: '{allowed}' is not understood"
            )
            rooms[name] = Room(rank=int(rank), only=None if words != "nothing" else frozenset())
    return rooms


ROOMS = read_rooms(PAGE.read_text(encoding="utf-8"))
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE
)


def room_of(module: str) -> str | None:
    """The room of a module or of a name in it, both without `distill_cli.`; None: in none."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in ROOMS), None)


def module_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE).with_suffix("")
    return ".".join(part for part in relative.parts if part != "__init__")


def imported(source: str) -> set[str]:
    """What of the package a source imports, without `distill_cli.`; a name behind its module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    inside = {
        name.removeprefix("distill_cli.") for name in names if name.startswith("distill_cli.")
    }
    return inside - {"__version__"}


def forbidden_imports(source: str, path: Path) -> list[str]:
    """The imports of a source that the table forbids to the file at `path`, in words."""
    name = room_of(module_of(path))
    faults = []
    for module in sorted(imported(source)):
        other = room_of(module)
        if name is None or other is None:
            faults.append(f"{name or module_of(path)} imports {module}: one of them is in no room")
        elif other != name:
            room, target = ROOMS[name], ROOMS[other]
            allowed = room.only is None or other in room.only
            if target.rank >= room.rank or other in room.but or not allowed:
                faults.append(f"{name} may not import {module}")
    return faults


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_the_left(path: Path) -> None:
    assert forbidden_imports(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("losses/kd.py", "from distill_cli.models import Network"),
        ("losses/kd.py", "import distill_cli.metrics"),
        ("objectives/kd.py", "def f():\n    from distill_cli.data.loader import Loader"),
        ("report/table.py", "from distill_cli import runtime"),
        ("training/loop.py", "from distill_cli.cli.terminal import say"),
        ("pipeline/folders.py", "from distill_cli.pipeline.inputs.data import locate"),
        ("pipeline/inputs/data.py", "from distill_cli.pipeline.objective import order"),
        ("pipeline/objective/order.py", "from distill_cli.pipeline.run.train import train"),
        ("pipeline/labels/dump.py", "from distill_cli.pipeline.objective.build import composition"),
        ("pipeline/labels/dump.py", "from distill_cli.pipeline.run.train import train"),
        ("pipeline/run/train.py", "from distill_cli.pipeline.labels.dump import dump"),
        ("pipeline/predict.py", "from distill_cli.pipeline.evaluate import evaluate"),
        ("pipeline/__init__.py", "from distill_cli.pipeline.folders import next_free"),
        ("newcomer.py", "from distill_cli.errors import DistillError"),
        ("data/loader.py", "from distill_cli.newcomer import anything"),
    ],
)
def test_a_planted_import_is_found(file: str, source: str) -> None:
    assert len(forbidden_imports(source, PACKAGE / file)) == 1


def test_allowed_imports_are_no_fault() -> None:
    source = "from distill_cli.pipeline.objective.order import order_of\nimport torch"
    assert forbidden_imports(source, PACKAGE / "pipeline" / "run" / "train.py") == []
    assert forbidden_imports(source, PACKAGE / "pipeline" / "objective" / "build.py") == []
    assert (
        forbidden_imports("from distill_cli import __version__", PACKAGE / "cli" / "app.py") == []
    )


def test_the_page_lists_the_rooms_that_there_are() -> None:
    def children(folder: Path) -> set[str]:
        names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        return names | {path.parent.name for path in folder.glob("*/__init__.py")}

    there = children(PACKAGE) - {HALL} | {f"{HALL}.{name}" for name in children(PACKAGE / HALL)}
    assert set(ROOMS) == there
    assert all((room.only or set()) | room.but <= there for room in ROOMS.values())


def test_the_table_allows_no_room_what_its_rank_forbids() -> None:
    for name, room in ROOMS.items():
        for other in (room.only or set()) | room.but:
            assert ROOMS[other].rank < room.rank, f"{name}: {other} is of no lower rank"


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
        # The loop, and the one step that it takes.
        if path.parent.name == "training" and path.name in ("loop.py", "update.py"):
            continue
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        if path.name != "doctor.py":  # it tries a backward pass on each device
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


def documented(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """The parameters, or a dataclass's fields, that its docstring describes."""
    heading = "Args" if isinstance(node, ast.FunctionDef) else "Attributes"
    docstring = ast.get_docstring(node) or ""
    section = re.search(rf"^{heading}:\n((?:    .*\n?|\n)+)", docstring, re.M)
    return set(re.findall(r"^    (\w+):", section[1], re.M)) if section else set()


def test_docstrings_describe_what_is_there() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                there = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
            elif isinstance(node, ast.ClassDef) and any(
                "dataclass" in ast.unparse(each) for each in node.decorator_list
            ):
                fields = (each for each in node.body if isinstance(each, ast.AnnAssign))
                there = {ast.unparse(field.target) for field in fields}
            else:
                continue
            assert documented(node) <= there, f"{path}: {node.name}"


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
        "distill_cli.pipeline.kept",
        "distill_cli.pipeline.folders",
        *(
            f"distill_cli.cli.{path.stem}"
            for path in (PACKAGE / "cli").glob("*.py")
            if path.stem != "__init__"
        ),
    ]
    loaded = modules_after("\n".join(f"import {name}" for name in modules))
    assert not loaded & {"torch", "timm", "torchvision", "sklearn", "matplotlib", "numpy"}
