"""How the teachers of a dump compute: their arithmetic and rows, which a cache's plan is bound to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from distill_cli.cache.folder import PLAN
from distill_cli.cache.manifest import read_plan
from distill_cli.cache.plan import Plan
from distill_cli.errors import ArtifactError
from distill_cli.recipe.schema import CacheRecipe
from distill_cli.runtime import Runtime, TeacherPrecision, teacher_precision
from distill_cli.types import ViewSpec

# Rows of one forward where nothing is asked for; on a GPU, which few small images leave idle, as many
# as have the pixels of 1,024 images of 32 × 32, at most.
ROWS, MOST_ROWS, PIXELS = 256, 4096, 1024 * 32 * 32


class TeacherForward(NamedTuple):
    """The forward of a dump's teachers.

    Attributes:
        precision: Its arithmetic.
        batch: Its rows.
    """

    precision: TeacherPrecision
    batch: int

    @property
    def recorded(self) -> dict[str, Any]:
        """The keys of the recipe that it settles."""
        return {"teacher_precision": self.precision, "teacher_batch": self.batch}


def begun_plan(folders: Sequence[Path]) -> Plan | None:
    """The plan of the first of these caches that was begun; None where none was."""
    begun = next((folder for folder in folders if (folder / PLAN).exists()), None)
    return None if begun is None else read_plan(begun)


def forward_of(
    recipe: CacheRecipe, spec: ViewSpec, runtime: Runtime, begun: Plan | None
) -> TeacherForward:
    """The forward that a recipe asks for; what it leaves open is that of a dump that was begun.

    Nothing of it depends on the memory that is free: whoever goes on, on another GPU or with
    another part, computes the same labels.

    Args:
        recipe: The dump's.
        spec: Of the views, for their size.
        runtime: Device of the teachers.
        begun: The plan to go on with; None for a new one.
    """
    precision: TeacherPrecision
    if recipe.teacher_precision == "auto" and begun is not None:
        precision = precision_of(begun)
    else:
        precision = teacher_precision(recipe.teacher_precision, runtime.device, recipe.codec)
    if recipe.teacher_batch != "auto":
        return TeacherForward(precision, recipe.teacher_batch)
    if begun is not None:
        return TeacherForward(precision, begun.teacher_batch)
    return TeacherForward(precision, _rows(spec) if runtime.device.type == "cuda" else ROWS)


def _rows(spec: ViewSpec) -> int:
    """The largest power of two whose images have no more than `PIXELS` in all."""
    fitting = max(1, PIXELS // (spec.height * spec.width))
    return min(MOST_ROWS, max(ROWS, 1 << (fitting.bit_length() - 1)))


def precision_of(plan: Plan) -> TeacherPrecision:
    """The arithmetic that a plan names.

    Raises:
        ArtifactError: There is none of this name.
    """
    for precision in get_args(TeacherPrecision):
        if plan.precision == precision:
            known: TeacherPrecision = precision
            return known
    raise ArtifactError(f"the plan's teachers compute in '{plan.precision}', which is not known")
