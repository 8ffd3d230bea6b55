"""The option that makes one recipe several runs, one a seed."""

from __future__ import annotations

from distill_cli.recipe.fields import RUN, Seeds, option
from distill_cli.recipe.left_out import LeavesOut


class SeedOptions(LeavesOut):
    """The seeds of every verb that trains."""

    seeds: Seeds | None = option(
        None,
        "Several runs, one a seed, in seed-N of the output folder: a count (--seed, --seed + 1, …), or "
        "a list by commas. seeds.json has their mean ± sd.",
        RUN,
        unwritten=True,
    )

    def left_out(self) -> set[str]:
        """A list leaves no `seed` open."""
        return super().left_out() | ({"seed"} if isinstance(self.seeds, list) else set())
