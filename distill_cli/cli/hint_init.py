"""`distill hint-init`."""

from __future__ import annotations

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import RunFlags, verb
from distill_cli.cli.run_training import run_training
from distill_cli.recipe.schema import HintRecipe

app = VerbApp()


@app.command()
@verb(HintRecipe, ranked=True)
def hint_init(recipe: HintRecipe, flags: RunFlags) -> None:
    """Start a student from a middle layer of its teacher: FitNets, stage 1.

    Trains the student up to its guided layer to predict the teacher's hint layer through a
    regressor, which is not kept. `distill student --hints` does both stages in one run.

    Example: distill hint-init --teachers runs/a --model fitnet_1 --out runs/hints
    """
    run_training(recipe, flags)
