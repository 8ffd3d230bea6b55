"""The option that makes one recipe several runs, one a seed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

from distill_cli.recipe.fields import RUN, Seeds, option


class SeedOptions(BaseModel):
    """The seeds of every verb that trains."""

    seeds: Seeds | None = option(
        None,
        "Several runs, one a seed, in seed-N of the output folder: a count (--seed, --seed + 1, …), or "
        "a list by commas. seeds.json has their mean ± sd.",
        RUN,
    )

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run of one seed is written as if there were no `seeds`; a list leaves no `seed` open."""
        values: dict[str, Any] = handler(self)
        if self.seeds is None:
            values.pop("seeds", None)
        elif isinstance(self.seeds, list):
            values.pop("seed", None)
        return values
