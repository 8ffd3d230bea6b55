"""Whether the network of a run is compiled."""

from __future__ import annotations

from distill_cli.pipeline.objective.layers import Layers
from distill_cli.recipe.base import TrainRecipe
from distill_cli.runtime import Runtime

# Steps from which on `auto` compiles. On H200s a recorded step of resnet20 at batch 128 took 2.6 ms and
# a compiled one 2.1 ms, and compiling resnet20 and a resnet56 as its teacher some 16 s: 32,000 steps.
STEPS = 50_000


def compiles(recipe: TrainRecipe, runtime: Runtime, layers: Layers, steps: int) -> bool:
    """What a recipe says, or what `auto` is for it; a run records it, and goes on by it.

    Compiled kernels sum in an order of their own, so that `auto` leaves deterministic runs alone.
    A network whose layers are looked at is not compiled, for what looks is a hook; nor is one whose
    weights are gathered block by block.

    Args:
        recipe: The run's.
        runtime: Its device, and whether it is deterministic.
        layers: The layers that its objectives look at.
        steps: Steps of the whole training.
    """
    if recipe.compile != "auto":
        return recipe.compile
    pays = runtime.device.type == "cuda" and steps >= STEPS
    looked_at = bool(layers.taps or layers.composition.judging)
    return pays and not runtime.deterministic and not looked_at and runtime.shard == "none"
