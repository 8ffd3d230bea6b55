"""Where the images of a recipe lie: checked before any is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.pipeline.inputs.beside_data import check_beside_data
from distill_cli.pipeline.inputs.moved_data import NAMES, check_moved
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.recipe.base import Recipe


def check_places(
    recipe: Recipe,
    outs: Sequence[Path],
    owners: Sequence[str],
    kept: Callable[[str], Mapping[str, Any]] = lambda name: kept_recipe(Path(name)),
) -> None:
    """Refuses images that are not where a folder's recipe says, and folders that would lie among images.

    Args:
        recipe: The recipe of any verb.
        outs: The folders that are written.
        owners: Folders of runs, models and caches whose images are adopted.
        kept: The recipe of a folder.

    Raises:
        UsageError: With the folder.
    """
    for key in NAMES:
        images: str | None = getattr(recipe, key, None)
        check_moved(images, owners, kept, key=key)
        for out in outs:
            check_beside_data(out, images)


def check_beside_images(out: Path, run: Path, *named: str | None, file: bool = False) -> None:
    """Refuses what is made of a finished run and would lie among the images that it, or the next one, reads.

    Args:
        out: The folder or file that is written.
        run: A run or model folder, whose recipe says where its images are.
        named: Images that the command names itself.
        file: It is a file.

    Raises:
        UsageError: With the images.
    """
    recipe = kept_recipe(run)
    for images in (*named, *map(recipe.get, NAMES)):
        if isinstance(images, str):
            check_beside_data(out, images, file=file)
