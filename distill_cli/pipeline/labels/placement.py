"""Where a dump is made, and the tasks that it is divided into. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from distill_cli.errors import counted
from distill_cli.pipeline.engines.protocol import Engine
from distill_cli.recipe.schema import CacheRecipe


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a dump is made.

    Attributes:
        name: The engine's name, as the command line has it.
        engine: The engine.
        tasks: Tasks that the missing shards are divided into; None for the engine's default.
        staging: Address of a place that workers store files in; None where they share the disk.
    """

    name: str
    engine: Engine
    tasks: int | None = None
    staging: str | None = None

    def task_count(self, shards: int) -> int:
        """The number of tasks of so many shards."""
        return min(self.tasks or self.engine.task_count(shards), shards)


def threads_of(recipe: CacheRecipe) -> int:
    """Threads of a worker, which it is told: not as many as its machine happens to have."""
    return recipe.threads or 1


def runs(units: int, count: int) -> list[tuple[int, int]]:
    """Consecutive units as `count` ranges (start, stop), as long as each other to within one."""
    return [(units * n // count, units * (n + 1) // count) for n in range(count)]


def in_words(placement: Placement, shards: int) -> str:
    """The tasks of so many shards, for a person."""
    count = placement.task_count(shards)
    if not count:
        return f"nothing is missing: no task on {placement.name}"
    sizes = sorted({stop - start for start, stop in runs(shards, count)})
    each = " or ".join(f"{size:,}" for size in sizes)
    unit = "shard" if sizes == [1] else "shards"
    return f"{counted(count, 'task')} of {each} {unit} on {placement.name}"
