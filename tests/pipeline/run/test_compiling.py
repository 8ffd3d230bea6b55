"""Whether a network is compiled: as asked, or where a long training on a GPU pays for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill_cli.objectives.compose import Composition
from distill_cli.pipeline.objective.layers import Layers
from distill_cli.pipeline.run.compiling import STEPS, compiles
from distill_cli.recipe.schema import TeacherRecipe
from distill_cli.runtime import Runtime


@pytest.mark.parametrize(
    ("asked", "device", "steps", "deterministic", "taps", "expected"),
    [
        ("auto", "cuda", STEPS, False, (), True),
        ("auto", "cuda", STEPS - 1, False, (), False),
        ("auto", "cuda", STEPS, True, (), False),
        ("auto", "cuda", STEPS, False, ("penultimate",), False),
        ("auto", "cpu", STEPS, False, (), False),
        (True, "cpu", 1, False, (), True),
        (False, "cuda", STEPS, False, (), False),
    ],
)
def test_by_device_and_length(
    asked: bool,
    device: str,
    steps: int,
    deterministic: bool,
    taps: tuple[str, ...],
    expected: bool,
) -> None:
    runtime = Runtime(device=torch.device(device), threads=1, deterministic=deterministic)
    layers = Layers(composition=Composition(()), adapters=nn.ModuleDict(), taps=taps)
    assert compiles(TeacherRecipe(compile=asked), runtime, layers, steps) is expected
