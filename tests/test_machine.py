"""The machine that the tests mean: `conftest` settles it, and not what stands in this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_cli import runtime
from tests.conftest import PRECISION, ROUNDED, Made, on_host


@on_host
def test_auto_is_the_cpu_and_the_precision_that_was_asked_for() -> None:
    here = runtime.decide("auto", precision="auto")
    assert here.device.type == "cpu"
    assert here.precision == (PRECISION or runtime.best_precision(here.device))


def test_runs_made_for_all_tests_are_in_that_precision(made: Made) -> None:
    expected = PRECISION or runtime.best_precision(runtime.decide("cpu").device)
    assert f"precision: {expected}\n" in (made.teacher / "recipe.yaml").read_text()


@pytest.mark.parametrize("entry", ROUNDED)
def test_what_is_run_twice_exists(entry: str, request: pytest.FixtureRequest) -> None:
    assert (Path(__file__).parent / entry).exists()
    assert "rounding" not in request.keywords, "this file compares no figures"
