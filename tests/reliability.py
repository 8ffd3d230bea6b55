"""docs/reliability.md: what faults lead to, as the tests that inject them see it.

A test hands what it saw to the fixture `reliability`, which compares it with the test's row of the
page. `pytest --reliability FOLDER` keeps what tests see as files in that folder instead, and
`python -m tests.reliability FOLDER` makes the page of them:

    python -m pytest --reliability rows && python -m tests.reliability rows > docs/reliability.md
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
# The page's sections, in its order.
SECTIONS = (
    "Usage and recipes",
    "Folders and paths",
    "Data",
    "Models and checkpoints",
    "Caches",
    "Kills, disks and streams",
    "Many ranks",
)
HEAD = """\
# Reliability

What faults lead to: each row is a test that injects the fault for real, through the command line, and
compares what it sees with the row. The page is made by them (`tests/reliability.py`). Nothing that was
saved before a fault is lost by it, and no traceback reaches a person; the exit codes are in
[README](../README.md#in-scripts).
"""
TABLE = """\
| fault | command | exit code | message | test |
|---|---|---|---|---|
"""


class Ended(Protocol):
    """How a command ended."""

    @property
    def code(self) -> int: ...
    @property
    def err(self) -> str: ...


@dataclass(frozen=True)
class Row:
    """One row of the page; `message` is the line that says the error, or what stands in its place."""

    section: str
    fault: str
    command: str
    code: int
    message: str
    test: str

    def line(self) -> str:
        """The row in Markdown."""
        text = self.message.replace("|", "\\|").replace("`", "'")
        return (
            f"| {self.fault} | `{self.command}` | {self.code} | {f'`{text}`' if text else ''} "
            f"| {self.test} |"
        )


@dataclass(frozen=True)
class Reliability:
    """What a test calls with the fault and how the command ended."""

    test: str
    folders: tuple[Path, ...]
    out: Path | None

    def __call__(
        self, section: str, fault: str, command: str, outcome: Ended, *, message: str | None = None
    ) -> None:
        """Compares one row with the page, or keeps it.

        Args:
            section: One of `SECTIONS`.
            fault: What was injected, as a noun phrase in Markdown.
            command: The command as a person types it, `distill …`, shortened to what matters.
            outcome: How it ended.
            message: What a person reads, where that is no `error: ` line.
        """
        assert section in SECTIONS, section
        if message is None:
            errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
            message = errors[-1] if errors else ""
        for folder in self.folders:
            message = message.replace(f"{folder}/", "").replace(str(folder), ".")
        # A figure of a network may be another on another processor.
        message = re.sub(r"\d+\.\d+ %", "… %", message)
        row = Row(section, fault, command, outcome.code, message, self.test)
        if self.out is None:
            page = PAGE.read_text(encoding="utf-8")
            assert row.line() in page, f"docs/reliability.md has another row: {row.line()}"
            return
        self.out.mkdir(parents=True, exist_ok=True)
        name = blake2b(f"{fault}\n{command}".encode(), digest_size=8).hexdigest()
        text = json.dumps(asdict(row), ensure_ascii=False)
        (self.out / f"{name}.json").write_text(text, encoding="utf-8")


def page(rows: list[Row]) -> str:
    """The page with these rows, those of a section in the order of their faults."""
    text = HEAD
    for section in SECTIONS:
        lines = sorted({row.line() for row in rows if row.section == section})
        if lines:
            text += f"\n## {section}\n\n{TABLE}" + "\n".join(lines) + "\n"
    return text


def named_tests(text: str) -> set[str]:
    """The tests that the page's rows name, as `file.py::test`."""
    return set(re.findall(r"\| (\S+\.py::\w+) \|$", text, re.MULTILINE))


def main(folder: str) -> None:
    """Prints the page made of the rows in a folder."""
    rows = [Row(**json.loads(path.read_text("utf-8"))) for path in Path(folder).glob("*.json")]
    print(page(rows), end="")


if __name__ == "__main__":
    main(sys.argv[1])
