from __future__ import annotations

from pathlib import Path

from distill_cli.recipe.reference import reference

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_schema_says() -> None:
    assert (ROOT / "docs" / "options.md").read_text() == reference(), (
        "run: python -m distill_cli.recipe.reference > docs/options.md"
    )
