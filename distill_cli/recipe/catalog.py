"""The recipes that come with distill."""

from __future__ import annotations

from pathlib import Path

from distill_cli.errors import UsageError, nearest

PACKAGE = Path(__file__).parent.parent
# Inside an installed wheel, or beside the package in a checkout.
PLACES = (PACKAGE / "_recipes", PACKAGE.parent / "recipes")


def root() -> Path:
    """The folder of the shipped recipes."""
    return next((folder for folder in PLACES if folder.is_dir()), PLACES[0])


def names() -> list[str]:
    """Recipes as `dataset/name`, sorted."""
    folder = root()
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def find(name: str) -> Path:
    """A shipped recipe by name, or any file by path.

    Raises:
        UsageError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = root() / f"{name.removesuffix('.yaml')}.yaml"
    if name.removesuffix(".yaml") in names():
        return shipped
    raise UsageError(f"there is no recipe '{name}'. {nearest(name, names())}")
