"""The machine that a training recipe means."""

from __future__ import annotations

from dataclasses import replace

from distill_cli.recipe.base import TrainRecipe
from distill_cli.runtime import Runtime, decide


def runtime_of(recipe: TrainRecipe) -> Runtime:
    """Device, threads, determinism and precision that a recipe means on this machine."""
    runtime = decide(
        recipe.device,
        threads=recipe.threads,
        deterministic=recipe.deterministic,
        precision=recipe.precision,
        timeout=recipe.rank_timeout.seconds,
    )
    return replace(runtime, shard=recipe.shard)
