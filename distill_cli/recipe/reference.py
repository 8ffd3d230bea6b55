"""The reference page of every option, made from the schema: `python -m distill_cli.recipe.reference`."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from distill_cli.recipe.base import Recipe
from distill_cli.recipe.fields import PANELS
from distill_cli.recipe.schema import RECIPES

HEAD = """# Options

Made from the recipe schema by `python -m distill_cli.recipe.reference > docs/options.md`.

Every option is a flag (`--batch-size 64`), a recipe key (`batch_size: 64`), a `--set` path
(`--set batch_size=64`) and an environment variable (`DISTILL_BATCH_SIZE=64`). A flag wins over
`--set`, that over the environment, that over the recipe, that over the default; a line says which
values come from the environment. A list is written with commas, or by its flag again: `--teachers a,b`,
`--teachers a --teachers b`. Of a flag of one value that is given again the last counts, and a line says
so. Options marked · are listed by `--help-all` only.
"""


def reference() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for command, schema in RECIPES.items():
        parts.append(f"## `distill {command}`\n")
        for panel in PANELS:
            rows = _rows(schema, panel)
            if rows:
                parts.append(f"### {panel}\n\n| key | default | what it does |\n|---|---|---|")
                parts[-1] += "".join(f"\n{row}" for row in rows) + "\n"
    return "\n".join(parts)


def help_of(field: FieldInfo) -> str:
    """A field's description, with its choices where it does not name them itself; no full stop."""
    text = (field.description or "").rstrip(".")
    for part in (field.annotation, *get_args(field.annotation)):
        if get_origin(part) is Literal and not all(str(c) in text for c in get_args(part)):
            text = f"{', '.join(str(choice) for choice in get_args(part))}: {text}"
    return text


def default_of(field: FieldInfo) -> str:
    """A field's default as text; empty where it is off, empty or computed."""
    empty = field.default is None or field.default is False or field.default in ([], {})
    return "" if empty else str(field.default)


def _rows(schema: type[Recipe], panel: str) -> list[str]:
    rows = []
    for name, field in schema.model_fields.items():
        extra: Any = field.json_schema_extra
        if not isinstance(extra, dict) or extra.get("panel") != panel:
            continue
        default = default_of(field)
        mark = " ·" if extra["advanced"] else ""
        short = "".join(f", `{flag}`" for flag in extra["flags"])
        text = f"{help_of(field)}.".replace("|", "\\|")
        rows.append(f"| `{name}`{short}{mark} | {default} | {text} |")
    return rows


if __name__ == "__main__":
    print(reference(), end="")
