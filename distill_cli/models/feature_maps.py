"""Outputs of layers as maps (B, C, H, W), whatever the network's layout. Shapes: see `types`."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from distill_cli.models.network import Network


def is_feature(out: Any, rows: int) -> bool:
    """Whether an output is one tensor with one row for each image."""
    if not (isinstance(out, Tensor) and out.is_floating_point()):
        return False
    return out.ndim in (2, 3, 4) and len(out) == rows


def as_map(network: Network, out: Tensor) -> Tensor:
    """(B, C), tokens (B, N, C) or maps of either layout as (B, C, H, W)."""
    if out.ndim == 2:
        return out[:, :, None, None]
    if out.ndim == 3:
        return _from_tokens(network.net, out)
    _, first, second, third = out.shape
    # The sides of a map have the ratio of the images' sides; another pair may have it by chance.
    _, height, width = network.input_size
    sides = ((first, second), (second, third))
    last, usual = (abs(math.log(a * width / (b * height))) for a, b in sides)
    chance = last == usual and getattr(network.net, "output_fmt", "NCHW") == "NHWC"
    return out.permute(0, 3, 1, 2) if last < usual or chance else out


def _from_tokens(net: nn.Module, out_BNC: Tensor) -> Tensor:
    """Tokens as a map; class and register tokens are left out."""
    count = out_BNC.shape[1]
    leading = (int(getattr(net, "num_prefix_tokens", 0)), 0)
    sizes = (getattr(module, "grid_size", None) for module in net.modules())
    grid = next((size for size in sizes if isinstance(size, tuple) and len(size) == 2), None)
    known = [(skip, grid) for skip in leading if grid and math.prod(grid) == count - skip]
    roots = [(skip, math.isqrt(count - skip)) for skip in leading if count > skip]
    squares = [(skip, (side, side)) for skip, side in roots if side**2 == count - skip]
    # The grid of the patches counts before any square: 10 tokens of 2×5 are not 1 and 3×3.
    skip, size = [*known, *squares, (0, (1, count))][0]
    map_BCHW: Tensor = out_BNC[:, skip:].transpose(1, 2).unflatten(2, size)
    return map_BCHW
