"""Logits and labels that several tests of losses draw. Shapes: B samples, K classes."""

from __future__ import annotations

import torch
from torch import Tensor


def student_and_teacher(
    samples: int, classes: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits z of a student and v of a teacher, (B, K), and labels y, (B)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, classes)
    z = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    v = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return z.to(dtype), v.to(dtype), torch.randint(0, classes, (samples,), generator=generator)


def labelled(
    samples: int, classes: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Logits z, (B, K), and labels y, (B)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, classes, generator=generator, dtype=torch.float64) * 3
    return z.to(dtype), torch.randint(0, classes, (samples,), generator=generator)
