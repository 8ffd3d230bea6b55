"""What teachers are shown where that is not what the student sees: views of a parallel data set, or a cache's."""

from __future__ import annotations

from dataclasses import replace

from distill_cli.data.dataset import Dataset
from distill_cli.errors import UsageError
from distill_cli.pipeline.inputs.data import view_spec
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.types import ViewSpec

# The value of --teacher-augment that means the views of a cache.
OF_CACHE = "cache"


def check_size(dataset: Dataset, cached: ViewSpec) -> None:
    """Refuses a cache of views of another size or colour than the images at hand.

    Raises:
        UsageError: With the way on.
    """
    ours, its = dataset.plain_view, cached.plain
    if ours != its:
        shown = [
            f"{v.height}×{v.width} {'grey' if v.channels == 1 else 'colour'}" for v in (its, ours)
        ]
        raise UsageError(
            f"the cache's views are {shown[0]}, and the student's images {shown[1]}",
            hint="Say with --teacher-data which images it was made of: they may be the same files",
        )


def beside_cache(
    recipe: StudentRecipe, dataset: Dataset, cached: ViewSpec, parallel: Dataset
) -> tuple[ViewSpec, ViewSpec]:
    """The student's views, of images of its own size, beside those of a cache.

    They are augmented as the cache's are, draw by draw, unless the recipe says otherwise.

    Raises:
        ArtifactError: A flag contradicts the cache, or its images were made otherwise.
    """
    asked = recipe.teacher_augment
    steps = None if asked in (None, [OF_CACHE]) else asked
    shown = recipe.model_copy(update={"augment": steps, "view_seed": None})
    teacher = view_spec(shown, parallel, cached)
    known = {"augment": list(cached.augment) or ["none"], "view_seed": cached.seed}
    update = {key: value for key, value in known.items() if getattr(recipe, key) is None}
    return view_spec(recipe.model_copy(update=update), dataset, None), teacher


def of_parallel(recipe: StudentRecipe, parallel: Dataset, student: ViewSpec) -> ViewSpec:
    """Views of a parallel data set: augmented as the student's are, unless the recipe says otherwise."""
    if recipe.teacher_augment is not None:
        shown = recipe.model_copy(update={"augment": recipe.teacher_augment})
        return view_spec(shown, parallel, None)
    return replace(
        student,
        channels=parallel.channels,
        height=parallel.height,
        width=parallel.width,
        source="files" if parallel.from_files else "table",
        framing=parallel.framing,
    )
