"""A run that is opened and checked, and what identifies it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from distill_cli.data.dataset import Dataset
from distill_cli.models import Network
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.pipeline.objective.layers import Layers
from distill_cli.recipe.base import TrainRecipe
from distill_cli.runtime import Runtime
from distill_cli.types import Teacher, ViewSpec

# Keys that do not change what is trained, so that a resumed run may have others.
NOT_TRAINING = {
    *("out", "require", "about", "recorded", "device", "threads", "workers", "data", "teachers"),
    *("force", "class_map"),
}


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """Everything a run needs, opened and checked; nothing is written yet."""

    recipe: TrainRecipe
    runtime: Runtime
    dataset: Dataset
    spec: ViewSpec
    stored_views: int | None
    members: tuple[Member, ...]
    teacher: Teacher | None
    layers: Layers
    network: Network
    optimizer: torch.optim.Optimizer

    @property
    def run(self) -> Path:
        """The run folder."""
        assert self.recipe.out is not None, "resolved by `prepare`"
        return Path(self.recipe.out)

    @property
    def key(self) -> str:
        """Identifies what is trained from what: recipe, data and teachers."""
        return self.key_of(self.recipe.model_dump(mode="json", exclude=NOT_TRAINING))

    def key_of(self, values: Mapping[str, Any]) -> str:
        """The same, of a recipe in other words.

        Args:
            values: Its keys, but for those of `NOT_TRAINING`.
        """
        teacher = None if self.teacher is None else self.teacher.fingerprint
        parts = [values, self.dataset.identity.to_json(), self.spec.to_json(), teacher]
        # What objectives were told of the classes: a file or a run may be another one by now.
        parts += [self.layers.context_fingerprint] if self.layers.context_fingerprint else []
        return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
