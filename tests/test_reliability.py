"""The page of faults: made by tests that exist."""

from __future__ import annotations

from tests.reliability import PAGE, ROOT, SECTIONS, named_tests


def test_every_row_names_a_test_that_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| fault |" not in line]
    tests = named_tests(text)
    assert rows
    assert all(any(line.endswith(f"| {test} |") for test in tests) for line in rows)
    for test in tests:
        path, name = test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), test


def test_sections_stand_in_their_order() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == [section for section in SECTIONS if section in headings]
