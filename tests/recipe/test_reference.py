from __future__ import annotations

from pathlib import Path

from distill_cli.recipe.peer_options import PEER
from distill_cli.recipe.reference import reference
from distill_cli.recipe.schema import StudentRecipe

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_schema_says() -> None:
    assert (ROOT / "docs" / "options.md").read_text() == reference(), (
        "run: python -m distill_cli.recipe.reference > docs/options.md"
    )


def test_every_kind_of_teacher_is_named() -> None:
    """A reader of --help finds the teachers that are no folder."""
    text = str(StudentRecipe.model_fields["teachers"].description)
    for kind in ("timm/NAME", "self", "ema", f"{PEER}MODEL"):
        assert kind in text
