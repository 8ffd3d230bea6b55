"""`distill self-train`."""

from __future__ import annotations

from distill_cli.cli.command import VerbApp
from distill_cli.cli.options import RunFlags, verb
from distill_cli.cli.run_training import run_training
from distill_cli.recipe.schema import SelfTrainRecipe

app = VerbApp()


@app.command()
@verb(SelfTrainRecipe, ranked=True)
def self_train(recipe: SelfTrainRecipe, flags: RunFlags) -> None:
    """Train on few labels, label the other images, train on those too, and again.

    Round 1 learns the labels that are known. Each round then labels the images without, as they are, and the
    next one learns from those of which it was sure, augmented. All rounds are runs in stages/ of the folder.

    Example: distill self-train --data photos/ --unlabelled more/ --threshold 0.9
    """
    run_training(recipe, flags)
