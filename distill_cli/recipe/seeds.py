"""Several seeds of one recipe, as plain recipes: each is the ordinary run of that seed alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from distill_cli.errors import UsageError
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.parsing import SEED_LIMIT

# The recipe of all seeds, in the folder that holds their runs.
SEEDS = "seeds.yaml"
RUN_OF_SEED = re.compile(r"seed-(\d+)")


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """The run of one seed of several.

    Attributes:
        seed: The seed.
        recipe: With seed and folder, as if it were the only one.
    """

    seed: int
    recipe: TrainRecipe

    @property
    def out(self) -> Path:
        """Its run folder."""
        return Path(str(self.recipe.out))

    @property
    def is_done(self) -> bool:
        """Whether it is finished."""
        return (self.out / "result.json").is_file()


def seeds_of(recipe: TrainRecipe) -> list[int]:
    """The seeds that a recipe names or counts, in its order.

    Raises:
        UsageError: It names each of them and another one too, or counts beyond the largest.
    """
    assert recipe.seeds is not None, "asked before"
    if isinstance(recipe.seeds, list):
        if "seed" in recipe.model_fields_set:
            raise UsageError(
                f"--seeds {','.join(map(str, recipe.seeds))} names every seed, and --seed "
                f"{recipe.seed} another",
                hint="Leave --seed out, or give --seeds a count",
            )
        return recipe.seeds
    if recipe.seed + recipe.seeds > SEED_LIMIT:
        raise UsageError(f"--seeds {recipe.seeds} from --seed {recipe.seed} on leads beyond 2^63")
    return list(range(recipe.seed, recipe.seed + recipe.seeds))


def seed_runs(recipe: TrainRecipe, out: Path) -> list[SeedRun]:
    """The runs that a recipe of several seeds means.

    Raises:
        UsageError: As `seeds_of`.
    """
    return [
        SeedRun(
            seed=seed,
            recipe=recipe.model_copy(
                update={"seed": seed, "seeds": None, "out": str(out / f"seed-{seed}")}
            ),
        )
        for seed in seeds_of(recipe)
    ]
