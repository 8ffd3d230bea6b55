"""What stands beside the code: licence, citation, constraints and pyproject agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

from distill_cli import __version__

ROOT = Path(__file__).parents[1]


def test_licence_and_citation_are_those_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.startswith("MIT License")
    assert project["license"] == citation["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert all({"name"} == set(author) for author in citation["authors"])


def test_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    heading = next(line for line in text.splitlines() if line.startswith("## "))
    assert heading == f"## {__version__}"
