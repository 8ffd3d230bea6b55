"""What is typed on a first day: bare groups, -h, runs that are gone, files that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_cli.cli.app import VERBS
from tests.conftest import Outcome

Distill = Callable[..., Outcome]
GROUPS = ("teacher", "recipes", "cache", "models")


@pytest.mark.parametrize("args", [(), *((group,) for group in GROUPS)])
def test_a_bare_group_shows_its_help_alone(distill: Distill, args: tuple[str, ...]) -> None:
    """It ended with a traceback of ours behind the help."""
    outcome = distill(*args)
    assert outcome.code == 2
    assert "Usage: " in outcome.out + outcome.err
    assert "error" not in outcome.err.lower()


@pytest.mark.parametrize(
    "args", [(), *((verb,) for verb in VERBS), ("teacher", "train"), ("cache", "import")]
)
def test_h_is_help(distill: Distill, args: tuple[str, ...]) -> None:
    short, long = distill(*args, "-h"), distill(*args, "--help")
    assert short.code == 0, short.err
    assert short == long
    assert "Usage: " in short.out


def test_help_is_an_option(distill: Distill) -> None:
    outcome = distill("help")
    assert outcome.code == 2
    assert "`distill --help`" in outcome.err
