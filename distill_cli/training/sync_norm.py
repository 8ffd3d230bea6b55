"""Batch norm over the samples of all ranks, for any network that calls torch's batch norm.

torch's own SyncBatchNorm refuses CPUs. Shapes: R ranks, B samples of this rank, C channels, S positions
of a map; n = B·S values of a channel on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from distill_cli.ranks import Ranks


class SyncedNorm(TorchFunctionMode):
    """While it lasts, `torch.nn.functional.batch_norm` in training is over the samples of all ranks.

    Args:
        ranks: The ranks, each with as many samples.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answers a call of batch norm; others as they are."""
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        names = (
            "input",
            "running_mean",
            "running_var",
            "weight",
            "bias",
            "training",
            "momentum",
            "eps",
        )
        values: dict[str, Any] = {
            "weight": None,
            "bias": None,
            "training": False,
            "momentum": 0.1,
            "eps": 1e-5,
        }
        values |= {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        if not values["training"]:
            return func(*args, **(kwargs or {}))
        return synced_norm(ranks=self.ranks, **values)


def synced_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    ranks: Ranks,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in training, over the samples of all ranks.

    Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 1. Mean and variance are joined from those of the
    ranks, each about its own mean (Chan et al. 1979), rather than from sums of squares, which cancel.

    Args:
        input: (B, C, …) values, in any precision; statistics are in fp32 or fp64.
        running_mean: fp32 or fp64 (C), moved in place; None for none.
        running_var: The same of the unbiased variance.
        weight: (C), or None for 1.
        bias: (C), or None for 0.
        training: True.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.
        ranks: The ranks, each with as many samples.
    """
    wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    normal: Tensor
    normal, mean_C, var_C = _Normalise.apply(wide, eps, ranks)
    if running_mean is not None and running_var is not None:
        count = ranks.count * (input.numel() // input.shape[1])
        with torch.no_grad():
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            unbiased_C = var_C * (count / max(count - 1, 1))
            running_var.lerp_(unbiased_C.to(running_var.dtype), momentum)
    shape = (1, -1, *(1,) * (input.ndim - 2))
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    return normal.to(input.dtype)


class _Normalise(torch.autograd.Function):
    """(x − mean) / √(var + eps) by channel, over all ranks; and mean and biased variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        var_C, mean_C = torch.var_mean(x, dim=axes, correction=0)
        both_R2C = ranks.gather(torch.stack([mean_C, var_C])[None])
        mean_RC, var_RC = both_R2C.unbind(1)
        mean_C = mean_RC.mean(dim=0)
        var_C = (var_RC + (mean_RC - mean_C) ** 2).mean(dim=0)
        inverse_C = (var_C + eps).rsqrt()
        normal = (x - mean_C.view(shape)) * inverse_C.view(shape)
        ctx.save_for_backward(normal, inverse_C)
        ctx.ranks, ctx.axes, ctx.shape = ranks, axes, shape
        ctx.mark_non_differentiable(mean_C, var_C)
        return normal, mean_C, var_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient, (normal, inverse_C) = gradients[0], ctx.saved_tensors
        sums_2C = torch.stack(
            [gradient.sum(dim=ctx.axes), (gradient * normal).sum(dim=ctx.axes)]
        ).contiguous()
        ctx.ranks.add(sums_2C)
        sum_C, scaled_C = sums_2C / (ctx.ranks.count * (gradient.numel() // gradient.shape[1]))
        centred = gradient - sum_C.view(ctx.shape) - normal * scaled_C.view(ctx.shape)
        return centred * inverse_C.view(ctx.shape), None, None
