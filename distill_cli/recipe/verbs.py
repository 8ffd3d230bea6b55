"""The recipe class of every command that takes one."""

from __future__ import annotations

from distill_cli.recipe.foreign import ImportRecipe
from distill_cli.recipe.schema import CacheRecipe, Recipe, StudentRecipe, TeacherRecipe

RECIPES: dict[str, type[Recipe]] = {
    cls.COMMAND: cls for cls in (TeacherRecipe, StudentRecipe, CacheRecipe, ImportRecipe)
}
