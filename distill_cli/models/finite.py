"""Weights that are numbers: what is NaN or infinite is of no use."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, equal

from distill_cli.sharding import whole


def first_not_finite(weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> str | None:
    """The first tensor that holds NaN or infinity, in words; None where there is none.

    Args:
        weights: Parameters and buffers by name; what lies in parts on ranks is gathered, one at a time.
        fresh: Those of a new network. Where it has the same infinity at the same place, it is meant
            to be there: timm's gemma4_vit keeps bounds in buffers.
    """
    for name, kept in weights.items():
        value = whole(kept)
        if not value.is_floating_point() or value.numel() == 0:
            continue
        lowest, highest = value.detach().aminmax()
        if lowest.isfinite() and highest.isfinite():
            continue
        bad = ~value.isfinite()
        if name in fresh and equal(value[bad], fresh[name][bad]):
            continue
        return f"tensor {name} holds {'NaN' if value.isnan().any() else 'infinity'}"
    return None
