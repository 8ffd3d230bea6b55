"""`distill student`."""

from __future__ import annotations

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import RunFlags, verb
from distill_cli.cli.run_training import run_training
from distill_cli.recipe.schema import StudentRecipe

app = VerbApp()


@app.command()
@verb(StudentRecipe, ranked=True)
def student(recipe: StudentRecipe, flags: RunFlags) -> None:
    """Train a student from one teacher, an ensemble, one drawn at random, or relabelled data.

    Data and split come from the teachers, the model from the data, unless you say otherwise.

    --hints begins with a middle layer of the teacher, --generations goes on with
    students of students; their runs lie in stages/ of the folder.

    Example: distill student --teachers runs/a,runs/b --mode random
    """
    run_training(recipe, flags)
