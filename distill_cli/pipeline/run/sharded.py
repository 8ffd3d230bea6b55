"""Runs whose networks lie in parts on the ranks: what does not go together with that, and the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill_cli.cache.folder import is_cache
from distill_cli.errors import UsageError
from distill_cli.models import network_fingerprint
from distill_cli.models.sharded import shard
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.schema import HintRecipe, StudentRecipe
from distill_cli.runtime import Runtime
from distill_cli.training.sharded import BY_VALUE, ShardedWeights


def check_shard(recipe: TrainRecipe, teachers: Sequence[str], runtime: Runtime) -> Runtime:
    """Refuses `--shard` where there is nothing to shard, or no way to.

    Args:
        recipe: The run's.
        teachers: Its teachers.
        runtime: The ranks.

    Returns:
        The runtime.

    Raises:
        UsageError: With what to do instead.
    """
    if recipe.shard == "none":
        return runtime
    flag = f"--shard {recipe.shard}"
    if runtime.ranks.alone:
        raise UsageError(
            f"{flag}: this is one process, and ranks share the weights out",
            hint="Add --ranks 2, start torchrun --nproc-per-node 2 -m distill_cli …, or choose --shard none",
        )
    against = []
    if runtime.shards_student:
        against += _against_student(recipe, runtime)
    if runtime.shards_teachers:
        against += _against_teachers(recipe, teachers)
    if recipe.compile is True:
        against.append(("--compile", "a compiled forward does not gather weights block by block"))
    for option, reason in against:
        raise UsageError(f"{flag} and {option} do not go together: {reason}")
    return runtime


def _against_student(recipe: TrainRecipe, runtime: Runtime) -> list[tuple[str, str]]:
    """What a recipe asks for that a student in parts cannot be, and why."""
    reasons = {
        "--ema": (recipe.ema is not None, "the average is of whole weights"),
        "clip_mode agc": (
            recipe.clip_mode == "agc",
            "it bounds each unit's gradient, and a unit may lie on two ranks",
        ),
        "--precision fp16": (
            runtime.precision == "fp16",
            "whether a step is skipped would be decided by each rank; choose bf16 or fp32",
        ),
        "hint-init": (
            isinstance(recipe, HintRecipe),
            "its forward ends in the middle; --shard teachers goes",
        ),
    }
    return [(option, reason) for option, (asked, reason) in reasons.items() if asked]


def _against_teachers(recipe: TrainRecipe, teachers: Sequence[str]) -> list[tuple[str, str]]:
    """The same of live teachers."""
    if all(is_cache(Path(name)) for name in teachers):
        return [("teachers that are no live networks", "there is nothing to share out")]
    each = "a rank asks those of its own images alone, and all ranks gather a teacher at once"
    if isinstance(recipe, StudentRecipe) and recipe.random_per == "sample":
        return [("--random-per sample", each)]
    if isinstance(recipe, StudentRecipe) and recipe.mode == "relabel" and len(teachers) > 1:
        return [("--mode relabel", each)]
    return []


def sharded(prepared: PreparedRun) -> PreparedRun:
    """The run, its student in parts on the ranks and on the device.

    Raises:
        UsageError: What it learns by cannot be computed of parts.
    """
    network, runtime = prepared.network, prepared.runtime
    flag = f"--shard {runtime.shard}"
    if judging := prepared.layers.composition.judging:
        raise UsageError(
            f"{flag} and objective '{judging[0]}' do not go together: it undoes epochs, for which the "
            "weights are kept whole"
        )
    if type(prepared.optimizer) not in BY_VALUE:
        raise UsageError(
            f"{flag} and --opt {prepared.recipe.opt} do not go together: it looks at whole weights",
            hint="Choose sgd, adam or adamw",
        )
    start, before = network_fingerprint(network), list(network.parameters())
    shard(network, runtime.device)
    prepared.layers.adapters.to(runtime.device)
    weights = ShardedWeights(network, runtime.ranks)
    weights.own(prepared.optimizer, before)
    return replace(prepared, weights=weights, start=start)
