"""`distill teacher train`."""

from __future__ import annotations

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import RunFlags, verb
from distill_cli.cli.run_training import run_training
from distill_cli.recipe.schema import TeacherRecipe

app = VerbApp(no_args_is_help=True, help="Train a network with hard labels.")


@app.callback()
def _teacher() -> None:
    pass


@app.command("train")
@verb(TeacherRecipe, ranked=True)
def train(recipe: TeacherRecipe, flags: RunFlags) -> None:
    """Train a network with hard labels: a teacher, or a student to compare with.

    Example: distill teacher train --data digits --model mlp_256x2 --out runs/a
    """
    run_training(recipe, flags)
