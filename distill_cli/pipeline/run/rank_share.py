"""What each of several ranks sees of a batch, and what cannot be shared out."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill_cli.errors import UsageError
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.types import WHOLE, Share


def share_of(prepared: PreparedRun) -> Share:
    """The share of this process.

    Raises:
        UsageError: Ranks do not divide the batch, or each gets too little of it.
    """
    recipe, ranks = prepared.recipe, prepared.runtime.ranks
    if ranks.alone:
        return WHOLE
    if recipe.compile and recipe.sync_bn:
        raise UsageError("--sync-bn and --compile do not go together", hint="Leave one of them out")
    parts = ranks.count * recipe.accumulate
    if recipe.batch_size % parts:
        below = recipe.batch_size // parts * parts
        near = " or ".join(f"{size:,}" for size in (below, below + parts) if size)
        accumulated = f" × --accumulate {recipe.accumulate}" if recipe.accumulate > 1 else ""
        raise UsageError(
            f"--batch-size {recipe.batch_size:,} is not divided by {ranks.count} ranks{accumulated}",
            hint=f"The nearest that is: {near}",
        )
    normed = has_batch_norm(prepared.network)
    if normed and not recipe.sync_bn and recipe.batch_size // parts < 2:
        raise UsageError(
            f"--batch-size {recipe.batch_size:,} leaves each of {ranks.count} ranks one image at a "
            "time, and batch norm needs two at least",
            hint="Choose a larger --batch-size, fewer ranks, or --sync-bn",
        )
    return Share(rank=ranks.number, ranks=ranks.count, parts=recipe.accumulate)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether samples of a network see each other, in batch norm."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())
