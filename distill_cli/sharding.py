"""Tensors that lie in parts on several ranks (torch's DTensor), and plain ones: what is asked of either.

A sharded tensor (n, …) has its rows on the ranks one after another; one of fewer rows than ranks leaves
some without any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(value: object) -> TypeGuard[DTensor]:
    """Whether it is a tensor that lies in parts on several ranks."""
    # Asked of every tensor of every run: only who shards imports torch's module, which takes a second.
    return isinstance(value, Tensor) and hasattr(value, "placements")


def local(tensor: Tensor) -> Tensor:
    """The part that lies on this rank, whose memory it shares; all of a plain tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, gathered where it lies in parts: every rank asks at once."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def rows_of(tensor: DTensor) -> slice:
    """The rows of the whole that lie on this rank."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, start = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return slice(start[0], start[0] + shape[0])


def laid_as(like: Tensor, rows: Callable[[slice], Tensor]) -> Tensor:
    """A tensor that lies on the ranks as another does, of that one's shape.

    Args:
        like: The other.
        rows: Gives rows of the whole, on any device.
    """
    if not is_sharded(like):
        return rows(slice(0, len(like)) if like.ndim else slice(None))
    from torch.distributed.tensor import DTensor

    own = rows(rows_of(like)).to(like.device).contiguous()
    return DTensor.from_local(
        own,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Writes a whole value, which this rank has, into a tensor of either kind."""
    rows = rows_of(tensor) if is_sharded(tensor) else slice(None)
    local(tensor).copy_(value[rows] if value.ndim else value)
