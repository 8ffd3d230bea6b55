"""The weights that a run saved, and whether two runs saved the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The tensors of the model of a run."""
    return load_file(run / "model" / "model.safetensors")


def recipe_of(run: Path) -> dict[str, Any]:
    """The recipe of a run without the place where it was written."""
    recipe: dict[str, Any] = yaml.safe_load((run / "recipe.yaml").read_text())
    recorded = {key: value for key, value in recipe["recorded"].items() if key != "folder"}
    return {**recipe, "out": "", "recorded": recorded}


def same(a: Path, b: Path) -> bool:
    """Whether the models of two runs are equal to the bit."""
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
